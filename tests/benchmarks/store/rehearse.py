"""The paper's size, rehearsed: a synthetic store is built, verified, and streamed for one epoch (``make rehearse``).

python -m tests.benchmarks.store.rehearse --rows 290000 --out DIR

Nine teachers of the real widths, 6.62 of them per row on average as in the paper (19.2 M feature pairs of 2.9 M pairs).
Each phase runs in a process of its own, whose peak memory is sampled. DIR is deleted in the end unless ``--keep`` is
given; the figures stay in DIR.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.console import progress
from tests.benchmarks.measure import measure

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

ROW_BYTES = sum(WIDTHS.values()) * 2 * 2 + len(WIDTHS) * 5
"""Of a row on disk: both sides in float16, similarity and status."""

PAIR_BYTES = 150
"""Of a row of the pair table, about."""

BATCH, WINDOW_BLOCKS, SEED = 1024, 256, 20261123
HEADROOM = 1.05


def build(path: Path, rows: int) -> dict[str, Any]:
    """Make the store."""
    from .synthetic_store import make_store

    units, nbytes = -(-rows // 8192) * len(WIDTHS), 0
    with progress(units, label="build", noun="units") as advance:
        for stored in make_store(path, rows=rows, widths=WIDTHS, present=PRESENT):
            nbytes += stored
            advance(1)
    return {"bytes": nbytes}


def verify(path: Path) -> dict[str, Any]:
    """Check every byte of the store by the program's own command."""
    command = [sys.executable, "-m", "store", "verify", str(path), "--deep", "--json"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"{path}: does not verify: {found}")
    return {"bytes": _stored_bytes(path)}


def _stored_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class NoPixels:
    """Stands for the images, which are no part of the rehearsal."""

    def load(self, rows_B: np.ndarray, *, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        del epoch
        return np.zeros((len(rows_B), 0, 0, 3), np.uint8), np.ones(len(rows_B), bool)


class NoCaptions(Sequence[str]):
    """Stands for the captions."""

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, _: Any) -> Any:
        return ""


def stream(path: Path) -> dict[str, Any]:
    """Stream one shuffled epoch with all available teachers, and see that every row came once."""
    import torch

    from store.read.reader import FeatureStore
    from train.data.batch_order import BatchOrder
    from train.data.batches import Stream
    from train.data.target_reader import TargetReader

    torch.set_num_threads(1)
    began = time.perf_counter()
    store = FeatureStore(path)
    available_NT = store.available("all")
    rows = np.flatnonzero(available_NT.any(axis=1))
    order = BatchOrder(rows, seed=SEED, batch_size=BATCH, block_rows=store.info.chunk_rows, window_blocks=WINDOW_BLOCKS)
    reader = TargetReader(store, teachers=store.teachers, available_NT=available_NT, seed=SEED, sampling="all")
    batches = Stream(
        order, NoPixels(), NoCaptions(), targets=reader, span_steps=WINDOW_BLOCKS * store.info.chunk_rows // BATCH
    )
    opened = time.perf_counter()
    seen, feature_pairs, nbytes = np.zeros(store.info.rows, bool), 0, 0
    with progress(order.steps_per_epoch, label="stream", noun="steps") as advance:
        for batch, _ in zip(batches, range(order.steps_per_epoch), strict=False):
            assert not seen[batch.rows_B].any()
            seen[batch.rows_B] = True
            for teacher in batch.targets.teachers.values():
                feature_pairs += len(teacher.places_K)
                nbytes += teacher.image_KD.nbytes + teacher.text_KD.nbytes
            advance(1)
    epoch_rows = order.steps_per_epoch * BATCH
    assert seen.sum() == epoch_rows
    seconds = {"open_seconds": round(opened - began, 1), "epoch_seconds": round(time.perf_counter() - opened, 1)}
    return {"bytes": nbytes, "rows": epoch_rows, "feature_pairs": feature_pairs, **seconds}


def phase(name: str, path: Path, rows: int) -> dict[str, Any]:
    """Run a phase in a process of its own, and return what it says with its seconds and its peak memory."""
    answer = path.with_name(f"{path.name}.{name}.json")
    this = [sys.executable, "-m", "tests.benchmarks.store.rehearse", "--rows", str(rows), "--out", str(path)]
    cost = measure([*this, "--phase", name, "--answer", str(answer)])
    if cost.code:
        raise SystemExit(f"{name} ended with exit code {cost.code}")
    said = json.loads(answer.read_text())
    answer.unlink()
    found = {"rows": rows, **said, "seconds": cost.seconds, "peak_GiB": cost.peak_gib}
    speed = {
        "rows_per_s": round(found["rows"] / cost.seconds),
        "MB_per_s": round(found["bytes"] / 1e6 / cost.seconds),
        "seconds_per_million_rows": round(1e6 * cost.seconds / found["rows"], 1),
    }
    return found | speed


def require_space(path: Path, rows: int) -> None:
    """Refuse to begin where the disk cannot hold it."""
    needed = int(rows * (ROW_BYTES + PAIR_BYTES) * HEADROOM)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        fits = int(free / (ROW_BYTES + PAIR_BYTES) / HEADROOM)
        raise SystemExit(
            f"{path.parent}: {free / 1e9:.1f} GB are free, {rows} rows need {needed / 1e9:.1f}; ROWS={fits} would fit"
        )


def rehearse(path: Path, rows: int, *, keep: bool) -> dict[str, Any]:
    """Run all phases and write their figures beside the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise SystemExit(f"{path} is there already: name a folder that is not")
    require_space(path, rows)
    load = os.getloadavg()[0]
    try:
        phases = {name: phase(name, path, rows) for name in ("build", "verify", "stream")}
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load": [load, os.getloadavg()[0]]}
    report = {"rows": rows, "teachers": len(WIDTHS), "phases": phases, "machine": machine}
    path.with_name(f"{path.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def show(report: dict[str, Any]) -> None:
    """Print a table of Markdown."""
    columns = ("rows", "seconds", "rows_per_s", "MB_per_s", "seconds_per_million_rows", "peak_GiB")
    print(f"\n| phase | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, found in report["phases"].items():
        print(f"| {name} | " + " | ".join(f"{found[column]:,}" for column in columns) + " |")


def main() -> None:
    """Run all phases, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_900_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", action="store_true", help="leave the store there")
    parser.add_argument("--phase", choices=("build", "verify", "stream"), help="only this one, in this process")
    parser.add_argument("--answer", type=Path, help="with --phase: where its figures go")
    options = parser.parse_args()
    if options.phase is None:
        show(rehearse(options.out, options.rows, keep=options.keep))
        return
    said = {
        "build": lambda: build(options.out, options.rows),
        "verify": lambda: verify(options.out),
        "stream": lambda: stream(options.out),
    }[options.phase]()
    options.answer.write_text(json.dumps(said))


if __name__ == "__main__":
    main()
