"""Measure writing and reading the store beside its limits and what a user would pick instead: ``make bench-store``.

python -m tests.benchmarks.store.store_speed --out DIR --peers PYTHON

PYTHON is that of an environment with numpy, torch, mosaicml-streaming, webdataset and litdata; without it only the
store and the limits are measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
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

from store.format.records import SIDES
from store.read.reader import FeatureStore
from tests.benchmarks.rounds import Measure, medians, nested, single
from tests.benchmarks.tables import table
from train.data.batch_order import BatchOrder
from train.data.target_reader import Sampling, Spans, TargetReader

from .rehearsal_phases import drop_cached, files_below
from .store_io import disk_speed, read_speeds, write_rows, write_speeds
from .synthetic_store import make_store

TEACHERS = {f"teacher{number}": 512 for number in range(6)}
BATCH, WINDOW_BLOCKS, SEED = 1024, 256, 20261123
PAIR_BYTES = sum(TEACHERS.values()) * 2 * 2
OURS, LIMIT = "ours, all six teachers", "memory limit"
PEERS = ("released", "mosaicml_streaming", "webdataset", "litdata")
PEER_PAIRS = {"released": 4096, "mosaicml_streaming": 16384, "webdataset": 16384, "litdata": 65536}
RELEASED_PAIRS = 16384
"""Pairs of the layout with a file per pair: to delete a million small files takes minutes."""


class Ours:
    """The trainer's order, selection, draw and features of a store."""

    def __init__(self, store: FeatureStore, *, window_blocks: int = WINDOW_BLOCKS) -> None:
        self.store, self.available_NT = store, store.available("all")
        rows = np.flatnonzero(self.available_NT.any(axis=1))
        blocks = {"block_rows": store.info.chunk_rows, "window_blocks": window_blocks}
        self.order = BatchOrder(rows, seed=SEED, batch_size=BATCH, **blocks)
        self.span_steps = window_blocks * store.info.chunk_rows // BATCH

    def targets(self, threads: int, *, sampling: Sampling) -> TargetReader:
        """Return the reader of the features of all teachers or of one drawn teacher per row."""
        known: dict[str, Any] = {"teachers": self.store.teachers, "available_NT": self.available_NT, "seed": SEED}
        return TargetReader(self.store, **known, sampling=sampling, threads=threads)

    def features(self, threads: int, *, sampling: Sampling = "all") -> Iterator[int]:
        """Yield the size of each batch of the trainer's targets."""
        for targets in Spans(self.order, self.targets(threads, sampling=sampling), span_steps=self.span_steps):
            yield targets.rows

    def through_zarr(self) -> float:
        """Return pairs per second of a window that `FeatureStore.read` reads."""
        rows = np.concatenate([self.order[step] for step in range(self.span_steps)])
        start = time.perf_counter()
        for teacher, side in itertools.product(self.store.teachers, SIDES):
            self.store.read(rows, teacher=teacher, side=side)
        return len(rows) / (time.perf_counter() - start)

    def speed(self, sizes: Iterator[int], *, spans: int = 4, warm: int = 5) -> float:
        """Return pairs per second, counted from the first step of a span, before the next one is begun."""
        for _ in itertools.islice(sizes, warm * self.span_steps + 1):
            pass
        start = time.perf_counter()
        # Ends with the first step of a span: as many spans are read meanwhile as are counted.
        pairs = sum(itertools.islice(sizes, spans * self.span_steps))
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

    def speed(self, workers: int) -> float:
        """Return pairs per second."""
        order = self._rng.permutation(len(self._arrays[0]))

        def gather(rows: npt.NDArray[np.int64], numbers: range) -> list[npt.NDArray[Any]]:
            return [np.take(self._arrays[k], rows, axis=0, mode="clip") for k in numbers]

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
    found = {"window": window_blocks * 256 * PAIR_BYTES / 2**20}
    for name, call in (("all", "features(2)"), ("drawn", "features(2, sampling='uniform_one')")):
        done = subprocess.run([sys.executable, "-c", code.format(call)], check=True, capture_output=True, text=True)
        before, after = json.loads(done.stdout)
        found |= {f"{name}_before": round(before), f"{name}_peak": round(after)}
    return found


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
        found[OURS, key] = lambda threads=max(1, workers): ours.speed(ours.features(threads))
        found[LIMIT, key] = partial(limit.speed, workers)
        for name in names if peers else []:
            found[name, key] = partial(peers.speed, name, workers)
        found["ours, one drawn teacher a row", key] = lambda threads=max(1, workers): ours.speed(
            ours.features(threads, sampling="uniform_one")
        )
    found["`FeatureStore.read`, through Zarr", "0"] = ours.through_zarr
    return found


