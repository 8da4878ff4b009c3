"""The reader of this tree beside that of another one: ``python -m tests.benchmarks.store.reader_versions OLD_TREE``.

OLD_TREE is a checkout of an earlier commit with ``store.read.chunks``, made by ``git worktree add``. Each tree makes
stores of the same features in its own format. Both readers read the same windows in turns, each figure in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS, CHUNK_ROWS, WINDOW_CHUNKS, OFFSET = 131_072, 256, 256, 30_000
WIDTHS = {f"t{number}": 512 for number in range(3)}
WARM_UP = 2
"""Spans that are read before those that count."""


def spans(rows: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield windows of shuffled chunks, each begun in the middle of the one before, as the trainer's spans are."""
    rng, rest = np.random.default_rng(1), np.empty(0, np.int64)
    while True:
        order = rng.permutation(rows // CHUNK_ROWS)
        for first in range(0, len(order) - WINDOW_CHUNKS + 1, WINDOW_CHUNKS):
            chunks = order[first : first + WINDOW_CHUNKS, None]
            window = rng.permutation((chunks * CHUNK_ROWS + np.arange(CHUNK_ROWS)).ravel())
            if len(rest):
                yield np.concatenate([rest, window[:OFFSET]])
            rest = window[OFFSET:]


def drop_from_page_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(where: str, count: int, *, cold: bool) -> dict[str, Any]:
    """Return rows per second of the reader that this process imports, and a checksum of the rows."""
    from store.read.chunks import Ask, ChunkReader
    from store.read.reader import FeatureStore

    store = FeatureStore(where)
    reader, each, seconds, checksum = ChunkReader(store), spans(store.info.rows), [], 0.0
    now = next(each)
    for _ in range(count):
        soon = next(each)
        if cold:
            drop_from_page_cache(Path(where))
        start = time.perf_counter()
        found = reader.read_many([Ask(teachers=(name,), rows_B=now, soon=soon) for name in store.teachers])
        seconds.append(time.perf_counter() - start)
        checksum += sum(float(values[::1000].astype(np.float64).sum()) for values in found.values())
        now = soon
    return {
        "rows_per_s": round(len(now) / statistics.median(seconds[WARM_UP:])),
        "checksum": round(checksum, 6),
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "gets": getattr(store.location, "requests", {}).get("get"),
    }


def make(work: Path) -> None:
    """Make the stores, by the tree that this process imports."""
    from tests.benchmarks.store import synthetic_store as synthetic

    present, plain = dict.fromkeys(WIDTHS, 1.0), synthetic.spec_of
    sum(synthetic.make_store(work / "f16", rows=ROWS, widths=WIDTHS, present=present))
    sum(synthetic.make_store(work / "small", rows=ROWS, widths=WIDTHS, present=present, range_rows=1024))
    synthetic.spec_of = lambda *of: plain(*of).model_copy(update={"stored_dtype": "int8"})
    sum(synthetic.make_store(work / "i8", rows=ROWS, widths=WIDTHS, present=present))


def compare(old: Path, *, rounds: int) -> None:
    from tests.s3_server import S3Server

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        server = S3Server(work / "s3").start()
        for tree in (old, Path.cwd()):
            name = name_of(tree)
            (work / name).mkdir()
            call(tree, "--make", str(work / name))
            shutil.copytree(work / name / "f16", work / "s3/bucket" / name)
        cases = {
            "float16, page cache": (str(work / "{tree}/f16"), 8, False),
            "float16, ranges of 1,024 rows, page cache": (str(work / "{tree}/small"), 8, False),
            "float16, cold": (str(work / "{tree}/f16"), 5, True),
            "int8, page cache": (str(work / "{tree}/i8"), 6, False),
            "S3 on the loopback": ("s3://bucket/{tree}", 5, False),
        }
        try:
            for name, case in cases.items():
                print(f"{name}: {json.dumps(beside(old, case, server.environment, rounds=rounds))}")
        finally:
            server.close()


def name_of(tree: Path) -> str:
    return "new" if tree == Path.cwd() else "old"


def call(tree: Path, *arguments: str, **environment: str) -> str:
    """Run this program with the packages of a tree, and return what it prints."""
    shared = {**os.environ, **environment, "PYTHONPATH": str(tree)}
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, cwd=tree, env=shared, capture_output=True, text=True, check=True).stdout


def beside(old: Path, case: tuple[str, int, bool], environment: dict[str, str], *, rounds: int) -> dict[str, Any]:
    where, count, cold = case
    trees, found = (old, Path.cwd()), {}
    for number in range(rounds):
        for tree in trees[:: 1 if number % 2 == 0 else -1]:
            place = where.format(tree=name_of(tree))
            done = call(tree, "--one", place, str(count), *(["--cold"] if cold else []), **environment)
            found.setdefault(tree, []).append(json.loads(done))
    before, after = (found[tree] for tree in trees)
    assert {one["checksum"] for one in before} == {one["checksum"] for one in after}, "the readers disagree"
    for of in (before, after):
        of[-1]["rows_per_s"] = statistics.median(one["rows_per_s"] for one in of)
    ratio = round(after[-1]["rows_per_s"] / before[-1]["rows_per_s"], 2)
    return {"before": before[-1], "after": after[-1], "ratio": ratio, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("STORE", "SPANS"), help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make)
    elif options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), cold=options.cold)))
    elif options.tree:
        compare(options.tree.resolve(), rounds=options.rounds)
    else:
        parser.error("give OLD_TREE")


if __name__ == "__main__":
    main()
