"""A worker's speed with its teachers, from a probe or a profile, and the hours that follow from it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from extract.config import ExtractPipeline, ExtractSection
from extract.run.plan import RangeWork
from extract.run.run_spec import build_worker
from extract.worker.task import TASKS_AT_ONCE, Task
from store.errors import ConfigError
from store.format.pairs import PairTable
from store.format.records import Receipt, Spec, StoreInfo, read_store_info, record_bytes
from store.format.stages import HOST_STAGES, seconds_of_range

from .scratch import scratch, scratch_run

if TYPE_CHECKING:
    from extract.worker.worker import Worker

RANGES_READ = 16
"""Ranges whose captions and images are counted; to read the whole pair table takes minutes at 2.9 M rows."""

WARM_UP_ROWS = 8
"""Rows that are extracted first and not counted, while kernels are chosen and memory is taken. Their time sets the size
of a block."""

MAX_BLOCKS = 64
BLOCKS_WANTED = 8
"""A probe aims at this many blocks of rows from as many places of the corpus, even if the teachers are slow."""

NEARLY = 0.8

POOL_STAGES = tuple(stage for stage in HOST_STAGES if stage != "collect")
"""Stages of the threads that decode and tokenise; features are collected on a thread of its own."""

PROFILE_HINT = "python -m extract teachers --profile --json > FILE measures them; or leave --profile out, for a probe"


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherRate:
    """Distinct images and distinct captions that one teacher encodes per second in one worker.

    Attributes:
        captions_per_s: None of a teacher that encodes images alone.
    """

    images_per_s: float
    captions_per_s: float | None

    def seconds(self, distinct: Distinct) -> float:
        """Return the seconds for a row with a share of distinct images and captions."""
        captions_s = distinct.captions / self.captions_per_s if self.captions_per_s else 0.0
        return distinct.images / self.images_per_s + captions_s


@dataclass(kw_only=True, frozen=True, slots=True)
class Rates:
    """The speed of one worker. Its stages overlap, so that the slowest decides; see `seconds_per_row`.

    Attributes:
        host_cpu_s: CPU seconds per row beside the teachers: reading, decoding, tokenizing, writing.
        pool_s: seconds per row of the threads that read, decode, fit and tokenise, waits for bytes included.
        write_s: seconds per row and teacher of the thread that commits.
        stretch: how many times as long as the slowest stage alone the probe took.
        decoded_per_s: images per second that one thread decodes and fits, if a profile says it.
        bad_row_bytes: bytes of bad rows in a receipt, per row of its range.
        source: ``probe``, or the profile's file.
        rows, seconds: number of rows that were probed, and duration of the probe.
        timings_s: seconds by stage of one unit of the probe.
    """

    teachers: Mapping[str, TeacherRate]
    host_cpu_s: float = 0.0
    pool_s: float = 0.0
    write_s: float = 0.0
    stretch: float = 1.0
    bad_row_bytes: float = 0.0
    source: str
    decoded_per_s: float | None = None
    rows: int = 0
    seconds: float = 0.0
    timings_s: Mapping[str, float] | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class Distinct:
    """Share of a range's rows whose image or caption occurs in no row before them."""

    images: float = 1.0
    captions: float = 1.0


def count_distinct(pairs: PairTable, *, info: StoreInfo, ranges: Sequence[int]) -> Distinct:
    """Count distinct images and captions in some of the ranges, spread evenly."""
    picked = sorted({ranges[i] for i in np.linspace(0, len(ranges) - 1, min(RANGES_READ, len(ranges))).astype(int)})
    rows = images = captions = 0
    for range_id in picked:
        table = pairs.read(*info.bounds(range_id), ["caption", "image_sha256"])
        rows += table.num_rows
        images += len(set(table["image_sha256"].drop_null().to_pylist())) + table["image_sha256"].null_count
        captions += len(set(filter(None, table["caption"].to_pylist())))
    return Distinct(images=images / rows, captions=captions / rows)


@dataclass(kw_only=True, frozen=True, slots=True)
class Resources:
    """The resources of a worker.

    Attributes:
        threads: CPU threads of a forward pass on the CPU.
    """

    device: str
    threads: int
    decode_threads: int

    @classmethod
    def of(cls, section: ExtractSection) -> Resources:
        """Return what a pipeline gives a worker."""
        threads, decode_threads = section.threads_per_worker, section.decode_threads
        return cls(device=section.device, threads=threads, decode_threads=decode_threads)

    @property
    def cores(self) -> int:
        """Return the cores that its threads can use on this machine."""
        return min(os.cpu_count() or 1, self.threads + self.decode_threads)


