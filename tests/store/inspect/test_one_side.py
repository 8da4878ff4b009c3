"""Numbers about teachers that encode images alone, and their export: nothing is invented for the missing side."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from store.cli.program import app
from store.errors import StoreError
from store.export.formats import export
from store.inspect.agreement import agreement
from store.inspect.coverage import kept, tally
from store.inspect.diff import diff
from store.inspect.feature_statistics import teacher_statistics
from store.inspect.neighbors import neighbors
from store.inspect.summary import describe_row, summarize
from store.read.reader import FeatureStore


@pytest.fixture
def store(units):
    units.fill({})
    units.one_sided()
    return FeatureStore(units.path)


def test_the_summary_says_the_sides_and_counts_no_feature_pair(store):
    summary = summarize(store)
    assert {name: teacher.sides for name, teacher in summary.teachers.items()} == {
        "alpha": ("image", "text"),
        "beta": ("image", "text"),
        "seer": ("image",),
    }
    assert summary.teachers["seer"].rows_ok == 9
    assert summary.feature_pairs == summary.teachers["alpha"].rows_ok + summary.teachers["beta"].rows_ok


def test_a_selection_counts_rows_of_images_alone_and_no_feature_pair_of_them(store):
    found = kept(tally(store, "all"))
    assert {name: sum(counts.values()) for name, counts in found.teachers.items()} == {
        name: teacher.rows_ok for name, teacher in summarize(store).teachers.items()
    }
    assert found.feature_pairs == found.of_feature_pairs == summarize(store).feature_pairs
    assert sum(number * rows for number, rows in enumerate(found.rows_by_teachers)) == found.feature_pairs + 9


def test_a_row_has_neither_norm_nor_similarity_of_the_missing_side(store):
    entry = describe_row(store, 1)["teachers"]["seer"]
    assert (entry["status"], entry["text_norm"], entry["similarity"]) == ("ok", None, None)
    assert entry["image_norm"] == pytest.approx(1, abs=1e-3)


def test_statistics_are_of_the_side_that_is_there(store):
    found = teacher_statistics(store, "seer", sample=100, seed=0)
    assert (found.text, found.similarity_mean, found.similarity_quantiles) == (None, None, {})
    assert (found.rows_ok, found.sample, found.truncated_captions) == (9, 9, None)
    both = teacher_statistics(store, "alpha", sample=100, seed=0)
    assert both.image.norm_mean == pytest.approx(found.image.norm_mean, abs=1e-3)


def test_agreement_compares_the_teachers_that_have_the_side(store):
    found = agreement(store, side="image", sample=100, seed=0)
    assert found.teachers == ("alpha", "beta", "seer")
    assert found.cka[0][2] == pytest.approx(1)
    assert agreement(store, side="text", sample=100, seed=0).teachers == ("alpha", "beta")


def test_neighbors_are_found_by_image_and_refused_by_text(store):
    assert neighbors(store, 1, teacher="seer", side="image", count=3)[0].cosine > -1
    with pytest.raises(StoreError, match="teacher seer encodes images alone"):
        neighbors(store, 1, teacher="seer", side="text", count=3)


def test_stores_with_the_same_and_with_other_images_are_told_apart(store, units, tmp_path):
    shutil.copytree(units.path, tmp_path / "copy")
    assert diff(store, FeatureStore(tmp_path / "copy")).equal
    other = type(units)(tmp_path / "copy", units.info)
    other.location.delete(
        ["receipts/seer/r000000.json", "features.zarr/seer/image/c/0/0", "features.zarr/seer/status/c/0"]
    )
    spec = units.spec("seer", sides=["image"], tokenizer={})
    other.commit(0, teacher="seer", spec=spec, features=replace(units.features(0, seed=5), text=None))
    (different,) = diff(store, FeatureStore(tmp_path / "copy")).teachers["seer"].different
    assert (different.range, set(different.min_cosine)) == (0, {"image"})
    assert different.min_cosine["image"] < 0.99


def test_a_teacher_of_one_side_here_and_of_two_there_differs_in_its_spec(store, units, tmp_path):
    shutil.copytree(units.path, tmp_path / "copy", ignore=shutil.ignore_patterns("seer", "seer.json"))
    other = type(units)(tmp_path / "copy", units.info)
    other.register("seer")
    other.commit(0, teacher="seer", spec=units.spec("seer"))
    found = diff(store, FeatureStore(tmp_path / "copy")).teachers["seer"]
    assert "sides: ('image',) here, ('image', 'text') there" in found.spec
    assert (found.ranges_equal, found.different) == (1, [])


def test_an_export_has_the_arrays_that_are_there_in_every_format(store, tmp_path):
    expected = store.read(slice(None), teacher="seer", side="image")
    exported = export(store, out=tmp_path / "parquet", file_format="parquet")
    assert exported.teachers["seer"]["sides"] == ["image"]
    table = pq.read_table(tmp_path / "parquet/rows")
    of_seer = [name for name in table.column_names if name.startswith("seer_")]
    assert of_seer == ["seer_image", "seer_status"]
    assert {"alpha_text", "alpha_similarity"} <= set(table.column_names)
    export(store, out=tmp_path / "npz", file_format="npz")
    arrays = np.load(tmp_path / "npz/seer.npz")
    assert set(arrays) == {"row", "image", "status"}
    assert np.array_equal(arrays["image"], expected)
    export(store, out=tmp_path / "webdataset", file_format="webdataset", rows=(0, 4))
    with tarfile.open(tmp_path / "webdataset/000000.tar") as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames()}
    assert json.loads(members["p01.json"])["teachers"]["seer"] == {"status": "ok", "similarity": None}
    assert "p01.seer.text.npy" not in members
    assert np.array_equal(np.load(io.BytesIO(members["p01.seer.image.npy"])), expected[1])


@pytest.mark.parametrize(
    "line",
    [
        "info {}",
        "ls {}",
        "row {} 1",
        "stats {}",
        "coverage {}",
        "select {}",
        "provenance {}",
        "agreement {} --side text",
    ],
)
def test_every_command_shows_such_a_store(store, units, capsys, line):
    words = [word.format(units.path) for word in line.split()]
    get_command(app)(words, prog_name="store", standalone_mode=False)
    get_command(app)([*words, "--json"], prog_name="store", standalone_mode=False)
    out = capsys.readouterr().out
    assert ("seer" in out) == ("--side" not in line)
