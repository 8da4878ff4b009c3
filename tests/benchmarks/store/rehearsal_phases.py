"""The phases of the rehearsal that no command of the programs does, each in a process of its own.

python -m tests.benchmarks.store.rehearsal_phases open DIR

Each prints what it found as JSON: ``work_seconds`` without the start of the process, and ``bytes`` where it moves many.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np

from store.console import progress
from store.format.pairs import PairTable
from store.format.records import Spec, StoredDtype, read_record, read_store_info, spec_key
from store.io.location import locate
from store.read.reader import FeatureStore

WIDTHS = {
    "bmca": 768,
    "biomedclip": 512,
    "unimedclip": 512,
    "quiltnet": 512,
    "genmedclip": 512,
    "plip": 512,
    "pubmedclip": 512,
    "pmcclip": 768,
    "medclip": 512,
}
PRESENT = {
    "bmca": 1.0,
    "biomedclip": 1.0,
    "unimedclip": 0.8,
    "quiltnet": 1.0,
    "genmedclip": 1.0,
    "plip": 0.6,
    "pubmedclip": 0.5,
    "pmcclip": 0.4,
    "medclip": 0.32,
}
"""Share of rows that have a feature. Which teacher has how many is not published but for eight pairs; the sum is."""

RANGE_ROWS = 8192
BATCH, WINDOW_BLOCKS, SEED = 1024, 256, 20261123

DAMAGED = "medclip"
"""The teacher one of whose shards is damaged."""

DISK_BYTES = 4 * 10**9
BLOCK_BYTES = 16 * 2**20


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder."""
    return (file for file in folder.rglob("*") if file.is_file())