def stage_seconds(rates: Rates, teachers: Iterable[str], distinct: Distinct, resources: Resources) -> dict[str, float]:
    """Return the seconds for a row of each thing that can bound a worker: device, cores, decoding threads, commits.

    On a CPU the teachers take their time from the worker's cores.
    """
    used = [rates.teachers[name] for name in teachers]
    device_s = sum(one.seconds(distinct) for one in used)
    decode_s = distinct.images / rates.decoded_per_s if rates.decoded_per_s else 0.0
    cpu_s = rates.host_cpu_s + decode_s + (device_s * resources.threads if resources.device == "cpu" else 0.0)
    return {
        "device": device_s,
        "cores": cpu_s / resources.cores,
        "decoding threads": (rates.pool_s + decode_s) / resources.decode_threads,
        "commits": rates.write_s * len(used),
    }


def slowest(stages_s: Mapping[str, float]) -> str:
    """Return which of `stage_seconds` bounds a worker."""
    found = max(stages_s, key=stages_s.__getitem__)
    # Threads that wait for a core count as working, so that where the cores are nearly as slow, they are the cause.
    cores_s = stages_s["cores"] / NEARLY
    return "cores" if found == "decoding threads" and cores_s > stages_s[found] else found


def seconds_per_row(rates: Rates, teachers: Iterable[str], distinct: Distinct, resources: Resources) -> float:
    """Return the seconds that one worker needs for a row under some teachers: those of its slowest stage, stretched."""
    return rates.stretch * max(stage_seconds(rates, teachers, distinct, resources).values())


def predicted_hours(
    work: Iterable[RangeWork], *, info: StoreInfo, rates: Rates, distinct: Distinct, section: ExtractSection
) -> float:
    """Return the hours that one worker needs for some ranges."""
    rows: Counter[tuple[str, ...]] = Counter()
    for item in work:
        start, stop = info.bounds(item.range_id)
        rows[item.teachers] += stop - start
    resources = Resources.of(section)
    return sum(n * seconds_per_row(rates, names, distinct, resources) for names, n in rows.items()) / 3600


