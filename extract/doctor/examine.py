"""Asks this machine, its cluster, the storage and the hub what the checks need, one check after the other."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

from extract.config import ExtractPipeline
from extract.estimate.estimate import Estimate, Size, estimate
from extract.teacher_files.digests import keeping_none
from store.errors import ConfigError, MMKDError, StoreError, StoreNotFoundError
from store.format.records import read_store_info
from store.io.folder import Folder
from store.io.location import Location, locate
from store.io.lock import holder

from . import cluster, machine, place, sources
from .finding import Finding, within, worse

ADDRESS = "RAY_ADDRESS"
SHARED = Path("/dev/shm")  # noqa: S108 - looked at, not written
MAP_COUNT = Path("/proc/sys/vm/max_map_count")
MEMORY = Path("/proc/meminfo")


def examine(pipeline: ExtractPipeline, *, options: str, profile: Path | None = None) -> Iterator[Finding]:
    """Yield what each check finds, as soon as it is known.

    Args:
        options: name the pipeline and its file in the commands that are to be run next.
        profile: JSON of ``python -m extract teachers --profile``, for the memory that teachers need.

    Raises:
        ConfigError: the profile cannot be read.
    """
    measured = None if profile is None else _read_profile(profile)
    with keeping_none():
        yield from _each(pipeline, options, measured)


def _each(pipeline: ExtractPipeline, options: str, measured: Mapping[str, Any] | None) -> Iterator[Finding]:
    address = os.environ.get(ADDRESS)
    found = _torch()
    yield machine.python(sys.version_info[:3])
    yield machine.torch_and_driver(found, device=pipeline.extract.device, elsewhere=address is not None)
    sizes: dict[str, int | None] = {}
    missing: list[str] = []
    for name, entry in pipeline.teachers.items():
        finding, sizes[name] = sources.weights(name, entry, next_=_origin(pipeline, name, options))
        missing += [name] if finding.state == "fail" else []
        yield finding
    yield _memory(pipeline, found, sizes, measured, options)
    yield sources.hub(ENDPOINT, offline=HF_HUB_OFFLINE, entries=pipeline.teachers, missing=missing)
    corpus = pipeline.store.corpus
    yield sources.corpus(corpus, pipeline.corpora.get(corpus or ""))
    yield from _store(pipeline, options)
    yield from _ray(address)
    free = shutil.disk_usage(SHARED).free if SHARED.is_dir() else None
    from extract.cluster.connect import OBJECT_STORE_BYTES

    yield machine.shared_memory(free, needed=OBJECT_STORE_BYTES)
    yield machine.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield machine.maps(int(MAP_COUNT.read_text()) if MAP_COUNT.is_file() else None)


def _torch() -> machine.Torch:
    import torch

    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    built = torch.version.cuda
    return machine.Torch(
        version=torch.__version__,
        cuda=(int(built.split(".")[0]), int(built.split(".")[1])) if built else None,
        driver=_driver(),
        devices={f"cuda:{number} ({card.name})": int(card.total_memory) for number, card in enumerate(cards)},
    )


def _driver() -> tuple[int, int] | None:
    version = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def _memory(
    pipeline: ExtractPipeline,
    found: machine.Torch,
    sizes: Mapping[str, int | None],
    measured: Mapping[str, Any] | None,
    options: str,
) -> Finding:
    elsewhere = ADDRESS in os.environ
    measure = f"python -m extract teachers {options} --profile --json > FILE, then doctor {options} --profile FILE"
    if measured is None:
        lacking = tuple(name for name, nbytes in sizes.items() if nbytes is None)
        need = machine.Need(nbytes=sum(filter(None, sizes.values())), measured=False, missing=lacking)
    else:
        known = [measured[name] for name in pipeline.teachers if name in measured]
        work = max((one["peak_bytes"] - one["parameter_bytes"] for one in known), default=0)
        lacking = tuple(name for name in pipeline.teachers if name not in measured)
        nbytes = sum(one["parameter_bytes"] for one in known) + work
        need = machine.Need(nbytes=nbytes, measured=True, missing=lacking)
    section = pipeline.extract
    if section.device == "cuda":
        sharing = int(1 / section.gpus_per_worker)
        workers = min(sharing, section.workers or sharing)
        return machine.memory(need, found.devices, workers=workers, elsewhere=elsewhere, measure=measure)
    workers = section.workers or max(1, int((os.cpu_count() or 1) // section.asked["CPU"]))
    return machine.memory(need, {"this machine": _available()}, workers=workers, elsewhere=elsewhere, measure=measure)


def _available() -> int:
    lines = MEMORY.read_text().splitlines() if MEMORY.is_file() else []
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if kilobytes is None else 1024 * kilobytes


def _read_profile(path: Path) -> dict[str, Any]:
    try:
        teachers: dict[str, Any] = json.loads(path.read_bytes())["teachers"]
        for one in teachers.values():
            int(one["peak_bytes"]), int(one["parameter_bytes"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--profile {path}: not the JSON of a profile of teachers: {error!r}",
            hint="python -m extract teachers --profile --json > FILE makes it",
        ) from error
    return teachers


def _origin(pipeline: ExtractPipeline, name: str, options: str) -> str:
    """Return the command that makes or fetches a teacher's files, nothing where there is none."""
    trained = pipeline.train.get("pretrain") if isinstance(pipeline.train, dict) else None
    if isinstance(trained, dict) and name in trained:
        return f"python -m train pretrain {options} --run {name}"
    return f"python -m extract fetch {name} {options}" if pipeline.teachers[name].download else ""


