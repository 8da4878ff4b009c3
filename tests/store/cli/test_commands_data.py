"""``python -m store`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from store.format.records import Status

ROOT = Path(__file__).parents[3]

LISTING = """
import runpy, sys
sys.argv = ["store", *sys.argv[1:]]
try:
    runpy.run_module("store", run_name="__main__")
except SystemExit:
    pass
learning = {"torch", "ray", "torchvision", "open_clip", "transformers"}
print(" ".join(sorted(learning & set(sys.modules))), file=sys.stderr)
print("listed", "zarr" in sys.modules, file=sys.stderr)
"""


def run(*arguments, program=("-m", "store")):
    command = [sys.executable, *program, *map(str, arguments)]
    # With it a crash below Python, of which one was seen and never again, says where it was.
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def store(units):
    """Rows 0 to 7 of one teacher, row 6 not finite; nothing of another."""
    units.register()
    units.register("beta", embed_dim=3)
    features = units.features(1)
    features.text[2, 0] = np.nan
    features.status[3] = Status.NOT_APPLICABLE
    units.commit(0)
    units.commit(1, features=features)
    return units


@pytest.mark.end_to_end
def test_info_gives_the_documented_fields_as_json(store):
    done = run("info", store.path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    info = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    teachers = info.pop("teachers")
    assert info == {
        "path": str(store.path),
        "version": 2,
        "rows": 10,
        "ranges": 3,
        "range_rows": 4,
        "chunk_rows": 2,
        "corpus_root": store.info.corpus_root,
        "bytes_on_disk": size,
        "feature_pairs": 6,
        "complete": False,
        "licences": {"CC0-1.0": 10},
        "runs": 1,
        "first": info["first"],
        "last": info["last"],
    }
    assert info["first"] <= info["last"]
    counts = {"ranges_done": 2, "rows_ok": 6, "rows_bad": 1, "rows_not_applicable": 1, "rows_missing": 2}
    shape = {"width": 6, "dtype": "float16", "sides": ["image", "text"]}
    assert teachers["alpha"] == {**shape, "spec_hash": store.spec().hash, "licence": None, **counts}
    assert (teachers["beta"]["width"], teachers["beta"]["ranges_done"], teachers["beta"]["rows_missing"]) == (3, 0, 10)


@pytest.mark.end_to_end
def test_info_prints_the_same_as_a_table(store):
    done = run("info", store.path)
    assert done.returncode == 0
    assert "10 pairs in 3 ranges of 4" in done.stdout
    assert "whole        no: 12 features of a row are missing, 1 are bad" in done.stdout
    assert "next: python -m extract run" in done.stdout
    assert "alpha" in done.stdout


@pytest.mark.end_to_end
def test_a_row_is_shown_by_key_and_by_number(store):
    by_key, by_number = run("row", store.path, "p06", "--json"), run("row", store.path, 6, "--json")
    assert (by_key.returncode, by_key.stderr) == (0, "")
    assert by_key.stdout == by_number.stdout
    row = json.loads(by_key.stdout)
    pair = store.pairs.read(6, 7).to_pylist()[0]
    teachers = row.pop("teachers")
    assert row == pair
    assert teachers["alpha"] == {
        "status": "non_finite",
        "reason": "the teacher returned a number that is not finite",
        "image_norm": 0.0,
        "text_norm": 0.0,
        "similarity": 0.0,
    }
    assert teachers["beta"]["status"] == "missing"


@pytest.mark.end_to_end
def test_a_key_of_digits_alone_can_be_asked_for(store):
    done = run("row", store.path, "7", "--key")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no pair has the key '7'" in " ".join(done.stderr.split())


@pytest.mark.end_to_end
def test_a_row_that_is_ok_has_unit_norms_and_its_image_can_be_written(store, tmp_path):
    image = tmp_path / "image.png"
    done = run("row", store.path, "p01", "--json", "--image", image)
    alpha = json.loads(done.stdout)["teachers"]["alpha"]
    features = store.features(0)
    assert (alpha["status"], alpha["reason"]) == ("ok", None)
    assert alpha["image_norm"] == pytest.approx(1, abs=2e-3)
    assert alpha["text_norm"] == pytest.approx(1, abs=2e-3)
    assert alpha["similarity"] == pytest.approx(float(features.image[1] @ features.text[1]), abs=1e-6)
    member = store.pairs.read(1, 2).to_pylist()[0]["member"]
    assert image.stat().st_size == member["nbytes"]
    assert image.read_bytes().startswith(b"\x89PNG")


@pytest.mark.end_to_end
def test_an_image_of_a_corpus_that_moved_is_written_as_the_hint_says(store, tmp_path):
    corpus, image = Path(store.info.corpus_root), tmp_path / "image.png"
    moved = corpus.rename(tmp_path / "moved")
    done = run("row", store.path, "p01", "--image", image)
    assert (done.returncode, image.exists()) == (1, False)
    assert "--corpus-root FOLDER" in done.stderr
    done = run("row", store.path, "p01", "--image", image, "--corpus-root", moved)
    assert done.returncode == 0, done.stderr
    assert image.read_bytes().startswith(b"\x89PNG")


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("row", "message"), [("p99", "no pair has the key 'p99'"), ("10", "row 10 is beyond the last")]
)
def test_a_row_that_is_not_there_ends_with_one(store, row, message):
    done = run("row", store.path, row)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.end_to_end
def test_a_store_of_another_version_ends_with_one_and_names_both(store):
    path = store.path / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": 3}))
    done = run("info", store.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "written in store format version 3, this program reads versions 1 and 2" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.end_to_end
@pytest.mark.parametrize("arguments", [("info",), ("row", "p01")], ids=lambda arguments: arguments[0])
def test_looking_into_a_store_loads_no_learning_library(store, arguments):
    command, *rest = arguments
    done = run(command, store.path, *rest, "--json", program=("-c", LISTING))
    assert json.loads(done.stdout)
    assert done.stderr.split("\n") == ["", "listed True", ""]
