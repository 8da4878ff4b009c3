"""Judges this machine: Python, torch and its driver, memory, shared memory, limits. Asks nobody, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from store.read.mapped import MAPS

from .finding import Finding, gb, worse

LEAST_PYTHON = (3, 11)

LEAST_FILES, GOOD_FILES = 256, 1024
"""Open files with which a driver of Ray with a few workers still runs, and with which it has room to spare."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Torch:
    """The installed torch and what it sees.

    Attributes:
        cuda: version of CUDA that it was built for, None for a build without.
        driver: the newest version of CUDA that the driver supports, None without a driver.
        devices: total bytes of each visible card, by its name.
    """

    version: str
    cuda: tuple[int, int] | None
    driver: tuple[int, int] | None
    devices: Mapping[str, int]


@dataclass(kw_only=True, frozen=True, slots=True)
class Need:
    """Memory that one worker needs on its device.

    Attributes:
        nbytes: of all teachers at once.
        measured: by a profile; else it is the size of the weights' files.
        missing: teachers that it does not count.
    """

    nbytes: int
    measured: bool
    missing: tuple[str, ...] = ()


def python(version: tuple[int, int, int]) -> Finding:
    """Judge the version of Python."""
    said = f"Python {'.'.join(map(str, version))}; every node of a cluster must have the same"
    if version[:2] >= LEAST_PYTHON:
        return Finding("python", "ok", said)
    return Finding("python", "fail", f"{said}, and 3.11 or newer is needed", "install Python 3.11 and make .venv anew")


def torch_and_driver(found: Torch, *, device: str, elsewhere: bool) -> Finding:
    """Judge torch and the driver.

    Args:
        device: the pipeline's ``extract.device``.
        elsewhere: the workers run on a cluster that was there before, which may have cards that this machine lacks.
    """
    name, here = "torch", f"torch {found.version}"
    if device == "cpu":
        if found.devices:
            cards = f"{here}; visible cards: {len(found.devices)}, but extract.device is cpu"
            return Finding(name, "warn", cards, "--set extract.device=cuda uses them")
        return Finding(name, "ok", f"{here} on the CPU, as extract.device says")
    problem, hint = _problem(found)
    if problem:
        return Finding(name, worse(fails=not elsewhere), f"{here} {problem}", hint)
    return Finding(name, "ok", f"{here} for CUDA {_dotted(found.cuda)}; visible cards: {len(found.devices)}")


def _problem(found: Torch) -> tuple[str, str]:
    """Say why no card can be used, and what to do; two empty texts where one can be."""
    if found.cuda is None:
        return "is a build without CUDA, and extract.device is cuda", "install one for CUDA; --set extract.device=cpu"
    built = f"is built for CUDA {_dotted(found.cuda)}"
    if found.driver is None:
        return f"{built}, and this machine has no driver (libcuda)", "nvidia-smi shows the driver"
    if found.driver[0] < found.cuda[0]:
        newest = f"{built}, and the driver supports CUDA {_dotted(found.driver)} at most"
        return newest, "install a newer driver, or a build of torch for an older CUDA"
    if not found.devices:
        return f"{built}, and no card is visible", "nvidia-smi -L lists the cards; CUDA_VISIBLE_DEVICES may hide them"
    return "", ""


def memory(need: Need, rooms: Mapping[str, int], *, workers: int, elsewhere: bool, measure: str) -> Finding:
    """Compare the memory that teachers need with that of each device.

    Args:
        rooms: bytes by device; nothing where no device is visible.
        workers: how many share one device.
        measure: the command that measures it.
    """
    amount = need.nbytes * max(1, workers)
    each = f"{workers} workers need" if workers > 1 else "a worker needs"
    what = f"{each} {'' if need.measured else 'at least '}{gb(amount)} for all teachers at once"
    if not need.nbytes:
        return Finding("memory", "warn", "no weights are here, so the memory that they need is not known", measure)
    if not rooms:
        return Finding("memory", "warn", f"{what}; no device is visible to compare this with", measure)
    device, room = min(rooms.items(), key=lambda item: item[1])
    said = f"{what}, {device} has {gb(room)}"
    if amount > room:
        fewer = "fewer workers (--set extract.workers=N, extract.gpus_per_worker=1), or a pipeline"
        fewer = fewer if workers > 1 else "use a pipeline"
        return Finding("memory", worse(fails=not elsewhere), said, f"{fewer} with fewer teachers, then join the stores")
    if need.missing:
        text = f"{said}; not counted, for want of their weights or profile: {', '.join(need.missing)}"
        return Finding("memory", "warn", text, measure)
    if not need.measured and 2 * amount > room:
        return Finding("memory", "warn", f"{said}; work on a batch needs more than the weights", measure)
    return Finding("memory", "ok", said)


def shared_memory(free: int | None, *, needed: int) -> Finding:
    """Judge ``/dev/shm``, through which Ray's processes exchange data.

    Args:
        free: None where there is no such folder.
    """
    if free is None:
        return Finding("shared memory", "ok", "this system has no /dev/shm; Ray uses a temporary folder")
    said = f"{gb(free)} are free in /dev/shm, a local Ray takes {gb(needed)}"
    if free >= needed:
        return Finding("shared memory", "ok", said)
    return Finding("shared memory", "warn", f"{said}, so it uses the disk", "in a container: docker run --shm-size=1g")


def open_files(soft: int, hard: int) -> Finding:
    """Judge the limit of open files of a process; a negative number is no limit."""
    said = f"a process may open {soft if soft >= 0 else 'any number of'} files"
    if soft < 0 or soft >= GOOD_FILES:
        return Finding("open files", "ok", said)
    more = GOOD_FILES if hard < 0 else min(hard, GOOD_FILES)
    hint = f"ulimit -n {more}" if more > soft else "raise the hard limit in /etc/security/limits.conf"
    least = f"{said}; {LEAST_FILES} are the least with which Ray runs, {GOOD_FILES} are enough"
    return Finding("open files", worse(fails=soft < LEAST_FILES), least, hint)


def maps(limit: int | None) -> Finding:
    """Judge ``vm.max_map_count``; each store shard that a reader maps takes two mappings.

    Args:
        limit: None where the system has no such limit.
    """
    if limit is None:
        return Finding("memory maps", "ok", "this system has no such limit; store shards are read without maps")
    said = f"vm.max_map_count is {limit:,}, a reader of a store takes up to {2 * MAPS:,}"
    if limit > 2 * MAPS:
        return Finding("memory maps", "ok", said)
    return Finding("memory maps", "warn", f"{said}, so training may end", "sysctl -w vm.max_map_count=65530")


def _dotted(version: tuple[int, int] | None) -> str:
    return ".".join(map(str, version or ()))
