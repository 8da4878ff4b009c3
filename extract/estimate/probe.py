"""How fast a worker is here: the real one, over some rows, for a bounded time. Nothing is written to the store."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from extract.config import ExtractPipeline
from extract.run.driver import build_worker
from extract.run.plan import RangeWork
from extract.run.worker import Worker
from store.format.pairs import PairTable
from store.format.records import Receipt, Spec, StoreInfo, read_store_info
from store.io.location import Location

from .rates import Rates, TeacherRate, bad_row_bytes, count_distinct
from .scratch import scratch, scratch_job

WARM_UP_ROWS = 8
"""Extracted first and not counted: kernels are chosen and memory is taken then. They also tell how large a block is."""

MAX_BLOCKS = 64
BLOCKS_WANTED = 4
"""A probe aims at this many blocks of rows, from as many places of the corpus, however slow the teachers are."""

IMAGE_CALLS, TEXT_CALLS = ("encode_image",), ("tokenize", "encode_text", "encode_tokens")


class _Timed:
    """A teacher whose calls add up their seconds."""

    def __init__(self, teacher: Any) -> None:
        self.teacher, self.image_s, self.text_s = teacher, 0.0, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.teacher, name)
        return self._timed(name, value) if name in (*IMAGE_CALLS, *TEXT_CALLS) else value

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                seconds = time.perf_counter() - began
                if name in IMAGE_CALLS:
                    self.image_s += seconds
                else:
                    self.text_s += seconds

        return timed


def probe(
    store: Location,
    *,
    info: StoreInfo,
    work: Sequence[RangeWork],
    specs: Mapping[str, Spec],
    pipeline: ExtractPipeline,
    seconds: float,
    root: str,
) -> Rates:
    """Run the teachers that lack something over rows of the ranges that lack it, until the time is over.

    Loading the teachers and the first rows are not in the time. What is measured is this process's speed: on another
    machine, or beside other workers on the same one, it is another.

    Args:
        store: whose rows are read.
        info: its shape.
        work: what is to be done.
        specs: of the teachers, by id.
        pipeline: with the settings of the workers.
        seconds: after which no further block of rows is begun.
        root: where the images lie.
    """
    lacking = [spec for name, spec in specs.items() if any(name in item.teachers for item in work)]
    names = [spec.teacher for spec in lacking]
    pairs = PairTable(store, rows=info.rows)
    with scratch() as place:
        rows = _blocks(pairs, info, work, rows=WARM_UP_ROWS, count=1)
        job = scratch_job(place, pipeline, lacking, rows, root=root, range_rows=WARM_UP_ROWS)
        worker = build_worker(job)
        began = time.perf_counter()
        worker.run(0, names)
        row_s = (time.perf_counter() - began) / rows.num_rows
        block = int(np.clip(seconds / BLOCKS_WANTED / row_s, WARM_UP_ROWS, 2 * pipeline.extract.batch_size))
        rows = _blocks(pairs, info, work, rows=block, count=MAX_BLOCKS)
        scratch_job(place, pipeline, lacking, rows, root=root, range_rows=block)
        timed = {name: _Timed(teacher) for name, teacher in worker.teachers.items()}
        teachers: dict[str, Any] = dict(timed)
        table = PairTable(place, rows=rows.num_rows)
        worker = dataclasses.replace(worker, info=read_store_info(place), pairs=table, teachers=teachers)
        return _measure(worker, timed, table, seconds=seconds)


def _measure(worker: Worker, timed: Mapping[str, _Timed], table: PairTable, *, seconds: float) -> Rates:
    receipts: list[Receipt] = []
    ranges: list[int] = []
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds and len(ranges) < worker.info.ranges:
        receipts += worker.run(len(ranges), list(timed))
        ranges.append(len(ranges))
    elapsed = time.perf_counter() - began
    rows = sum(stop - start for start, stop in map(worker.info.bounds, ranges))
    distinct = count_distinct(table, info=worker.info, ranges=ranges)
    images, captions = distinct.images * rows, max(1.0, distinct.captions * rows)
    inside = sum(teacher.image_s + teacher.text_s for teacher in timed.values())
    return Rates(
        teachers={
            name: TeacherRate(
                images_per_s=images / max(teacher.image_s, 1e-9), captions_per_s=captions / max(teacher.text_s, 1e-9)
            )
            for name, teacher in timed.items()
        },
        shared_s=max(0.0, elapsed - inside) / rows,
        bad_row_bytes=bad_row_bytes(receipts),
        source="probe",
        rows=rows,
        seconds=elapsed,
        timings_s=receipts[-1].timings_s,
    )


def _blocks(pairs: PairTable, info: StoreInfo, work: Sequence[RangeWork], *, rows: int, count: int) -> pa.Table:
    """Return blocks of neighbouring rows from ranges that are to be done, spread evenly over them."""
    ranges = [work[i].range_id for i in np.linspace(0, len(work) - 1, min(count, len(work))).astype(int)]
    tables = []
    for range_id in ranges:
        start, stop = info.bounds(range_id)
        # Of few ranges several blocks each, or a small store's probe would be over at once.
        end = min(stop, start + rows * -(-count // len(ranges)))
        tables += [pairs.read(first, min(first + rows, end)) for first in range(start, end, rows)]
    return pa.concat_tables(tables)
