"""Make the small store of tests/store/fixtures anew: ``python -m tests.store.make_fixture``.

It is committed, so that a change of the format shows as a store of yesterday that no longer reads as it did. Make it
anew only with a new format version, and keep the old one beside it.

20 pairs in three ranges of eight, chunks of four; the image of row 5 cannot be decoded. Teacher ``alpha`` (float16, 4
wide) is complete. Teacher ``beta`` (int8, 6 wide) lacks range 1, and was told to skip rows 2 and 3. Features are made
of the Pythagorean triples 3 4 5, 5 12 13 and 8 15 17, so that every stored number can be worked out by hand.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from store.corpus.section import Corpus
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PairTable
from store.format.records import Spec, Status, StoreInfo
from store.index.create import index_corpus
from store.io.location import locate

FIXTURE = Path(__file__).parent / "fixtures/small"
FIXTURE_1 = Path(__file__).parent / "fixtures/small_1"
"""The same store as programs wrote it before format 2."""

ROWS, RANGE_ROWS, CHUNK_ROWS = 20, 8, 4
BAD_ROW, HOLE, SKIPPED = 5, 1, (2, 3)
CORPUS_ROOT = "/corpora/small"
MTIME_NS = 1_795_392_000_000_000_000
TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17))
MODALITIES = ("xray", "ct", None)


def members(row: int) -> list[tuple[str, bytes]]:
    """Return the tar's members of one pair: image, caption, metadata."""
    buffer = io.BytesIO()
    Image.new("RGB", (8 + row, 8), (10 * row, 5 * row, 255 - row)).save(buffer, format="PNG")
    image = b"no image" if row == BAD_ROW else buffer.getvalue()
    metadata = {"modality": MODALITIES[row % 3], "split": "train" if row < 16 else "test", "license": "CC0-1.0"}
    text = f"finding {row}" if row else "Größe 3 µm, grade Ⅱ 🩻"
    name = f"pair{row:02d}"
    return [
        (f"{name}.png", image),
        (f"{name}.txt", text.encode()),
        (f"{name}.json", json.dumps(metadata).encode()),
    ]


def write_corpus(folder: Path) -> Path:
    """Write the tar, with the same bytes and the same time each time."""
    folder.mkdir(parents=True)
    path = folder / "000.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in (member for row in range(ROWS) for member in members(row)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    os.utime(path, ns=(MTIME_NS, MTIME_NS))
    return path


def spec(teacher: str) -> Spec:
    width, dtype = {"alpha": (4, "float16"), "beta": (6, "int8")}[teacher]
    return Spec(
        teacher=teacher,
        embed_dim=width,
        weights_sha256="ab" * 32,
        architecture={"layers": 2, "eps": 1e-05, "name": "Größe"},
        preprocessing={"size": 8, "mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]},
        tokenizer={"context_length": 16},
        output="projected, L2-normalised",
        compute_dtype="float32",
        stored_dtype=dtype,
        notes={"licence": "CC0-1.0"},
    )


def features(teacher: str, start: int, stop: int) -> UnitFeatures:
    """Return image (a/c, b/c) and text (b/c, a/c) of the row's triple, beginning at entry ``row % (width - 1)``."""
    width = spec(teacher).embed_dim
    image, text = np.zeros((2, stop - start, width), np.float32)
    for position, row in enumerate(range(start, stop)):
        a, b, c = TRIPLES[row % 3]
        first = row % (width - 1)
        image[position, first : first + 2] = a / c, b / c
        text[position, first : first + 2] = b / c, a / c
    status = np.full(stop - start, Status.OK, np.uint8)
    reasons = {}
    if start <= BAD_ROW < stop:
        status[BAD_ROW - start] = Status.BAD_IMAGE
        reasons[BAD_ROW - start] = "not an image that Pillow knows (it begins with b'no image')"
    if teacher == "beta":
        status[[row - start for row in SKIPPED if start <= row < stop]] = Status.NOT_APPLICABLE
    return UnitFeatures(image=image, text=text, status=status, reasons=reasons)


def make(folder: Path) -> None:
    """Write corpus and store below a folder that is not there yet."""
    tar, store = write_corpus(folder / "corpus"), folder / "store"
    corpus = Corpus(files=[str(tar)])
    info, _ = index_corpus(store, corpus, range_rows=RANGE_ROWS, chunk_rows=CHUNK_ROWS, workers=1)
    for teacher in ("alpha", "beta"):
        commit(store, teacher, info)
    for path in store.glob("receipts/*/*.json"):
        # What a clock said is of that day.
        edit(path, finished="2026-11-23T12:00:00+00:00", timings_s={"decode": 0.5})
    # Where it was made is nobody's business, and a test that needs that place would pass on one machine only.
    edit(store / "store.json", corpus_root=CORPUS_ROOT)
    (store / "writer.lock").unlink()


def commit(store: Path, teacher: str, info: StoreInfo) -> None:
    location = locate(store)
    register_teacher(location, spec(teacher), info=info)
    for range_id in range(info.ranges):
        if (teacher, range_id) == ("beta", HOLE):
            continue
        start, stop = info.bounds(range_id)
        commit_unit(
            location,
            info=info,
            spec=spec(teacher),
            range_id=range_id,
            pairs=PairTable(location, info).read(start, stop),
            features=features(teacher, start, stop),
            circumstances=Circumstances(
                device="cpu",
                batch_size=2,
                run_id="fixture",
                attempt=1,
                timings_s={"decode": 0.5},
                versions={"zarr": "3"},
            ),
        )


def edit(path: Path, **changes: str) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}, indent=1) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURE
    shutil.rmtree(target, ignore_errors=True)
    make(target)
    sys.stdout.write(f"{target}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file()):,} bytes\n")
