"""How long a step waits for features: a step of fixed length, fed through the trainer's order, selection and draw.

python -m tests.benchmarks.train.feature_path --out runs/bench

A synthetic store of six teachers, on disk and on an S3 server on the loopback. The student is a pause, during which
Python is free, as it is while a GPU computes; with ``busy`` Python works for half of it, as when a step is made of many
small kernels. Waiting is what passes between asking for a batch and having it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from store.read.reader import FeatureStore
from tests.benchmarks.store.store_speed import machine
from tests.benchmarks.store.synthetic_store import make_store
from tests.s3_server import S3Server, rclone
from tests.train.teacher_case import identity_projection
from train.data.batch_order import BatchOrder, lanes_of
from train.data.target_reader import Sampling, Spans, TargetReader
from train.data.targets import Targets
from train.losses.objective import Given
from train.recipe_sections import PaperRecipe
from train.recipes.paper import PaperObjective

TEACHERS = {f"teacher{number}": 512 for number in range(6)}
BATCH, SEED, WINDOW_BLOCKS = 512, 20261123, 256
STEP_S, WARM_SPANS = 0.01, 4
SAMPLINGS: tuple[Sampling, ...] = ("uniform_one", "all")


class FeaturePath:
    """The trainer's way from a store to the targets of a batch."""

    def __init__(self, store: FeatureStore, sampling: Sampling) -> None:
        available_NT = store.available("all")
        rows = np.flatnonzero(available_NT.any(axis=1))
        size = {"batch_size": BATCH, "block_rows": store.info.chunk_rows}
        lanes = lanes_of(rows, window_blocks=WINDOW_BLOCKS, **size)
        self._order = BatchOrder(rows, seed=SEED, window_blocks=WINDOW_BLOCKS // lanes, lanes=lanes, **size)
        self._reader = TargetReader(
            store, teachers=store.teachers, available_NT=available_NT, seed=SEED, sampling=sampling
        )
        self.span_steps = WINDOW_BLOCKS * store.info.chunk_rows // BATCH

    def batches(self) -> Iterator[Targets]:
        """Yield the targets of each step."""
        spans = Spans(self._order, self._reader, span_steps=self.span_steps)
        return itertools.chain.from_iterable(spans)


def pause(seconds: float) -> None:
    """A step that leaves Python alone."""
    time.sleep(seconds)


def busy(seconds: float) -> None:
    """A step for half of which Python works."""
    until = time.perf_counter() + seconds / 2
    while time.perf_counter() < until:
        pass
    time.sleep(seconds / 2)


def waiting(path: FeaturePath, step: Callable[[float], None], *, spans: int) -> dict[str, float]:
    """Return the share of the time that steps wait, and the pairs per second.

    The first spans are left out: in them the operating system gives the process the memory that is then used again.
    """
    batches, begun = path.batches(), time.perf_counter()
    next(batches)
    first_s = time.perf_counter() - begun
    for _ in itertools.islice(batches, WARM_SPANS * path.span_steps - 1):
        step(STEP_S)
    waits, worst = 0.0, 0.0
    start, used = time.perf_counter(), time.process_time()
    for _ in range(spans * path.span_steps):
        asked = time.perf_counter()
        next(batches)
        waited = time.perf_counter() - asked
        waits, worst = waits + waited, max(worst, waited)
        step(STEP_S)
    passed, used = time.perf_counter() - start, time.process_time() - used
    steps = spans * path.span_steps
    return {
        "waiting_percent": round(100 * waits / passed, 2),
        "worst_wait_ms": round(1000 * worst, 1),
        "first_batch_s": round(first_s, 1),
        "pairs_per_s": round(steps * BATCH / passed),
        "processor_ms_per_step": round(1000 * used / steps, 2),
    }


def unbounded(path: FeaturePath, *, spans: int) -> float:
    """Return the pairs per second where nothing else happens between batches."""
    batches = path.batches()
    for _ in itertools.islice(batches, WARM_SPANS * path.span_steps):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, spans * path.span_steps + 1):
        pass
    return spans * path.span_steps * BATCH / (time.perf_counter() - start)


