"""Exports, read back by pyarrow, numpy and tarfile alone."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extract.run.pixels import make_pixels
from store.errors import ConfigError, CorpusError, StoreError
from store.export.formats import export
from store.format.pixels import Pixels, PixelSpec
from store.format.records import Status
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.store import damage

ROOT = Path(__file__).parents[3]

WEBDATASET_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""The pattern by which webdataset splits a member's name into key and suffix (tariterators.base_plus_ext)."""


@pytest.fixture
def full(units):
    """Ranges 0 and 1 of alpha, row 5 without image; range 2 of beta."""
    units.register()
    units.register("beta")
    features = units.features(1)
    features.status[1] = Status.BAD_IMAGE
    units.commit(0)
    units.commit(1, features=features)
    units.commit(2, teacher="beta")
    return units


@pytest.fixture(params=["folder", "memory"])
def store(request, full, tmp_path):
    if request.param == "folder":
        return FeatureStore(full.location)
    return FeatureStore(damage.copy(full.location, locate(f"memory://export/{tmp_path.name}")))


def samples(folder):
    """Read tars as the webdataset library does: neighbours of one key are one sample."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = WEBDATASET_NAME.match(member.name).groups()
                assert suffix not in found.setdefault(key, {})
                assert list(found)[-1] == key
                found[key][suffix] = tar.extractfile(member).read()
    return found


def test_parquet_holds_pairs_and_features_side_by_side(store, tmp_path):
    done = export(store, out=tmp_path / "out", file_format="parquet")
    assert done.files == [f"rows/part-{number:06d}.parquet" for number in range(3)]
    table = pq.read_table([tmp_path / "out" / name for name in done.files])
    assert (
        table.select(["row", "key", "caption"]).to_pylist()
        == store.pairs.read(0, 10, ["row", "key", "caption"]).to_pylist()
    )
    assert table.schema.field("alpha_image").type == pa.list_(pa.float16(), 6)
    for teacher in ("alpha", "beta"):
        for side in ("image", "text"):
            read = np.stack(table[f"{teacher}_{side}"].to_numpy(zero_copy_only=False))
            np.testing.assert_array_equal(read, store.read(slice(0, 10), teacher=teacher, side=side))
        assert table[f"{teacher}_status"].to_pylist() == store.status(teacher).tolist()
        assert table[f"{teacher}_similarity"].to_pylist() == store.similarity(teacher).tolist()


def test_npz_holds_the_arrays_of_a_teacher_and_its_pairs_beside_it(store, tmp_path):
    done = export(store, out=tmp_path / "out", file_format="npz", rows=(2, 9))
    assert done.files == ["alpha.npz", "beta.npz", "pairs.jsonl"]
    pairs = [json.loads(line) for line in (tmp_path / "out/pairs.jsonl").read_text().splitlines()]
    assert [pair["key"] for pair in pairs] == [f"p{number:02d}" for number in range(2, 9)]
    with np.load(tmp_path / "out/alpha.npz", allow_pickle=False) as arrays:
        assert arrays["row"].tolist() == list(range(2, 9))
        for side in ("image", "text"):
            assert arrays[side].dtype == np.float16
            np.testing.assert_array_equal(arrays[side], store.read(slice(2, 9), teacher="alpha", side=side))
        np.testing.assert_array_equal(arrays["similarity"], store.similarity("alpha")[2:9])
        assert arrays["status"].tolist() == [1, 1, 1, 2, 1, 1, 0]


def test_tars_hold_image_caption_metadata_and_features_of_each_pair(store, tmp_path):
    done = export(store, out=tmp_path / "out", file_format="webdataset", teachers=["alpha"])
    assert done.files == ["000000.tar", "000001.tar", "000002.tar"]
    found = samples(tmp_path / "out")
    pairs = store.pairs.read(0, 10).to_pylist()
    assert list(found) == [pair["key"] for pair in pairs]
    for row, (pair, sample) in enumerate(zip(pairs, found.values(), strict=True)):
        assert hashlib.sha256(sample["png"]).hexdigest() == pair["image_sha256"]
        assert sample["txt"].decode() == pair["caption"]
        metadata = json.loads(sample["json"])
        assert (metadata["row"], metadata["key"], metadata["modality"]) == (row, pair["key"], pair["modality"])
        status = Status(int(store.status("alpha")[row]))
        assert metadata["teachers"]["alpha"]["status"] == status.name.lower()
        assert ("alpha.image.npy" in sample) == ("alpha.text.npy" in sample) == (status == Status.OK)
        if status == Status.OK:
            image = np.load(io.BytesIO(sample["alpha.image.npy"]), allow_pickle=False)
            np.testing.assert_array_equal(image, store.read(np.array([row]), teacher="alpha", side="image")[0])


def test_keys_that_webdataset_would_cut_are_replaced_and_kept_in_the_metadata(full, tmp_path):
    names = {1: "fig.1", 2: "/root", 3: "../up", 4: "folder.v2/fig", 5: ".hidden"}
    for row, key in names.items():
        damage.edit_pairs(full.location, at=row, key=key)
    export(FeatureStore(full.location), out=tmp_path / "out", file_format="webdataset")
    found = samples(tmp_path / "out")
    assert list(found)[:6] == ["p00", "row000000001", "row000000002", "row000000003", "folder.v2/fig", "row000000005"]
    assert json.loads(found["row000000001"]["json"])["key"] == "fig.1"


def test_pairs_whose_image_is_not_to_be_had_are_named_and_left_out(full, tmp_path):
    damage.edit_pairs(full.location, at=3, uri=None, member=None)
    damage.edit_pairs(full.location, at=4, member={"offset": 0, "nbytes": 100})
    damage.edit_pairs(full.location, at=8, uri="nowhere.tar")
    done = export(FeatureStore(full.location), out=tmp_path / "out", file_format="webdataset")
    assert [(row.row, row.key) for row in done.skipped] == [(3, "p03"), (4, "p04"), (8, "p08")]
    assert "no image" in done.skipped[0].reason
    assert "not an image" in done.skipped[1].reason
    assert "nowhere.tar" in done.skipped[2].reason
    assert done.written == 7
    assert list(samples(tmp_path / "out")) == ["p00", "p01", "p02", "p05", "p06", "p07", "p09"]
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert [row["key"] for row in record["skipped"]] == ["p03", "p04", "p08"]


def test_a_corpus_that_is_elsewhere_ends_the_export_and_leaves_no_folder(full, tmp_path):
    with pytest.raises(CorpusError, match="not where the store says"):
        export(
            FeatureStore(full.location, corpus_root=tmp_path / "gone"),
            out=tmp_path / "out",
            file_format="webdataset",
        )
    assert not (tmp_path / "out").exists()


def test_the_record_says_what_the_files_hold(full, tmp_path):
    done = export(FeatureStore(full.location), out=tmp_path / "out", file_format="npz", rows=(None, 6))
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record == json.loads(json.dumps(asdict(done)))
    assert (record["format"], record["rows"], record["written"], record["skipped"]) == ("npz", [0, 6], 6, [])
    shape = {"width": 6, "dtype": "float16", "sides": ["image", "text"]}
    assert record["teachers"] == {
        "alpha": {**shape, "spec_hash": full.spec().hash, "rows_ok": 5},
        "beta": {**shape, "spec_hash": full.spec("beta").hash, "rows_ok": 0},
    }


def test_what_a_killed_export_left_is_cleared_away_and_a_full_folder_is_refused(full, tmp_path):
    store, out = FeatureStore(full.location), tmp_path / "out"

    def kill(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, out=out, file_format="parquet", advance=kill)
    assert not out.exists()
    out.mkdir()
    export(store, out=out, file_format="npz", rows=(1, 2))
    assert sorted(path.name for path in out.iterdir()) == ["alpha.npz", "beta.npz", "export.json", "pairs.jsonl"]
    assert not (tmp_path / ".out.partial").exists()
    with pytest.raises(ConfigError, match="is there already and not empty"):
        export(store, out=out, file_format="npz")


@pytest.mark.parametrize("rows", [(4, 4), (0, 11), (10, None), (7, 3)])
def test_rows_that_are_not_there_are_refused(full, tmp_path, rows):
    with pytest.raises(StoreError, match="the store has 0:10"):
        export(FeatureStore(full.location), out=tmp_path / "out", file_format="npz", rows=rows)


def run(*arguments):
    command = [sys.executable, "-m", "store", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.end_to_end
def test_the_command_exports_chosen_rows_and_teachers(full, tmp_path):
    damage.edit_pairs(full.location, at=3, uri=None, member=None)
    out = tmp_path / "out"
    done = run("export", full.path, "--out", out, "--format", "webdataset", "--teacher", "alpha", "--rows", "2:6")
    assert done.returncode == 0
    assert done.stdout == f"{out}: 3 rows with alpha in 2 files (webdataset)\n"
    assert "row 3, p03: left out" in done.stderr
    assert "1 rows were left out" in done.stderr
    assert list(samples(out)) == ["p02", "p04", "p05"]


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--rows", "3"), 2, "expected A:B"),
        (("--rows", "3:99"), 1, "there are no rows 3:99"),
        (("--teacher", "gamma"), 1, "no teacher 'gamma'"),
        (("--format", "csv"), 2, "csv"),
    ],
)
def test_the_command_refuses_what_is_not_there(full, tmp_path, options, code, message):
    done = run("export", full.path, "--out", tmp_path / "out", "--format", "npz", *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def without_corpus(full):
    """The store with images of its own; its corpus is gone."""
    make_pixels(full.path, PixelSpec.of(Pixels(short_side_px=6)), threads=1)
    shutil.rmtree(full.path.parent / "corpus")
    return FeatureStore(full.path)


def test_without_a_corpus_tars_hold_the_stores_own_images(without_corpus, tmp_path, caplog):
    done = export(without_corpus, out=tmp_path / "out", file_format="webdataset")
    assert (done.written, done.skipped) == (10, [])
    found = samples(tmp_path / "out")
    for row, sample in enumerate(found.values()):
        (image,) = (sample[suffix] for suffix in ("jpg", "png") if suffix in sample)
        assert image == without_corpus.pixels.fetch(row)
    assert "the store's own images are taken, with short sides of at most 6 px" in caplog.text


@pytest.mark.end_to_end
def test_without_a_corpus_the_image_of_a_row_is_the_stores_own(without_corpus, tmp_path):
    done = run("row", without_corpus.location, "7", "--image", tmp_path / "image")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image").read_bytes() == without_corpus.pixels.fetch(7)
    assert "the store's own images are taken" in " ".join(done.stderr.split())