def rates_of_profile(path: Path, *, specs: Iterable[Spec]) -> Rates:
    """Return the rates that ``python -m extract teachers --profile --json`` measured.

    Its JSON has ``images_per_s`` and, of a teacher that encodes captions, ``captions_per_s`` by teacher, at the top or
    under ``teachers``.

    Raises:
        ConfigError: it is no JSON, or lacks the rates of the named teachers.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}", hint=PROFILE_HINT) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}", hint=PROFILE_HINT) from error
    content = content if isinstance(content, dict) else {}
    entries = content.get("teachers", content)
    entries = entries if isinstance(entries, dict) else {}
    found, lacking = {}, []
    for spec in specs:
        entry = entries.get(spec.teacher)
        images, captions = (_positive(entry, key) for key in ("images_per_s", "captions_per_s"))
        if images and (captions or "text" not in spec.sides):
            found[spec.teacher] = TeacherRate(images_per_s=images, captions_per_s=captions)
        else:
            lacking.append(spec.teacher)
    if lacking:
        raise ConfigError(f"{path}: no images_per_s and captions_per_s of {', '.join(lacking)}", hint=PROFILE_HINT)
    return Rates(teachers=found, source=str(path), decoded_per_s=_positive(content, "decoded_per_s"))


def _positive(entry: Any, key: str) -> float | None:
    value = entry.get(key) if isinstance(entry, dict) else None
    return float(value) if isinstance(value, int | float) and value > 0 else None


def probe(
    pairs: PairTable,
    info: StoreInfo,
    work: Sequence[RangeWork],
    *,
    specs: Sequence[Spec],
    pipeline: ExtractPipeline,
    seconds: float,
    root: str,
) -> Rates:
    """Run teachers over rows of the ranges that lack something, until the time is over.

    Loading the teachers and the first rows do not count. The result is this process's speed; on another machine, or
    beside other workers on this one, it is another.

    Args:
        seconds: after this time no further block of rows is begun.
    """
    with scratch() as place:
        rows = _blocks(pairs, info, work, rows=WARM_UP_ROWS, count=1)
        with build_worker(scratch_run(place, pipeline, specs, rows, root=root, range_rows=WARM_UP_ROWS)) as worker:
            began = time.perf_counter()
            worker.submit(Task(range_id=0, teachers=tuple(worker.teachers))).result()
            row_s = (time.perf_counter() - began) / rows.num_rows
            worker.encoder.teacher_s.clear()
            block = int(np.clip(seconds / BLOCKS_WANTED / row_s, WARM_UP_ROWS, 2 * pipeline.extract.batch_size))
            rows = _blocks(pairs, info, work, rows=block, count=MAX_BLOCKS)
            scratch_run(place, pipeline, specs, rows, root=root, range_rows=block)
            info = read_store_info(place)
            with dataclasses.replace(worker, info=info, pairs=PairTable(place, info)) as probing:
                return _measure(probing, seconds=seconds, section=pipeline.extract)


def _measure(worker: Worker, *, seconds: float, section: ExtractSection) -> Rates:
    steady_s, cpu_s, receipts = _run_for(worker, seconds=seconds)
    names, given = list(worker.teachers), range(len(receipts))
    rows = sum(stop - start for start, stop in map(worker.info.bounds, given))
    distinct = count_distinct(worker.pairs, info=worker.info, ranges=given)
    images, captions = distinct.images * rows, max(1.0, distinct.captions * rows)
    teacher_s = worker.encoder.teacher_s
    stages = [seconds_of_range(of_range) for of_range in receipts]
    on_cpu_s = sum(teacher_s.values()) * section.threads_per_worker / rows if section.device == "cpu" else 0.0
    rates = Rates(
        teachers={
            name: TeacherRate(
                images_per_s=images / max(teacher_s[name, "forward_image"], 1e-9),
                captions_per_s=captions / max(teacher_s[name, "forward_text"], 1e-9)
                if "text" in teacher.spec.sides
                else None,
            )
            for name, teacher in worker.teachers.items()
        },
        host_cpu_s=max(0.0, cpu_s - on_cpu_s),
        pool_s=sum(seconds[stage] for seconds in stages for stage in POOL_STAGES) / rows,
        write_s=sum(seconds["write"] for seconds in stages) / rows / len(names),
        bad_row_bytes=_bad_row_bytes(receipt for of_range in receipts for receipt in of_range) / (rows * len(names)),
        source="probe",
        rows=rows,
        seconds=steady_s * rows,
        timings_s=receipts[-1][-1].timings_s,
    )
    return dataclasses.replace(rates, stretch=steady_s / seconds_per_row(rates, names, distinct, Resources.of(section)))


def _run_for(worker: Worker, *, seconds: float) -> tuple[float, float, list[list[Receipt]]]:
    """Run blocks, as many at once as a worker has; return wall and CPU seconds per row, and each block's receipts.

    Counted is the time from the first end of a block to the last one at which another block was begun, while the
    pipeline is full; the whole time if the blocks are too few for that.
    """
    names, at_work, receipts = tuple(worker.teachers), deque[Future[list[Receipt]]](), list[list[Receipt]]()
    began, given, rows = time.perf_counter(), 0, 0
    looks = [(began, time.process_time(), 0)]
    full: list[tuple[float, float, int]] = []
    while True:
        while given < worker.info.ranges and len(at_work) < TASKS_AT_ONCE and time.perf_counter() - began < seconds:
            at_work.append(worker.submit(Task(range_id=given, teachers=names)))
            given += 1
        if len(at_work) == TASKS_AT_ONCE and receipts:
            full.append(looks[-1])
        if not at_work:
            break
        receipts.append(at_work.popleft().result())
        start, stop = worker.info.bounds(len(receipts) - 1)
        rows += stop - start
        looks.append((time.perf_counter(), time.process_time(), rows))
    first, last = (full[0], full[-1]) if len(full) > 1 else (looks[0], looks[-1])
    wall_s, cpu_s, counted = (after - before for before, after in zip(first, last, strict=True))
    return wall_s / counted, cpu_s / counted, receipts


def _bad_row_bytes(receipts: Iterable[Receipt]) -> int:
    return sum(len(record_bytes(one)) - len(record_bytes(one.model_copy(update={"bad_rows": []}))) for one in receipts)


def _blocks(pairs: PairTable, info: StoreInfo, work: Sequence[RangeWork], *, rows: int, count: int) -> pa.Table:
    """Return blocks of neighbouring rows from ranges that are to be done, spread evenly over them."""
    ranges = [work[i].range_id for i in np.linspace(0, len(work) - 1, min(count, len(work))).astype(int)]
    tables = []
    for range_id in ranges:
        start, stop = info.bounds(range_id)
        # Few ranges give several blocks each; otherwise the probe of a small store would be over at once.
        end = min(stop, start + rows * -(-count // len(ranges)))
        tables += [pairs.read(first, min(first + rows, end)) for first in range(start, end, rows)]
    return pa.concat_tables(tables)
