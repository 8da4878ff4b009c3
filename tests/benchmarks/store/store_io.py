"""Measure writing and reading store shards, in MB/s, beside NumPy and the disk; writes also per forced wait."""

from __future__ import annotations

import itertools
import mmap
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from store.files import sync_folder, write_atomic
from store.format.arrays import encode_shard
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.records import Status
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from tests.benchmarks.rounds import Measure

from .synthetic_store import make_store, spec_of, unit_rows

RANGE_ROWS = 8192
BLOCK_BYTES = 4 * 2**20

Waits = dict[str, int]
"""Calls of fsync by each way of writing the features of one unit."""


def write_speeds(out: Path) -> tuple[dict[tuple[str, ...], Measure], Waits]:
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

    def with_numpy(*, folder: bool) -> None:
        for number, half in enumerate(halves):
            with (out / f"numpy{number}.npy").open("wb") as file:
                np.save(file, half)
                file.flush()
                os.fsync(file.fileno())
            if folder:
                sync_folder(out)

    def shards() -> None:
        for number, half in enumerate(halves):
            write_atomic(out / f"shard{number}", encode_shard("image", half, stored_dtype="float16", info=info))

    def unit() -> None:
        spec = spec_of(f"written{next(numbers)}", 512)
        register_teacher(store.location, spec, info=info)
        features = UnitFeatures(image=image, text=text, status=status, reasons={})
        pairs = store.pairs.read(0, info.range_rows)
        start[0], forced[0] = time.perf_counter(), 0
        known: dict[str, Any] = {"info": info, "spec": spec, "pairs": pairs, "circumstances": circumstances}
        commit_unit(store.location, range_id=0, features=features, **known)

    start, forced, waits, fsync = [0.0], [0], Waits(), os.fsync

    def counted(descriptor: int) -> None:
        forced[0] += 1
        fsync(descriptor)

    def timed(name: str, work: Callable[[], None]) -> float:
        start[0], forced[0], os.fsync = time.perf_counter(), 0, counted
        try:
            work()
        finally:
            seconds, os.fsync = time.perf_counter() - start[0], fsync
        waits[name] = forced[0]
        return stored_mb / seconds

    ways = {
        NUMPY: partial(with_numpy, folder=False),
        "numpy + fsync of file and folder": partial(with_numpy, folder=True),
        "shards (`encode_shard`, `write_atomic`)": shards,
        "whole commit (`commit_unit`)": unit,
    }
    return {(name,): partial(timed, name, work) for name, work in ways.items()}, waits


NUMPY = "numpy + fsync"


def write_rows(speeds: dict[str, float], waits: Waits) -> Iterable[list[object]]:
    """Yield a line per way: MB/s, forced waits, share of numpy + fsync, and the same per forced wait."""
    for name, speed in speeds.items():
        share = speed / speeds[NUMPY]
        yield [name, speed, waits[name], share, share * waits[name] / waits[NUMPY]]


def disk_speed(files: Iterable[Path], *, threads: int) -> float:
    """Return how fast files are read whole past the page cache (O_DIRECT), in MB/s.

    Raises:
        SystemExit: the file system has no O_DIRECT.
    """

    def read(file: Path) -> int:
        buffer, total = mmap.mmap(-1, BLOCK_BYTES), 0
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
        except OSError as error:
            raise SystemExit(f"error: {file}: no O_DIRECT here ({error}): give --out on a disk") from None
        try:
            size = os.fstat(descriptor).st_size
            while total < size:
                total += os.preadv(descriptor, [buffer], total)
        finally:
            os.close(descriptor)
        return total

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        nbytes = sum(pool.map(read, files))
    return nbytes / 1e6 / (time.perf_counter() - start)


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

    def one_call() -> list[Any]:
        return [reader.read(np.concatenate(spans), teacher=teacher, side="image").shape]

    def through_zarr() -> list[Any]:
        slices = (slice(rows[0], rows[-1] + 1) for rows in spans)
        return [store.read(rows, teacher=teacher, side="image").shape for rows in slices]

    ways = {
        "np.load": lambda: [np.load(path).shape for path in paths],
        "`ChunkReader.read`": chunks,
        "`ChunkReader.read`, all in one call": one_call,
        "`FeatureStore.read`, through Zarr": through_zarr,
    }
    return {(name,): partial(timed, work) for name, work in ways.items()}