def show_batches(warm: dict[str, dict[str, float]], peers: list[str]) -> None:
    """Print shuffled batches: pairs per second, share of the limit, and ours by each peer."""
    head = ["loader"] + [f"{what}, {workers} workers" for what in ("pairs/s", "of the limit", "ours is times this")
                         for workers in (0, 2)]  # fmt: skip
    ours, limit, rows = warm[OURS], warm[LIMIT], []
    for name, speeds in warm.items():
        of_limit = [speeds[key] / limit[key] if key in speeds else None for key in ("0", "2")]
        times = [ours[key] / speeds[key] if name in peers else None for key in ("0", "2")]
        rows.append([name, *(speeds.get(key) for key in ("0", "2")), *of_limit, *times])
    if peers:
        best = {key: max(warm[name][key] for name in peers) for key in ("0", "2")}
        rows.append(["best peer", *best.values(), None, None, *(ours[key] / best[key] for key in best)])
    table(head, rows, title=f"Shuffled batches of {BATCH:,} rows, warm page cache")


def show_cold(cold: dict[str, float]) -> None:
    """Print what is read from the disk beside what the disk gives."""
    disk = max(speed for name, speed in cold.items() if name.startswith("the disk"))
    rows = []
    for name, speed in cold.items():
        mb = speed if name.startswith(("the disk", "whole")) else speed * PAIR_BYTES / 1e6
        rows.append([name, speed if mb is not speed else None, mb, mb / disk])
    table(("read", "pairs/s", "MB/s", "of the disk"), rows, title="Nothing in the page cache")


def measure(work: Path, options: argparse.Namespace) -> None:
    """Make everything, measure, print tables."""
    store = make_data(work, options.rows)
    peers = Peers(options.peers, work) if options.peers else None
    made = {name: peers.ask(make=name) for name in PEERS} if peers else {}
    working = [name for name, answer in made.items() if "version" in answer]
    ours, limit = Ours(store), MemoryLimit(store)
    show_batches(nested(medians(loaders(ours, limit, peers, working), options.rounds)), working)
    # The limit's arrays go, so that the page cache has room for what is read.
    del limit
    writes, waits = write_speeds(work)
    head = ("write", "MB/s", "forced waits", "of numpy + fsync", "of it per forced wait")
    written = single(medians(writes, 3 * options.rounds))
    table(head, write_rows(written, waits), title="Features of one unit, 2 x 8 MiB, forced to disk")
    reads = read_speeds(work, store)
    whole = single(medians(reads, 3 * options.rounds))
    rows = ([name, speed, speed / whole["np.load"]] for name, speed in whole.items())
    table(("read", "MB/s", "of np.load"), rows, title="Whole shards, warm page cache")
    folder, shards = work / "store", [file for file in files_below(work / "store") if file.stat().st_size > 2**20]
    cold: dict[tuple[str, ...], Measure] = {
        (f"the disk, {threads} threads",): partial(disk_speed, shards, threads=threads) for threads in (1, 8)
    }
    for name in ("`ChunkReader.read`", "`ChunkReader.read`, all in one call"):
        cold[f"whole shards, {name}",] = partial(after_dropping, folder, reads[name,])
    cold[f"{OURS}, 2 threads",] = partial(ours.cold_speed, folder)
    for name in working:
        speed = partial(peers.speed, name, 0) if peers else float
        cold[f"{name}, 0 workers",] = partial(after_dropping, work / "peers" / name, speed)
    show_cold(single(medians(cold, options.cold_rounds)))
    memory = {blocks: peak_memory(work, blocks) for blocks in (64, WINDOW_BLOCKS)}
    head = ["chunks in a window", "window, MiB"]
    head += [f"{who}, {when}" for who in ("all", "drawn") for when in ("before", "peak")]
    table(head, ([blocks, *found.values()] for blocks, found in memory.items()), title="Peak resident MiB of a process")
    if peers:
        peers.close()
        versions = ", ".join(f"{name} {answer.get('version', answer.get('error'))}" for name, answer in made.items())
        print(f"\nPeers: {versions}.")


def main() -> None:
    """Measure in a folder that is deleted afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder on the disk to measure")
    parser.add_argument("--peers", type=Path, metavar="PYTHON")
    parser.add_argument("--rows", type=int, default=131072)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = options.out / "store_speed"
    work.mkdir(parents=True)
    try:
        measure(work, options)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
