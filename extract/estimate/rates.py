"""A worker's speed with its teachers, from a probe or a profile, and the hours that follow from it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from extract.config import ExtractPipeline, ExtractSection
from extract.run.plan import RangeWork
from extract.run.run_spec import build_worker
from extract.worker.task import Task
from store.errors import ConfigError
from store.format.pairs import PairTable
from store.format.records import Receipt, Spec, StoreInfo, read_store_info, record_bytes

from .scratch import scratch, scratch_run

if TYPE_CHECKING:
    from extract.worker.worker import Worker

RANGES_READ = 16
"""Ranges whose captions and images are counted; to read the whole pair table takes minutes at 2.9 M rows."""

WARM_UP_ROWS = 8
"""Rows that are extracted first and not counted, while kernels are chosen and memory is taken. Their time sets the size
of a block."""

MAX_BLOCKS = 64
BLOCKS_WANTED = 4
"""A probe aims at this many blocks of rows from as many places of the corpus, even if the teachers are slow."""

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
    """The speed of one worker.

    Attributes:
        shared_s: seconds per row beside the teachers: waiting for images, writing.
        decoded_per_s: images per second that one thread decodes and fits, if a profile says it.
        bad_row_bytes: bytes of bad rows in a receipt, per row of its range.
        source: ``probe``, or the profile's file.
        rows, seconds: number of rows that were probed, and duration of the probe.
        timings_s: seconds by stage of one unit of the probe.
    """

    teachers: Mapping[str, TeacherRate]
    shared_s: float = 0.0
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


def seconds_per_row(
    rates: Rates, teachers: Iterable[str], distinct: Distinct, *, device: str, decode_threads: int
) -> float:
    """Return the seconds that one worker needs for a row under some teachers.

    Decoding counts where a profile says how fast it is. On a GPU the threads decode beside the teachers and the slower
    of the two decides; on a CPU decoding takes its time from the teachers.
    """
    used = [rates.teachers[name] for name in teachers]
    row_s = sum(one.seconds(distinct) for one in used)
    if rates.decoded_per_s:
        decode_s = distinct.images / rates.decoded_per_s
        row_s = max(row_s, decode_s / decode_threads) if device == "cuda" else row_s + decode_s
    return row_s + rates.shared_s


def predicted_hours(
    work: Iterable[RangeWork], *, info: StoreInfo, rates: Rates, distinct: Distinct, section: ExtractSection
) -> float:
    """Return the hours that one worker needs for some ranges."""
    seconds = 0.0
    for item in work:
        start, stop = info.bounds(item.range_id)
        seconds += (stop - start) * seconds_per_row(
            rates, item.teachers, distinct, device=section.device, decode_threads=section.decode_threads
        )
    return seconds / 3600


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
        worker = build_worker(scratch_run(place, pipeline, specs, rows, root=root, range_rows=WARM_UP_ROWS))
        began = time.perf_counter()
        worker.submit(Task(range_id=0, teachers=tuple(worker.teachers))).result()
        row_s = (time.perf_counter() - began) / rows.num_rows
        block = int(np.clip(seconds / BLOCKS_WANTED / row_s, WARM_UP_ROWS, 2 * pipeline.extract.batch_size))
        rows = _blocks(pairs, info, work, rows=block, count=MAX_BLOCKS)
        scratch_run(place, pipeline, specs, rows, root=root, range_rows=block)
        table = PairTable(place, read_store_info(place))
        return _measure(dataclasses.replace(worker, info=read_store_info(place), pairs=table), seconds=seconds)


def _measure(worker: Worker, *, seconds: float) -> Rates:
    names, receipts, ranges = list(worker.teachers), list[Receipt](), list[int]()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds and len(ranges) < worker.info.ranges:
        receipts += worker.submit(Task(range_id=len(ranges), teachers=tuple(names))).result()
        ranges.append(len(ranges))
    elapsed = time.perf_counter() - began
    rows = sum(stop - start for start, stop in map(worker.info.bounds, ranges))
    distinct = count_distinct(worker.pairs, info=worker.info, ranges=ranges)
    images, captions = distinct.images * rows, max(1.0, distinct.captions * rows)
    return Rates(
        teachers={
            name: TeacherRate(
                images_per_s=images / max(worker.encoder.teacher_s[name, "forward_image"], 1e-9),
                captions_per_s=captions / max(worker.encoder.teacher_s[name, "forward_text"], 1e-9)
                if "text" in teacher.spec.sides
                else None,
            )
            for name, teacher in worker.teachers.items()
        },
        shared_s=max(0.0, elapsed - sum(worker.encoder.teacher_s.values())) / rows,
        bad_row_bytes=_bad_row_bytes(receipts) / (rows * len(names)),
        source="probe",
        rows=rows,
        seconds=elapsed,
        timings_s=receipts[-1].timings_s,
    )


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
