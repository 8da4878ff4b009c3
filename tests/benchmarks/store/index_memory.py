"""Memory of indexing and appending: peaks in processes of their own, by rows, and what 24 M rows would take.

python -m tests.benchmarks.store.index_memory
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store.corpus.account import Account
from store.corpus.curation import Keep
from store.corpus.section import Corpus
from store.format.key_index import hash_texts
from store.index import append, create, indexing
from store.index.index_file import ACCOUNT_KEY, CANDIDATE_SCHEMA
from store.io.location import Location
from tests.benchmarks.tables import table

FILE_ROWS = 20_000
"""Pairs of a corpus file; each has a caption of 200 characters."""

WANTED = 24_000_000


def candidates(number: int) -> bytes:
    """Return what a corpus file of no content becomes: indexing images would take hours, and hold no memory."""
    names = [f"file{number:05d}/pair{row:08d}" for row in range(FILE_ROWS)]
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    # One image in fifty was there before.
    digests = [digests[row // 2] if row % 50 == 1 else digest for row, digest in enumerate(digests)]
    images = np.array([int(digest[:16], 16) for digest in digests], np.uint64)
    columns = {
        "key": names,
        "uri": [f"{number:05d}.tar"] * FILE_ROWS,
        "caption": [
            f"{digest} a finding of the {name}".ljust(200, "x") for name, digest in zip(names, digests, strict=True)
        ],
        "image_sha256": digests,
        "group": np.arange(FILE_ROWS),
        "key_hash": hash_texts(names),
        "image_hash": images,
        "pair_hash": images ^ hash_texts(names),
    }
    nulls = [None] * FILE_ROWS
    arrays = [pa.array(columns.get(field.name, nulls), field.type) for field in CANDIDATE_SCHEMA]
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, CANDIDATE_SCHEMA, compression="zstd") as writer:
        writer.write_table(pa.Table.from_arrays(arrays, schema=CANDIDATE_SCHEMA), row_group_size=4096)
        report = Account(pairs=FILE_ROWS, usable=FILE_ROWS)
        writer.add_key_value_metadata({ACCOUNT_KEY: report.model_dump_json()})
    return buffer.getvalue()


def _make(location: Location, key: str, file: object, *_: object, prefix: str) -> None:
    del prefix
    location.write(key, candidates(int(Path(str(file.uri)).stem)))


def measure(what: str, folder: Path, rows: int) -> None:
    """Index or append corpus files, and print seconds and the peak of the process as JSON."""
    indexing._make = _make  # type: ignore[assignment]
    begin = int(what == "append") * 10**4
    for number in range(begin, begin + rows // FILE_ROWS):
        (folder / f"{number:05d}.tar").touch()
    corpus = Corpus(files=[str(folder / "*.tar")], keep=Keep(duplicates="image"))
    began = time.perf_counter()
    if what == "index":
        create.index_corpus(folder / "store", corpus, range_rows=8192, chunk_rows=256, workers=1)
    else:
        append.append_corpus(folder / "store", corpus, workers=1)
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak
    print(json.dumps({"seconds": round(time.perf_counter() - began, 1), "peak_mb": int(peak[1]) // 1024}))


def main() -> None:
    """Index N rows and append N more, for two N."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=[500_000, 2_000_000])
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "FOLDER", "ROWS"), help="one step, in this process")
    options = parser.parse_args()
    if options.measure:
        what, folder, rows = options.measure
        measure(what, Path(folder), int(rows))
        return
    peaks: dict[str, list[int]] = {"index": [], "append": []}
    seconds: dict[str, list[float]] = {"index": [], "append": []}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            for what, found in peaks.items():
                command = [sys.executable, "-m", "tests.benchmarks.store.index_memory"]
                command += ["--measure", what, folder, str(rows)]
                done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                found.append(done["peak_mb"])
                seconds[what].append(done["seconds"])
    few, many = options.rows
    rows = []
    for what, (low, high) in peaks.items():
        slope = (high - low) * 2**20 / (many - few)
        rows.append([what, low, high, slope, high + slope * (WANTED - many) / 2**20, *seconds[what]])
    sizes = [f"{few:,} rows", f"{many:,} rows"]
    head = ["peak MiB", *sizes, "bytes a row more", f"{WANTED:,} rows, by slope", *(f"{size}, s" for size in sizes)]
    table(head, rows)


if __name__ == "__main__":
    main()
