"""How fast store shards are written and read whole, in MB/s, beside NumPy."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from store.files import write_atomic
from store.format.arrays import encode_shard
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.records import Status
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from tests.benchmarks.rounds import Measure

from .synthetic_store import make_store, spec_of, unit_rows

RANGE_ROWS = 8192


def write_speeds(out: Path) -> dict[tuple[str, ...], Measure]:
    """Return what writes one unit's features to disk: NumPy, the store's shards alone, and a whole commit."""
    sum(make_store(out / "written", rows=RANGE_ROWS, widths={}, present={}))
    store = FeatureStore(out / "written")
    info = store.info
    rng = np.random.default_rng(20261123)
    image, text = (unit_rows(rng, info.range_rows, 512) for _ in range(2))
    halves = [features.astype(np.float16) for features in (image, text)]
    stored_mb = sum(half.nbytes for half in halves) / 1e6
    status = np.full(info.range_rows, Status.OK, np.uint8)
    circumstances = Circumstances(device="none", batch_size=1, run_id="bench", attempt=1, timings_s={}, versions={})
    numbers = itertools.count()

    def with_numpy() -> None:
        for number, half in enumerate(halves):
            with (out / f"numpy{number}.npy").open("wb") as file:
                np.save(file, half)
                file.flush()
                os.fsync(file.fileno())

    def shards() -> None:
        for number, half in enumerate(halves):
            write_atomic(out / f"shard{number}", encode_shard("image", half, stored_dtype="float16", info=info))

    def unit() -> None:
        spec = spec_of(f"written{next(numbers)}", 512)
        register_teacher(store.location, spec, info=info)
        features = UnitFeatures(image=image, text=text, status=status, reasons={})
        pairs = store.pairs.read(0, info.range_rows)
        start[0] = time.perf_counter()
        known: dict[str, Any] = {"info": info, "spec": spec, "pairs": pairs, "circumstances": circumstances}
        commit_unit(store.location, range_id=0, features=features, **known)

    start = [0.0]

    def timed(work: Callable[[], None]) -> float:
        start[0] = time.perf_counter()
        work()
        return stored_mb / (time.perf_counter() - start[0])

    ways = {"numpy_fsync": with_numpy, "ours": shards, "ours_whole_commit": unit}
    return {(name,): partial(timed, work) for name, work in ways.items()}


def read_speeds(out: Path, store: FeatureStore) -> dict[tuple[str, ...], Measure]:
    """Return what reads whole store shards, in MB/s."""
    spans = [np.arange(*store.info.bounds(number)) for number in range(store.info.ranges)]
    teacher = store.teachers[0]
    paths = [out / f"whole{number}.npy" for number in range(len(spans))]
    for path, rows in zip(paths, spans, strict=True):
        np.save(path, store.read(rows, teacher=teacher, side="image"))
    nbytes = len(spans) * spans[0].size * 512 * 2 / 1e6

    def timed(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return nbytes / (time.perf_counter() - start)

    # Open before, as the store and its arrays are for Zarr; indexes of shards are read and checked once per reader.
    reader = ChunkReader(store)

    def chunks() -> list[Any]:
        return [reader.read(rows, teacher=teacher, side="image").shape for rows in spans]

    def through_zarr() -> list[Any]:
        slices = (slice(rows[0], rows[-1] + 1) for rows in spans)
        return [store.read(rows, teacher=teacher, side="image").shape for rows in slices]

    ways = {"np_load": lambda: [np.load(path).shape for path in paths], "ours": chunks, "zarr": through_zarr}
    return {(name,): partial(timed, work) for name, work in ways.items()}
