"""Measures what checksums cost an epoch of reading, and what one row costs in stores of several sizes.

python -m tests.benchmarks.store.checking --rounds 7

An epoch reads every chunk once, in windows like the trainer's, each in a process of its own, with and without checksums
in turns. The large stores have one range and one part of the pair table: a reader of one row asks for no other.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pair_writer import PART_ROWS, PairWriter
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.records import STORE_KEY, Status, StoreInfo, write_record
from store.io.location import locate
from tests.benchmarks.tables import table

from .rehearsal_phases import drop_cached
from .synthetic_store import make_store, spec_of, unit_rows

ROWS, CHUNK_ROWS = 262_144, 256
WIDTHS = {f"t{number}": 512 for number in range(3)}
SIZES = (1_000_000, 10_000_000, 100_000_000)
READS = 200


def epoch(where: str, verify: Any) -> float:
    """Return seconds of the first epoch of the trainer's targets."""
    import torch

    from store.read.reader import FeatureStore

    from .store_speed import Ours

    torch.set_num_threads(1)
    ours = Ours(FeatureStore(where, verify=verify))
    start = time.perf_counter()
    for _ in islice(ours.features(2), ours.order.steps_per_epoch):
        pass
    return time.perf_counter() - start


def checksum_cost(where: Path, *, rounds: int, cold: bool) -> list[float]:
    """Return median seconds of an epoch without and with checksums, and their ratio."""
    found: dict[str, list[float]] = {"never": [], "first": []}
    for number in range(rounds):
        for verify in [*found][:: 1 if number % 2 == 0 else -1]:
            if cold:
                drop_cached(where)
            command = [sys.executable, "-m", __spec__.name, "--epoch", str(where), verify]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[verify].append(float(done.stdout))
    never, first = (statistics.median(found[verify]) for verify in ("never", "first"))
    return [never, first, first / never]


def make_large(path: Path, rows: int) -> int:
    """Make a store of which one range in the middle is there, and return its first row."""
    location, spec, parts = locate(path), spec_of("t", 512), [PART_ROWS] * (rows // PART_ROWS)
    shape: dict[str, Any] = {"rows": sum(parts), "range_rows": 8192, "chunk_rows": CHUNK_ROWS, "parts": parts}
    info = StoreInfo(**shape, created_by="tests.benchmarks.store.checking", corpus_root="/nowhere", corpus={})
    before = len(parts) // 2
    writer = PairWriter(location, range_rows=8192, after=cast("Any", SimpleNamespace(parts=parts[:before])))
    columns = {field.name: pa.nulls(PART_ROWS, field.type) for field in PAIR_SCHEMA if field.name != "row"}
    writer.add(pa.table(columns | {"key": pa.array([f"pair{row:08d}" for row in range(PART_ROWS)])}))
    write_record(location, STORE_KEY, info)
    register_teacher(location, spec, info=info)
    row = before * PART_ROWS
    rng = np.random.default_rng(1)
    image, text = (unit_rows(rng, 8192, 512) for _ in range(2))
    commit_unit(
        location,
        info=info,
        spec=spec,
        range_id=row // 8192,
        pairs=PairTable(location, info).read(row, row + 8192),
        features=UnitFeatures(image=image, text=text, status=np.full(8192, Status.OK, np.uint8), reasons={}),
        circumstances=Circumstances(device="none", batch_size=1, run_id="x", attempt=1, timings_s={}, versions={}),
    )
    return row


def one_row(where: Path, row: int) -> float:
    """Return the median milliseconds from opening a store to a row's feature."""
    from store.read.reader import FeatureStore

    seconds = []
    for number in range(READS):
        start = time.perf_counter()
        assert FeatureStore(where).read(np.array([row + number]), teacher="t", side="image").any()
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds) * 1000, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epoch", nargs=2, metavar=("STORE", "VERIFY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.epoch:
        print(epoch(*options.epoch))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sum(make_store(work / "f16", rows=ROWS, widths=WIDTHS, present=dict.fromkeys(WIDTHS, 1.0)))
        cases = {"page cache": False, "cold": True}
        rows = ([name, *checksum_cost(work / "f16", rounds=options.rounds, cold=cold)] for name, cold in cases.items())
        table(("an epoch", "`verify: never`, s", "`first`, s", "ratio"), rows, title=f"{ROWS:,} rows, three teachers")
        costs = {size: one_row(work / str(size), make_large(work / str(size), size)) for size in SIZES}
        rows = ([size, cost, cost / costs[SIZES[0]]] for size, cost in costs.items())
        table(("rows", "ms", "ratio to the smallest"), rows, title="From opening a store to one row")


if __name__ == "__main__":
    main()
