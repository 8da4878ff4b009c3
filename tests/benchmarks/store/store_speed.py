"""How fast the store is written and read, beside what a user would pick instead: ``make bench-store``.

python -m tests.benchmarks.store.store_speed --out runs/bench --peers PYTHON

PYTHON is that of an environment with numpy, torch, mosaicml-streaming, webdataset and litdata; without it only the
store and the limits are measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr

from store.read.chunks import SIDES
from store.read.reader import FeatureStore
from tests.benchmarks.rounds import Measure, medians, nested, single, table
from train.data.batch_order import BatchOrder
from train.data.batches import Stream
from train.data.target_reader import Sampling, TargetReader

from .store_io import read_speeds, write_speeds
from .synthetic_store import make_store

TEACHERS = {f"teacher{number}": 512 for number in range(6)}
BATCH, WINDOW_BLOCKS, SEED = 1024, 256, 20261123
PEERS = ("released", "mosaicml_streaming", "webdataset", "litdata")
PEER_PAIRS = {"released": 4096, "mosaicml_streaming": 16384, "webdataset": 16384, "litdata": 65536}
RELEASED_PAIRS = 16384
"""Of the layout with a file per pair only so many are made: a million small files would be deleted for minutes."""


class NoPixels:
    """Stands for the images, which are no part of this benchmark."""

    def load(self, rows_B: npt.NDArray[np.int64], *, epoch: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        del epoch
        return np.zeros((len(rows_B), 0, 0, 3), np.uint8), np.ones(len(rows_B), bool)


class Ours:
    """The trainer's order, selection, draw and features of a store."""

    def __init__(self, store: FeatureStore, *, window_blocks: int = WINDOW_BLOCKS) -> None:
        self.store, self.available_NT = store, store.available("all")
        rows = np.flatnonzero(self.available_NT.any(axis=1))
        blocks = {"block_rows": store.info.chunk_rows, "window_blocks": window_blocks}
        self.order = BatchOrder(rows, seed=SEED, batch_size=BATCH, **blocks)
        self.span_steps = window_blocks * store.info.chunk_rows // BATCH

    def features(self, threads: int, *, sampling: Sampling = "all") -> Iterator[int]:
        """Yield the size of each batch of the trainer's stream, with the features of all teachers or of one per row."""
        known: dict[str, Any] = {"teachers": self.store.teachers, "available_NT": self.available_NT, "seed": SEED}
        reader = TargetReader(self.store, **known, sampling=sampling, threads=threads)
        captions = [""] * self.store.info.rows
        for batch in Stream(self.order, NoPixels(), captions, targets=reader, span_steps=self.span_steps):
            yield len(batch.rows_B)

    def through_zarr(self) -> float:
        """Return pairs per second of a window that `FeatureStore.read` reads."""
        rows = np.concatenate([self.order[step] for step in range(self.span_steps)])
        start = time.perf_counter()
        for teacher, side in itertools.product(self.store.teachers, SIDES):
            self.store.read(rows, teacher=teacher, side=side)
        return len(rows) / (time.perf_counter() - start)

    def speed(self, sizes: Iterator[int], *, spans: int = 4, warm: int = 5) -> float:
        """Return pairs per second, counted from when a span is handed out and the next one is begun."""
        for _ in itertools.islice(sizes, warm * self.span_steps):
            pass
        start = time.perf_counter()
        # One step more, so that the last span has to be there in time.
        pairs = sum(itertools.islice(sizes, spans * self.span_steps + 1)) - BATCH
        return pairs / (time.perf_counter() - start)

    def cold_speed(self, folder: Path) -> float:
        """Return pairs per second of an epoch whose files are read from the disk, with memory in use as later on."""
        sizes = self.features(2)
        warm = 6 * self.span_steps
        for _ in itertools.islice(sizes, warm + 1):
            pass
        for _ in itertools.islice(sizes, self.span_steps - 1):
            pass
        # The span after this one is under way, and costs nothing: the two behind it are an epoch's, and are counted.
        time.sleep(3)
        drop_cached(folder)
        start = time.perf_counter()
        pairs = sum(itertools.islice(sizes, 2 * self.span_steps + 1)) - BATCH
        return pairs / (time.perf_counter() - start)


class MemoryLimit:
    """A random gather from arrays in memory: no loader can give its batches faster without another layout."""

    def __init__(self, store: FeatureStore) -> None:
        rows = slice(0, store.info.rows)
        self._arrays = [store.read(rows, teacher=t, side=s) for t, s in itertools.product(store.teachers, SIDES)]
        self._rng = np.random.default_rng(SEED)

    def speed(self, workers: int, *, reuse: bool = False) -> float:
        """Return pairs per second; with ``reuse`` each batch overwrites the one before."""
        order = self._rng.permutation(len(self._arrays[0]))
        outs = [np.empty((BATCH, array.shape[1]), array.dtype) if reuse else None for array in self._arrays]

        def gather(rows: npt.NDArray[np.int64], numbers: range) -> list[npt.NDArray[Any]]:
            return [np.take(self._arrays[k], rows, axis=0, out=outs[k], mode="clip") for k in numbers]

        every, steps = range(len(self._arrays)), len(order) // BATCH
        start = time.perf_counter()
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for step in range(steps):
                rows = order[step * BATCH : (step + 1) * BATCH]
                if workers:
                    list(pool.map(partial(gather, rows), [every[number::workers] for number in range(workers)]))
                else:
                    gather(rows, every)
        return steps * BATCH / (time.perf_counter() - start)


