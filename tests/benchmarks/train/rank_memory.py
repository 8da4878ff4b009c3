"""Memory of one rank of a training by rows of the store, step by step, and what a billion rows would take.

python -m tests.benchmarks.train.rank_memory

The features have width 8, so that the store is small: a rank holds no feature but those of its windows, which do not
grow with the rows. Captions have 200 characters. Each number of rows is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.store.rehearsal_phases import BATCH, PRESENT, SEED, WINDOW_BLOCKS
from tests.benchmarks.store.synthetic_store import make_store

CAPTION_CHARS = 200
WANTED = 10**9


def memory(field: str) -> int:
    """Return a field of this process's status, bytes."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def measure(path: Path) -> dict[str, int]:
    """Do what a rank does before its first step; return the bytes that it holds more after each step, and its peak."""
    import pyarrow as pa

    from store.read.reader import FeatureStore
    from train.data.batch_order import BatchOrder
    from train.data.captions import Captions
    from train.data.pair_source import taught_pairs
    from train.data.store_rows import RunTeachers

    pa.set_memory_pool(pa.system_memory_pool())  # gives memory back at once
    held, found = memory("RssAnon"), dict[str, int]()

    def note(name: str) -> None:
        nonlocal held
        now = memory("RssAnon")
        found[name], held = now - held, now

    store = FeatureStore(path)
    teachers = RunTeachers(selection="all", names=tuple(store.teachers))
    how = {"window_blocks": WINDOW_BLOCKS, "seed": SEED, "shuffle": True}
    pairs = taught_pairs(store, None, teachers=teachers, sampling="uniform_one", **how)
    note("pair table, images")
    captions = Captions(pairs.table["caption"])
    note("captions")
    rows = pairs.rows()
    order = BatchOrder(rows, seed=SEED, batch_size=BATCH, block_rows=pairs.block_rows, window_blocks=WINDOW_BLOCKS)
    steps = [order[0], order[order.steps_per_epoch]]
    targets = pairs.targets()
    note("rows, order of two epochs, teachers of each row")
    assert captions
    assert targets
    assert all(len(rows_B) == BATCH for rows_B in steps)
    return found | {"held": sum(found.values()), "peak": memory("VmHWM")}


def main() -> None:
    """Measure two numbers of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[131_072, 524_288])
    parser.add_argument("--measure", type=Path, help="this store, in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    found = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path, widths = Path(folder) / "store", dict.fromkeys(PRESENT, 8)
            for _ in make_store(path, rows=rows, widths=widths, present=PRESENT, caption_chars=CAPTION_CHARS):
                pass
            command = [sys.executable, "-m", "tests.benchmarks.train.rank_memory", "--measure", str(path)]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    few, many = options.rows
    print(f"| held by | {few:,} rows, MB | {many:,} rows, MB | bytes a row more | GB at {WANTED:,} rows |")
    print("| --- | --- | --- | --- | --- |")
    for name, high in found[1].items():
        low = found[0][name]
        slope = (high - low) / (many - few)
        print(f"| {name} | {low / 1e6:.1f} | {high / 1e6:.1f} | {slope:.1f} | {slope * WANTED / 1e9:.0f} |")


if __name__ == "__main__":
    main()
