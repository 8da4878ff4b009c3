"""CPU milliseconds that indexing takes for a pair, by the layout of the corpus.

python -m tests.benchmarks.store.index_speed [--before COMMIT]

Each figure is a process of its own on one core, the best of three; with an earlier commit both read the same corpora
in turns.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.benchmarks.before_and_now import codes_of, parser_of
from tests.benchmarks.tables import table

PAIRS = 6_000
IMAGE_PX = 64

MEASURE = """
import sys, time
from store.corpus.section import Corpus
from store.index.merge import read_corpus
corpus = Corpus(files=[sys.argv[1]])
found = []
for _ in range(3):  # the first time modules are imported too
    began = time.process_time()
    rows = read_corpus(corpus).table.num_rows
    found.append(1000 * (time.process_time() - began) / rows)
print(min(found))
"""


def make(folder: Path) -> dict[str, Path]:
    """Make the same pairs in several layouts, and return the files."""
    rng = np.random.default_rng(1)
    images, captions = [], [f"a caption of pair {number}, of some length as they are" for number in range(PAIRS)]
    for _ in captions:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (IMAGE_PX, IMAGE_PX, 3)).astype(np.uint8)).save(buffer, "JPEG")
        images.append(buffer.getvalue())
    names = [f"images/{number:05d}.jpg" for number in range(PAIRS)]
    (folder / "images").mkdir()
    for name, image in zip(names, images, strict=True):
        (folder / name).write_bytes(image)
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            for suffix, content in (("jpg", image), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *zip(names, captions, strict=True)])
    records = [{"image": name, "caption": caption} for name, caption in zip(names, captions, strict=True)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.table({"image": images, "caption": captions}), folder / "pairs.parquet", row_group_size=1000)
    return {name: folder / f"pairs.{name}" for name in ("tar", "csv", "jsonl", "parquet")}


def main() -> None:
    """Read each layout, and print a table."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        codes, rows = codes_of(options, work), []
        for layout, file in make(work).items():
            found: dict[str, list[float]] = {name: [] for name in codes}
            for number in range(options.rounds):
                for name in [*codes][:: 1 if number % 2 == 0 else -1]:
                    command = [sys.executable, "-c", MEASURE, str(file)]
                    done = subprocess.run(command, cwd=codes[name], capture_output=True, text=True, check=True)
                    found[name].append(float(done.stdout))
            rows.append([layout, *(statistics.median(values) for values in found.values())])
    table(("layout", *(f"CPU ms a pair, {name}" for name in codes)), rows, title=f"{PAIRS:,} JPEGs of {IMAGE_PX} px")


if __name__ == "__main__":
    main()