def projecting(store: FeatureStore) -> dict[str, float]:
    """Return the milliseconds that the paper's objective takes for a batch on this CPU, and how much is projection."""
    hashes = {name: store.spec(name).hash for name in store.teachers}
    objective = PaperObjective(PaperRecipe(), identity_projection(hashes, 512))
    targets = next(FeaturePath(store, "uniform_one").batches())
    given = Given(rows_B=np.arange(BATCH), step=0, targets=targets)
    student = [torch.randn(BATCH, 512, requires_grad=True) for _ in range(2)]

    def project() -> None:
        for name, teacher in targets.teachers.items():
            objective._projected(name, teacher)

    def whole() -> None:
        objective(*student, torch.tensor(14.0), given)["loss"].backward()

    found = {}
    for name, work in (("projection_ms", project), ("objective_ms", whole)):
        times = []
        for _ in range(9):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        found[name] = round(1000 * statistics.median(times), 1)
    return found


def measure(store: FeatureStore, *, rounds: int, spans: int) -> dict[str, Any]:
    """Return medians over rounds by kind of targets and of step."""
    found: dict[str, Any] = {}
    for sampling, step in itertools.product(SAMPLINGS, (pause, busy)):
        results = []
        for number in range(rounds):
            results.append(waiting(FeaturePath(store, sampling), step, spans=spans))
            print(sampling, step.__name__, number, results[-1], f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        found[f"{sampling}, {step.__name__}"] = {
            key: statistics.median(result[key] for result in results) for key in results[0]
        }
    for sampling in SAMPLINGS:
        speeds = [unbounded(FeaturePath(store, sampling), spans=spans) for _ in range(rounds)]
        found[f"{sampling}, no step"] = {"pairs_per_s": round(statistics.median(speeds))}
    return found


def server_speed(store: FeatureStore) -> float:
    """Return how fast whole objects of features are fetched, without anything else, by 16 threads, in MB/s."""
    keys = [
        key for name in store.teachers for key, size in store.location.list(f"features.zarr/{name}") if size > 2**20
    ]
    start = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        nbytes = sum(pool.map(lambda key: len(store.location.read(key)), keys))
    return round(nbytes / 1e6 / (time.perf_counter() - start))


def serve(folder: Path) -> None:
    """Serve a folder until the standard input ends, in a process of its own, so that it shares no Python with us."""
    server = S3Server(folder).start()
    print(json.dumps(server.environment), flush=True)
    sys.stdin.read()
    server.close()


def from_s3(folder: Path, *, rounds: int, spans: int) -> dict[str, Any]:
    """Return the same of a store on a server on the loopback."""
    served = str(folder / "s3")
    code = f"from pathlib import Path; from tests.benchmarks.train.feature_path import serve; serve(Path({served!r}))"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert server.stdin
    assert server.stdout
    try:
        os.environ.update(json.loads(server.stdout.readline()))
        shutil.copytree(folder / "store", folder / "s3" / "bucket" / "store")
        store = FeatureStore("s3://bucket/store")
        found = measure(store, rounds=rounds, spans=spans)
        return found | {"server_MB_per_s": statistics.median(server_speed(store) for _ in range(rounds))}
    finally:
        server.stdin.close()
        server.wait()


def main() -> None:
    """Make a store, measure, print and write the numbers, delete the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=131072)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spans", type=int, default=3)
    parser.add_argument("--only", choices=("disk", "s3"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = options.out / "feature_path"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    found: dict[str, Any] = {"load_before": os.getloadavg()[0]}
    try:
        sum(make_store(work / "store", rows=options.rows, widths=TEACHERS, present=dict.fromkeys(TEACHERS, 1.0)))
        store = FeatureStore(work / "store")
        if options.only != "s3":
            found["disk"] = measure(store, rounds=options.rounds, spans=options.spans)
            found["cpu"] = projecting(store)
        if rclone() and options.only != "disk":
            found["s3"] = from_s3(work, rounds=options.rounds, spans=options.spans)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    found |= {"load_after": os.getloadavg()[0], "machine": machine(), "rows": options.rows, "batch": BATCH}
    (options.out / "feature_path.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
