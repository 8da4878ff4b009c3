"""Measures a worker's speed here: runs it over some rows for a bounded time. Writes nothing to the store."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from extract.config import ExtractPipeline
from extract.run.plan import RangeWork
from extract.run.run_spec import build_worker
from extract.run.worker import Worker
from store.format.pairs import PairTable
from store.format.records import Receipt, Spec, StoreInfo, read_store_info, record_bytes

from .rates import Rates, TeacherRate, count_distinct
from .scratch import scratch, scratch_run

WARM_UP_ROWS = 8
"""Rows that are extracted first and not counted, while kernels are chosen and memory is taken. Their time sets the size
of a block."""

MAX_BLOCKS = 64
BLOCKS_WANTED = 4
"""A probe aims at this many blocks of rows from as many places of the corpus, even if the teachers are slow."""


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
        specs: the specs of the teachers that lack something.
        seconds: after this time no further block of rows is begun.
        root: where the images lie.
    """
    with scratch() as place:
        rows = _blocks(pairs, info, work, rows=WARM_UP_ROWS, count=1)
        worker = build_worker(scratch_run(place, pipeline, specs, rows, root=root, range_rows=WARM_UP_ROWS))
        began = time.perf_counter()
        worker.run(0, list(worker.teachers))
        row_s = (time.perf_counter() - began) / rows.num_rows
        block = int(np.clip(seconds / BLOCKS_WANTED / row_s, WARM_UP_ROWS, 2 * pipeline.extract.batch_size))
        rows = _blocks(pairs, info, work, rows=block, count=MAX_BLOCKS)
        scratch_run(place, pipeline, specs, rows, root=root, range_rows=block)
        table = PairTable(place, rows=rows.num_rows)
        return _measure(dataclasses.replace(worker, info=read_store_info(place), pairs=table), seconds=seconds)


def _measure(worker: Worker, *, seconds: float) -> Rates:
    names, receipts, ranges = list(worker.teachers), list[Receipt](), list[int]()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds and len(ranges) < worker.info.ranges:
        receipts += worker.run(len(ranges), names)
        ranges.append(len(ranges))
    elapsed = time.perf_counter() - began
    rows = sum(stop - start for start, stop in map(worker.info.bounds, ranges))
    distinct = count_distinct(worker.pairs, info=worker.info, ranges=ranges)
    images, captions = distinct.images * rows, max(1.0, distinct.captions * rows)
    return Rates(
        teachers={
            name: TeacherRate(
                images_per_s=images / max(worker.teacher_s[name, "forward_image"], 1e-9),
                captions_per_s=captions / max(worker.teacher_s[name, "forward_text"], 1e-9),
            )
            for name in names
        },
        shared_s=max(0.0, elapsed - sum(worker.teacher_s.values())) / rows,
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
