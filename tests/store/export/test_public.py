"""A public export holds nothing of the pairs but what docs/store.md lists, however it is looked at."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from store.corpus.section import Corpus
from store.errors import ConfigError
from store.export.formats import PUBLIC, export
from store.format.commit import commit_unit, register_teacher
from store.format.pairs import PairTable
from store.index.create import index_corpus
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.store.conftest import Units

PLANTED = "geheim"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def planted(tmp_path):
    """A store whose keys, captions, paths, sources, reasons, notes, runs and devices hold a secret."""
    folder = tmp_path / f"{PLANTED}-folder"
    folder.mkdir()
    records = []
    for row in range(6):
        picture = io.BytesIO()
        Image.new("RGB", (8 + row, 8), (row, 0, 0)).save(picture, "PNG")
        (folder / f"{PLANTED}{row}.png").write_bytes(picture.getvalue())
        texts = {name: f"{PLANTED} {name} {row}" for name in ("key", "caption", "source")}
        records.append(
            {**texts, "image": f"{PLANTED}{row}.png", "modality": "ct", "split": "val", "license": "CC0-1.0"}
        )
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    path = folder / "store"
    info, _ = index_corpus(path, Corpus(files=[str(folder / "pairs.jsonl")]), range_rows=4, chunk_rows=2, workers=1)
    units = Units(path, info)
    spec = units.spec(notes={"source": PLANTED, "licence": PLANTED})
    register_teacher(locate(path), spec, info=info)
    for number in range(2):
        features = units.features(number)
        features.status[1], features.reasons[1] = 2, PLANTED
        commit_unit(
            locate(path),
            info=info,
            spec=spec,
            range_id=number,
            pairs=PairTable(locate(path), info).read(*info.bounds(number)),
            features=features,
            circumstances=units.circumstances(f"run-{PLANTED}"),
        )
    return FeatureStore(path)


def everything(folder):
    """All bytes of an export, also of what is compressed in it, and the names of its files."""
    found = []
    for path in sorted(folder.rglob("*")):
        found.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            found.append(path.read_bytes())
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            found.append(json.dumps([table.to_pylist(), str(table.schema.metadata)], default=str).encode())
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                found += [archive.read(name) for name in archive.namelist()]
    return b"\n".join(found)


@pytest.mark.parametrize("file_format", ["parquet", "npz"])
def test_a_public_export_has_no_planted_secret_and_an_ordinary_one_has(planted, tmp_path, file_format):
    export(planted, out=tmp_path / "open", file_format=file_format, public=True)
    export(planted, out=tmp_path / "whole", file_format=file_format)
    assert PLANTED.encode() in everything(tmp_path / "whole")
    public = everything(tmp_path / "open")
    assert PLANTED.encode() not in public
    digests = planted.pairs.read(0, 6, ["image_sha256"])["image_sha256"].to_pylist()
    assert not [digest for digest in digests if digest.encode() in public]
    assert b"CC0-1.0" in public
    assert json.loads((tmp_path / "open/export.json").read_bytes())["store"] is None


def test_a_public_export_has_the_same_features(planted, tmp_path):
    for name, public in (("open", True), ("whole", False)):
        export(planted, out=tmp_path / name, file_format="parquet", public=public)
    tables = {name: pq.read_table(tmp_path / name / "rows") for name in ("open", "whole")}
    assert tables["open"].column_names[: len(PUBLIC)] == list(PUBLIC)
    assert tables["open"].equals(tables["whole"].select(tables["open"].column_names))
    assert "alpha_image" in tables["open"].column_names


def test_images_and_captions_are_not_public(planted, tmp_path):
    with pytest.raises(ConfigError, match="made of images and captions") as caught:
        export(planted, out=tmp_path / "out", file_format="webdataset", public=True)
    assert "--format parquet" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_the_document_lists_the_public_columns():
    [listed] = re.findall(r"writes of the pairs only (.*?), and of", (ROOT / "docs/store.md").read_text())
    assert tuple(re.findall(r"`(\w+)`", listed)) == PUBLIC
