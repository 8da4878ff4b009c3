"""Planning over a hundred thousand units: seconds and memory, with and without what earlier plans found.

python -m tests.benchmarks.extract.planning
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from extract.run.plan import plan
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA, PairTable, pairs_digest
from store.format.records import (
    STORE_KEY,
    Receipt,
    Spec,
    StoredObject,
    StoreInfo,
    read_store_info,
    receipt_key,
    record_bytes,
    write_record,
)
from store.io.folder import Folder
from tests.benchmarks.tables import table

RANGE_ROWS, TEACHERS = 16, 9


def spec_of(name: str) -> Spec:
    """Return a spec of no real teacher."""
    return Spec(
        teacher=name,
        embed_dim=512,
        weights_sha256=None,
        architecture={},
        preprocessing={},
        tokenizer={},
        output="none",
        compute_dtype="float32",
    )


def specs() -> dict[str, Spec]:
    """Return the specs of nine teachers."""
    return {f"teacher{number}": spec_of(f"teacher{number}") for number in range(TEACHERS)}


def make(path: Path, *, ranges: int) -> None:
    """Write a pair table and the receipts of every unit; planning looks at nothing else."""
    rows, store = ranges * RANGE_ROWS, Folder(path)
    info = StoreInfo(
        rows=rows, range_rows=RANGE_ROWS, chunk_rows=RANGE_ROWS, created_by="benchmark", corpus_root="/", corpus={}
    )
    writer = PairWriter(store, range_rows=RANGE_ROWS)
    names = [f"pair{row:08d}" for row in range(rows)]
    columns = {"key": names, "caption": [f"a caption of {name}" for name in names], "image_sha256": names}
    schema = PAIR_SCHEMA.remove(0)
    writer.add(pa.table({f.name: pa.array(columns.get(f.name, [None] * rows), f.type) for f in schema}, schema=schema))
    info = info.model_copy(update={"parts": writer.close()})
    write_record(store, STORE_KEY, info)
    pairs = PairTable(store, info)
    for name in specs():
        (path / "receipts" / name).mkdir(parents=True)
    for number in range(ranges):
        start, stop = info.bounds(number)
        digest = pairs_digest(pairs.read(start, stop))
        for name, spec in specs().items():
            objects = {
                f"features.zarr/{name}/{array}/c/{number}": StoredObject(nbytes=1, sha256="0" * 64) for array in "abcd"
            }
            receipt = Receipt(
                teacher=name,
                range=number,
                start=start,
                stop=stop,
                spec_hash=spec.hash,
                pairs_digest=digest,
                objects=objects,
                status_counts={"ok": stop - start},
                bad_rows=[],
                timings_s={"forward_image": 1.0},
                versions={"torch": "2"},
                device="none",
                batch_size=1,
                run_id="benchmark",
                finished="2026-01-01T00:00:00+00:00",
            )
            # Not forced to disk, which would take an hour.
            (path / receipt_key(name, number)).write_bytes(record_bytes(receipt))


def measure(path: Path) -> None:
    """Plan once and print seconds and memory as JSON."""
    store = Folder(path)
    info = read_store_info(store)
    began = time.perf_counter()
    found = plan(store, info=info, pairs=PairTable(store, info), specs=specs())
    seconds = time.perf_counter() - began
    # Not getrusage, which begins with what the program that started this one held.
    peak_mb = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000
    lacking = found.units - found.committed
    print(json.dumps({"units": found.units, "lacking": lacking, "s": round(seconds, 2), "peak MB": round(peak_mb)}))
    found.known.write(store)


def main() -> None:
    """Make a store, plan over it several times, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--store", type=Path, help="one that was made before")
    parser.add_argument("--measure", action="store_true", help="plan once over --store")
    options = parser.parse_args()
    if options.measure:
        measure(options.store)
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = options.store or Path(temporary) / "store"
        if not path.exists():
            make(path, ranges=-(-options.units // TEACHERS))
        rows = []
        for what in ("nothing known", "known", "known", "known"):
            command = [sys.executable, "-m", "tests.benchmarks.extract.planning", "--measure", "--store", str(path)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            rows.append([what, *found.values()])
    table(("receipts", *found), rows)


if __name__ == "__main__":
    main()
