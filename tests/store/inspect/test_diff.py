"""Comparing two stores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from store.format.arrays import create_arrays
from store.format.records import Spec, Status, read_record, read_store_info, receipt_key, spec_key
from store.inspect.diff import Keys, diff
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.store import damage

ROOT = Path(__file__).parents[3]


@pytest.fixture
def full(units):
    """Three ranges of alpha, row 5 without image; one range of beta."""
    return units.fill({1: Status.BAD_IMAGE})


@pytest.fixture
def other(full, tmp_path):
    """A copy of it in an object storage."""
    return damage.copy(full.location, locate(f"memory://diff/{tmp_path.name}"))


def compare(full, other):
    return diff(FeatureStore(full.location), FeatureStore(other))


def test_a_copy_is_equal(full, other):
    found = compare(full, other)
    assert found.equal
    assert found.shape == {"rows": (10, 10), "range_rows": (4, 4), "chunk_rows": (2, 2)}
    assert (found.pairs.ranges_equal, found.pairs.ranges_different, found.pairs.columns) == (3, [], {})
    assert found.teachers["alpha"].ranges_equal == 3
    assert (found.teachers["beta"].ranges_equal, found.teachers["beta"].different) == (1, [])


def test_bytes_are_not_read_where_receipts_agree(full, other):
    for key, _ in other.list("features.zarr"):
        if "/image/c/" in key or "/text/c/" in key:
            other.delete([key])
    assert compare(full, other).equal


def test_features_that_differ_are_measured(full, other):
    other.delete([receipt_key("alpha", 0)])
    changed = full.features(0)
    changed.image[2] = np.roll(changed.image[2], 1)
    changed.status[3] = Status.BAD_TEXT
    full.location, first = other, full.location
    full.commit(0, features=changed)
    found = diff(FeatureStore(first), FeatureStore(other))
    assert not found.equal
    assert found.teachers["alpha"].ranges_equal == 2
    (different,) = found.teachers["alpha"].different
    assert (different.range, different.rows, different.status) == (0, (0, 4), 1)
    ours, theirs = (
        rows.astype(np.float16).astype(np.float64) for rows in (full.features(0).image[2], changed.image[2])
    )
    assert different.max_abs["image"] == pytest.approx(np.abs(ours - theirs).max(), abs=1e-6)
    assert different.min_cosine["image"] == pytest.approx(
        ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs), abs=1e-5
    )
    assert (different.max_abs["text"], different.min_cosine["text"]) == (0, pytest.approx(1, abs=1e-6))


def test_values_are_compared_where_receipts_do_not_tell(full, other):
    objects = json.loads(other.read(receipt_key("alpha", 1)))["objects"]
    damage.edit_json(
        other, receipt_key("alpha", 1), objects={key: {**stored, "sha256": "00"} for key, stored in objects.items()}
    )
    assert compare(full, other).teachers["alpha"].ranges_equal == 3


def test_ranges_committed_in_one_alone_are_counted_in_rows(full, other):
    other.delete([receipt_key("alpha", 1)])
    found = compare(full, other)
    assert not found.equal
    alpha = found.teachers["alpha"]
    assert (alpha.rows_only_in_a, alpha.rows_only_in_b, alpha.ranges_equal, alpha.different) == (4, 0, 2, [])


def test_a_store_with_appended_rows_is_compared_where_both_have_rows(full, other):
    damage.append_pairs(other, 2)
    for teacher in ("alpha", "beta"):
        create_arrays(other, read_record(other, spec_key(teacher), Spec), info=read_store_info(other))
    found = compare(full, other)
    assert not found.equal
    assert found.shape["rows"] == (10, 12)
    assert (found.pairs.ranges_equal, found.pairs.ranges_different) == (3, [])
    assert found.pairs.keys_only_in_a == Keys(count=0, first=[])
    assert found.pairs.keys_only_in_b == Keys(count=2, first=["more0", "more1"])
    alpha = found.teachers["alpha"]
    assert (alpha.ranges_equal, alpha.rows_only_in_a, alpha.rows_only_in_b, alpha.different) == (3, 0, 0, [])
    turned = diff(FeatureStore(other), FeatureStore(full.location))
    assert turned.pairs.keys_only_in_a == Keys(count=2, first=["more0", "more1"])
    assert turned.teachers["alpha"].ranges_equal == 3


def test_pairs_that_differ_are_counted_by_column_and_keys_are_named(full, other):
    damage.edit_pairs(other, at=6, key="renamed", caption=None)
    damage.edit_pairs(other, at=9, modality="pet", uri="elsewhere.tar")
    found = compare(full, other).pairs
    assert (found.ranges_equal, found.ranges_different) == (1, [1, 2])
    assert found.columns == {"key": 1, "caption": 1, "modality": 1}
    assert found.keys_only_in_a == Keys(count=1, first=["p06"])
    assert found.keys_only_in_b == Keys(count=1, first=["renamed"])


def test_a_corpus_that_moved_is_the_same(full, other):
    damage.edit_pairs(other, at=2, uri="elsewhere.tar")
    assert compare(full, other).equal


def test_specs_and_teachers_that_differ_are_named(full, other):
    damage.edit_json(other, spec_key("alpha"), weights_sha256="cd" * 32)
    other.delete([spec_key("beta")])
    found = compare(full, other)
    assert not found.equal
    assert found.teachers_only_in_a == ["beta"]
    (line,) = found.teachers["alpha"].spec
    assert line.startswith("weights_sha256: 'abab")
    assert found.teachers["alpha"].rows_only_in_a == 10


def run(*arguments):
    command = [sys.executable, "-m", "store", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.end_to_end
def test_the_command_ends_with_zero_only_if_the_data_are_equal(full, tmp_path):
    copy = damage.copy(full.location, locate(tmp_path / "copy"))
    equal = run("diff", full.path, copy)
    assert (equal.returncode, equal.stderr) == (0, "")
    assert equal.stdout.splitlines()[-1] == "equal"
    copy.delete([receipt_key("alpha", 2)])
    damage.edit_pairs(copy, at=0, caption="changed")
    different = run("diff", full.path, copy)
    assert different.returncode == 1
    assert different.stdout.splitlines()[2:] == [
        "pairs: 2 ranges equal, 1 different",
        "  caption differs in 1 rows",
        "alpha: 1 ranges equal, 0 different",
        "  rows committed only in A: 6",
        "beta: 0 ranges equal, 0 different",
        "  rows committed only in A: 4",
        "different",
    ]
    as_json = run("diff", full.path, copy, "--json")
    assert as_json.returncode == 1
    found = json.loads(as_json.stdout)
    assert found["equal"] is False
    assert found["pairs"]["ranges_different"] == [0]
    assert found["teachers"]["alpha"]["rows_only_in_a"] == 6