class Peers:
    """The other environment's process."""

    def __init__(self, python: Path, out: Path) -> None:
        script = Path(__file__).with_name("store_peers.py")
        command = [str(python), str(script), "--features", str(out / "features.npy"), "--folder", str(out / "peers")]
        command += ["--batch-size", str(BATCH), "--released-pairs", str(RELEASED_PAIRS)]
        self._log = (out / "peers.log").open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            print(request, answer["error"], file=sys.stderr)
        return answer

    def speed(self, loader: str, workers: int) -> float:
        """Return pairs per second, NaN if the loader failed."""
        answer = self.ask(time=loader, workers=workers, pairs=PEER_PAIRS[loader])
        return float(answer.get("pairs_per_s", "nan"))

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def drop_cached(folder: Path) -> None:
    """Ask the operating system to forget the pages of all files below a folder."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def after_dropping(folder: Path, measure: Measure) -> float:
    """Return a speed from the disk."""
    drop_cached(folder)
    return measure()


def peak_memory(out: Path, window_blocks: int) -> dict[str, float]:
    """Return what a process that streams the store holds at most, in MiB, and what of it is there before it reads."""
    code = (
        "import json, re\n"
        "from tests.benchmarks.store.store_speed import *\n"
        "torch.set_num_threads(1)\n"
        # Not getrusage: it begins with the memory of the process that started this one.
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        f"ours = Ours(FeatureStore({str(out / 'store')!r}), window_blocks={window_blocks})\n"
        "before = peak()\n"
        f"stream = ours.{{}}\n"
        "list(itertools.islice(stream, 8 * ours.span_steps))\n"
        "print(json.dumps([before, peak()]))\n"
    )
    found = {"window": window_blocks * 256 * sum(TEACHERS.values()) * 2 * 2 / 2**20}
    for name, call in (("all", "features(2)"), ("drawn", "features(2, sampling='uniform_one')")):
        done = subprocess.run([sys.executable, "-c", code.format(call)], check=True, capture_output=True, text=True)
        before, after = json.loads(done.stdout)
        found |= {f"{name}_before": round(before), f"{name}_peak": round(after)}
    return found


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    return {"cores": os.cpu_count(), "system": platform.platform(), "zarr": zarr.__version__, **versions}


def make_data(out: Path, rows: int) -> FeatureStore:
    """Make the store and the array that the peers' data are made of."""
    sum(make_store(out / "store", rows=rows, widths=TEACHERS, present=dict.fromkeys(TEACHERS, 1.0)))
    store = FeatureStore(out / "store")
    features = np.lib.format.open_memmap(out / "features.npy", "w+", np.float16, (rows, 2 * len(TEACHERS), 512))
    for number, (teacher, side) in enumerate(itertools.product(store.teachers, SIDES)):
        features[:, number] = store.read(slice(0, rows), teacher=teacher, side=side)
    return store


def loaders(ours: Ours, limit: MemoryLimit, peers: Peers | None, names: list[str]) -> dict[tuple[str, ...], Measure]:
    """Return how each loader is measured, with 0 and 2 workers."""
    found: dict[tuple[str, ...], Measure] = {}
    for workers in (0, 2):
        key = str(workers)
        found["ours", key] = lambda threads=max(1, workers): ours.speed(ours.features(threads))
        found["memory_limit", key] = partial(limit.speed, workers)
        found["memory_limit_reusing", key] = partial(limit.speed, workers, reuse=True)
        for name in names if peers else []:
            found[name, key] = partial(peers.speed, name, workers)
        found["ours_one_drawn_teacher", key] = lambda threads=max(1, workers): ours.speed(
            ours.features(threads, sampling="uniform_one")
        )
    found["zarr", "0"] = ours.through_zarr
    return found


def main() -> None:
    """Make everything, measure, print tables, write the JSON, delete what was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rows", type=int, default=131072)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = options.out / "store_speed"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    loads = [os.getloadavg()[0]]
    try:
        store = make_data(work, options.rows)
        peers = Peers(options.peers, work) if options.peers else None
        made = {name: peers.ask(make=name) for name in PEERS} if peers else {}
        working = [name for name, answer in made.items() if "version" in answer]
        ours, limit = Ours(store), MemoryLimit(store)
        warm = nested(medians(loaders(ours, limit, peers, working), options.rounds))
        found: dict[str, Any] = {"batches_pairs_per_s": warm}
        found["write_MB_per_s"] = single(medians(write_speeds(work), options.rounds))
        found["read_MB_per_s"] = single(medians(read_speeds(work, store), options.rounds))
        # The limit's arrays go, so that the page cache has room for what is read.
        del limit
        cold: dict[tuple[str, ...], Measure] = {("ours", "2"): partial(ours.cold_speed, work / "store")}
        for name in working:
            folder = work / "peers" / name
            cold[name, "0"] = partial(after_dropping, folder, partial(peers.speed, name, 0)) if peers else float
        found["cold_batches_pairs_per_s"] = nested(medians(cold, options.cold_rounds))
        found["memory_MiB"] = {str(blocks): peak_memory(work, blocks) for blocks in (64, WINDOW_BLOCKS)}
        if peers:
            peers.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    loads.append(os.getloadavg()[0])
    peer_versions = {name: answer.get("version", answer.get("error")) for name, answer in made.items()}
    found["machine"] = {**machine(), "load": loads, "rows": options.rows, "batch": BATCH, "peers": peer_versions}
    (options.out / "store.json").write_text(json.dumps(found, indent=1) + "\n")
    for title, rows in found.items():
        if title.endswith("_per_s"):
            table(title, rows)
    print(json.dumps({"memory_MiB": found["memory_MiB"], "machine": found["machine"]}, indent=1))


if __name__ == "__main__":
    main()
