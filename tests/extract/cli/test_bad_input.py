"""Wrong input to ``python -m extract``: the message, the exit code, and the files that are left."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.end_to_end


def files_below(folder):
    # The lock is left behind by design, and says who held it last.
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "writer.lock"}


def said(stderr):
    assert "Traceback" not in stderr
    return " ".join(stderr.split())


@pytest.fixture
def image(encoded):
    """A picture as PNG bytes."""
    return encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no_pair", "holds no pair of an image and a caption: 1 files, 2 members and 2 keys were read"),
        ("twice", "keys that occur more than once in the corpus: 1, for instance 'a'"),
        ("cut", "cannot be read as an uncompressed tar"),
        ("none", "no corpus file matches"),
    ],
)
def test_a_corpus_that_cannot_be_indexed_leaves_no_store(
    tmp_path, teachers, write_pipeline, write_tar, image, cli, case, message
):
    pairs = {"no_pair": [("a", None, "a caption"), ("b", image, None)], "twice": [("a", image, "x"), ("a", image, "y")]}
    folder = write_tar(tmp_path / "corpus", pairs.get(case, [("a", image, "a"), ("b", image, "b")]))
    [tar] = folder.glob("*.tar")
    if case == "twice":
        (folder / "pairs-000001.tar").write_bytes(tar.read_bytes())
    if case == "cut":
        tar.write_bytes(tar.read_bytes()[:1500])
    if case == "none":
        tar.unlink()
    path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers)
    code, stdout, stderr = cli("index", "--pipeline", "tiny", "--config", path)
    assert (code, stdout) == (1, "")
    assert message in said(stderr)
    assert not (tmp_path / "store" / "store.json").exists()


@pytest.fixture
def indexed(tmp_path, teachers, write_pipeline, write_tar, image, prepare):
    """A pipeline over 24 good pairs whose store is indexed."""
    folder = write_tar(tmp_path / "corpus", [(f"k{i:02d}", image, f"caption {i}") for i in range(24)])
    path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]})
    prepare(path)
    return path


def test_a_store_of_another_version_is_refused_and_left_alone(indexed, cli):
    store = indexed.parent / "store"
    record = store / "store.json"
    record.write_text(json.dumps({**json.loads(record.read_bytes()), "version": 3}))
    before = files_below(store)
    for command in (["index"], ["run", "--local"]):
        code, _, stderr = cli(*command, "--pipeline", "tiny", "--config", indexed)
        assert code == 1
        assert "store format version 3, this program reads versions 1 and 2" in said(stderr)
        assert files_below(store) == before


def test_a_run_with_too_many_bad_rows_ends_with_one_and_keeps_what_it_committed(
    tmp_path, teachers, write_pipeline, write_tar, prepare, cli
):
    folder = write_tar(tmp_path / "corpus", [(f"k{i:03d}", b"", "a caption") for i in range(160)])
    path = write_pipeline(
        tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]}, range_rows=32, max_bad_fraction=0.25
    )
    prepare(path)
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", path)
    assert code == 1
    assert "128 x bad_image: the image file is empty (0 bytes)" in said(stderr)
    assert len(list((tmp_path / "store" / "receipts").rglob("*.json"))) >= 4


def test_a_replacement_is_made_only_for_a_teacher_of_the_pipeline(indexed, cli):
    before = files_below(indexed.parent / "store")
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", indexed, "--replace", "other")
    assert code == 1
    assert "--replace: no teacher other in the pipeline; it has small" in said(stderr)
    assert files_below(indexed.parent / "store") == before
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", indexed, "--replace", "small")
    assert code == 0
    assert "2 units committed" in said(stderr)