def _store(pipeline: ExtractPipeline, options: str) -> Iterator[Finding]:
    store = locate(pipeline.store.path)
    if isinstance(store, Folder):
        yield place.locks(store)
    else:
        storage = place.conditions(store)
        yield storage
        if storage.state == "fail":
            return
    finding, size = _planned(pipeline, store, options)
    yield finding
    if isinstance(store, Folder):
        folder = place.existing(store.path)
        there = os.statvfs(folder)
        yield place.room(folder, free=there.f_bavail * there.f_frsize, nbytes=size.nbytes if size else None)
        free = there.f_favail if there.f_files else None
        yield place.inodes(folder, free=free, objects=size.objects if size else None)


def _planned(pipeline: ExtractPipeline, store: Location, options: str) -> tuple[Finding, Size | None]:
    """Say what a run will write, as `plan` does; None where that is not known yet."""
    unknown = f"{store}: what a run writes is not known"
    command = f"python -m extract plan {options} --probe 0"
    try:
        within(place.ANSWER_S, lambda: read_store_info(store))
        if writer := holder(store):
            text = f"{store}: {writer} writes to it"
            return Finding("store", "warn", text, f"python -m extract status {options}"), None
        if not all(sources.is_quick(entry) for entry in pipeline.teachers.values()):
            return Finding("store", "warn", f"{unknown} before large weights are read once", command), None
        return _compared(estimate(pipeline, probe_s=0), options)
    except StoreNotFoundError:
        index = f"python -m extract index {options}"
        return Finding("store", "warn", f"{unknown}: it is not indexed yet", index), None
    except (TimeoutError, MMKDError) as error:
        state = worse(fails=isinstance(error, StoreError))
        return Finding("store", state, f"{unknown}: {error}", getattr(error, "hint", None) or command), None


def _compared(found: Estimate, options: str) -> tuple[Finding, Size]:
    if found.replaced:
        names = ", ".join(found.replaced)
        text = f"{found.store} has features of {names} by another spec, which a run refuses"
        replace = "".join(f" --replace {name}" for name in found.replaced)
        return Finding("store", "fail", text, f"python -m extract run {options}{replace}"), found.size
    to_do = f"{found.units - found.committed:,} of {found.units:,} units to do"
    return Finding("store", "ok", f"{found.store}: {found.rows:,} rows, {to_do}"), found.size


def _ray(address: str | None) -> Iterator[Finding]:
    token = (
        os.environ.get("RAY_AUTH_TOKEN")
        or Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").is_file()
    )
    yield cluster.mode(importlib.metadata.version("ray"), os.environ.get("RAY_AUTH_MODE"), has_token=bool(token))
    yield cluster.cluster(address)
    yield cluster.ports({port: cluster.is_taken(port) for port in cluster.PORTS}, address=address)