def drop_cached(path: Path) -> None:
    """Take a file, or all files below a folder, out of the page cache; names and inodes stay in memory."""
    os.sync()  # pages that are not on the disk yet stay
    for file in [path] if path.is_file() else files_below(path):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk(path: Path, nbytes: int) -> dict[str, Any]:
    """Write one plain file beside the store and force it to disk; take it out of the page cache and read it."""
    file, block = path.with_name(f"{path.name}.disk"), np.random.default_rng(SEED).bytes(BLOCK_BYTES)
    blocks = -(-min(nbytes, DISK_BYTES) // BLOCK_BYTES)
    began = time.perf_counter()
    with file.open("wb", buffering=0) as opened:
        for _ in range(blocks):
            opened.write(block)
        os.fsync(opened.fileno())
    written = time.perf_counter() - began
    drop_cached(file)
    buffer = bytearray(BLOCK_BYTES)
    began = time.perf_counter()
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(buffer):
            pass
    read = time.perf_counter() - began
    file.unlink()
    speeds = {way: round(blocks * BLOCK_BYTES / 1e6 / s) for way, s in (("write", written), ("read", read))}
    return {"work_seconds": round(written + read, 3), **{f"{way}_MB_per_s": speed for way, speed in speeds.items()}}


def build(path: Path, rows: int, features: StoredDtype) -> dict[str, Any]:
    """Make the store, and count what it takes of the file system."""
    from .synthetic_store import make_store

    began = time.perf_counter()
    shape: dict[str, Any] = {"widths": WIDTHS, "present": PRESENT, "stored_dtype": features, "range_rows": RANGE_ROWS}
    with progress(-(-rows // RANGE_ROWS) * len(WIDTHS), label="build", noun="units") as advance:
        for _ in make_store(path, rows=rows, **shape):
            advance(1)
    seconds = time.perf_counter() - began
    sizes = {file: file.stat().st_size for file in files_below(path)}
    return {
        "work_seconds": round(seconds, 1),
        "bytes": sum(sizes.values()),
        "files": len(sizes),
        "folders": sum(entry.is_dir() for entry in path.rglob("*")),
        "receipts": sum(file.is_relative_to(path / "receipts") for file in sizes),
        "receipt_bytes": sum(size for file, size in sizes.items() if file.is_relative_to(path / "receipts")),
        "pair_table_bytes": sum(size for file, size in sizes.items() if file.is_relative_to(path / "pairs")),
    }


def epoch(path: Path) -> dict[str, Any]:
    """Read one shuffled epoch with all available teachers as the trainer does, and see that every row came once."""
    import torch

    from train.data.batch_order import BatchOrder
    from train.data.target_reader import Spans, TargetReader

    torch.set_num_threads(1)
    began = time.perf_counter()
    store = FeatureStore(path)
    available_NT = store.available("all")
    rows = np.flatnonzero(available_NT.any(axis=1))
    order = BatchOrder(rows, seed=SEED, batch_size=BATCH, block_rows=store.info.chunk_rows, window_blocks=WINDOW_BLOCKS)
    reader = TargetReader(store, teachers=store.teachers, available_NT=available_NT, seed=SEED, sampling="all")
    spans = Spans(order, reader, span_steps=min(WINDOW_BLOCKS * store.info.chunk_rows // BATCH, order.steps_per_epoch))
    opened = time.perf_counter()
    seen_N, steps, feature_pairs, nbytes = np.zeros(store.info.rows, np.uint8), order.steps_per_epoch, 0, 0
    with progress(steps, label="epoch", noun="steps") as advance:
        for step, targets in zip(range(steps), spans, strict=False):
            rows_B = order[step]
            seen_N[rows_B] += 1
            for teacher, found in targets.teachers.items():
                assert found.text_KD is not None
                assert available_NT[rows_B[found.places_K], store.teachers.index(teacher)].all()
                feature_pairs += len(found.places_K)
                nbytes += found.image_KD.nbytes + found.text_KD.nbytes
            advance(1)
    assert seen_N.max() == 1
    assert seen_N.sum() == steps * BATCH
    return {
        "work_seconds": round(time.perf_counter() - opened, 1),
        "bytes": nbytes,
        "opened_seconds": round(opened - began, 2),
        "rows": steps * BATCH,
        "feature_pairs": feature_pairs,
    }


def open_store(path: Path) -> dict[str, Any]:
    """Open the store."""
    before, began = _resident(), time.perf_counter()
    store = FeatureStore(path)
    seconds = time.perf_counter() - began
    return {"work_seconds": round(seconds, 4), "rows": store.info.rows, "more_MiB": round(_resident() - before, 1)}


def row(path: Path) -> dict[str, Any]:
    """Open the store and read both features of the middle row of one teacher."""
    began = time.perf_counter()
    store = FeatureStore(path)
    middle = np.array([store.info.rows // 2])
    read = [store.read(middle, teacher="bmca", side=side) for side in ("image", "text")]
    seconds = time.perf_counter() - began
    assert all(abs(float(np.linalg.norm(features_1D.astype(np.float32))) - 1) < 0.001 for features_1D in read)
    return {"work_seconds": round(seconds, 4)}


def plan(path: Path) -> dict[str, Any]:
    """Find what is left to do and estimate its bytes by the functions behind ``extract plan``.

    The command itself wants the weights of the teachers, which a synthetic store has none of.
    """
    from extract.config import ExtractPipeline
    from extract.estimate.estimate import predicted_size
    from extract.run.plan import plan as compared

    location, began = locate(path), time.perf_counter()
    info = read_store_info(location)
    specs = {name: read_record(location, spec_key(name), Spec) for name in WIDTHS}
    planned = compared(location, info=info, pairs=PairTable(location, info), specs=specs)
    teachers = {name: {"folder": "none"} for name in WIDTHS}
    pipeline = ExtractPipeline.model_validate({"store": {"path": str(path)}, "teachers": teachers})
    size = predicted_size(location, planned, info=info, specs=specs, pipeline=pipeline, rates=None)
    return {
        "work_seconds": round(time.perf_counter() - began, 2),
        "units": planned.units,
        "committed": planned.committed,
        "to_do": [[item.range_id, list(item.teachers)] for item in planned.work],
        "bytes_to_write": size.nbytes,
    }


def flip(path: Path) -> dict[str, Any]:
    """Invert one byte of one committed shard, of the middle range."""
    shard = f"features.zarr/{DAMAGED}/image/c/{read_store_info(locate(path)).ranges // 2}/0"
    with (path / shard).open("r+b") as file:
        place = file.seek(0, os.SEEK_END) // 2
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0xFF]))
    return {"work_seconds": 0.0, "damaged": shard}


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Run one phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("disk", "build", "epoch", "open", "row", "plan", "flip"))
    parser.add_argument("store", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--bytes", type=int, default=DISK_BYTES)
    parser.add_argument("--features", choices=get_args(StoredDtype), default="float16")
    options = parser.parse_args()
    phases: dict[str, Callable[[], dict[str, Any]]] = {
        "disk": lambda: disk(options.store, options.bytes),
        "build": lambda: build(options.store, options.rows, options.features),
        "epoch": lambda: epoch(options.store),
        "open": lambda: open_store(options.store),
        "row": lambda: row(options.store),
        "plan": lambda: plan(options.store),
        "flip": lambda: flip(options.store),
    }
    json.dump(phases[options.phase](), sys.stdout)


if __name__ == "__main__":
    main()
