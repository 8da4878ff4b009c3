"""Verifying a store that is really damaged, in a folder and in an object storage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from store.check.unit_check import check_values
from store.check.verify import verify
from store.errors import FormatVersionError, LocationError, StoreError, StoreNotFoundError
from store.format.arrays import ARRAY_NAMES, encode_shard, quantised, shard_key
from store.format.records import Receipt, Status, read_record, receipt_key, spec_key
from store.io.folder import Folder
from store.io.location import locate
from tests.store import damage

ROOT = Path(__file__).parents[3]
IMAGE_1 = shard_key("alpha", "image", 1)
RECEIPT_1 = receipt_key("alpha", 1)


@pytest.fixture(params=["folder", "memory"])
def location(request, full, tmp_path):
    if request.param == "folder":
        return full.location
    return damage.copy(full.location, locate(f"memory://verify/{tmp_path.name}"))


def states(report, teacher="alpha"):
    return [unit.state for unit in report.units if unit.teacher == teacher]


def problems(report):
    return [(str(found.kind), found.teacher, found.range, found.rows, found.key) for found in report.problems]


@pytest.mark.parametrize("deep", [False, True])
def test_a_store_as_it_was_written_is_valid_and_what_is_missing_is_counted(location, deep):
    report = verify(location, deep=deep)
    assert report.problems == []
    assert report.valid
    assert not report.complete
    assert report.counts()["alpha"] == {"verified": 3, "outgrown": 0, "missing": 0, "damaged": 0}
    assert report.counts()["beta"] == {"verified": 1, "outgrown": 0, "missing": 2, "damaged": 0}
    assert verify(location, teacher="alpha", deep=deep).complete


def garble(location):
    location.write(RECEIPT_1, location.read(RECEIPT_1)[:100])


def misplace(location):
    location.write(RECEIPT_1, location.read(receipt_key("alpha", 0)))


def forget_an_object(location):
    objects = json.loads(location.read(RECEIPT_1))["objects"]
    del objects[IMAGE_1]
    damage.edit_json(location, RECEIPT_1, objects=objects)


UNIT_DAMAGE = {
    "a deleted object": (lambda at: at.delete([IMAGE_1]), "object-missing", IMAGE_1),
    "a truncated shard": (lambda at: damage.truncate(at, IMAGE_1), "object-size", IMAGE_1),
    "a garbled receipt": (garble, "receipt-unreadable", RECEIPT_1),
    "another range's receipt": (misplace, "receipt-wrong", RECEIPT_1),
    "a receipt that leaves out an object": (forget_an_object, "receipt-wrong", RECEIPT_1),
    "another spec": (lambda at: damage.edit_json(at, RECEIPT_1, spec_hash="00" * 32), "other-spec", RECEIPT_1),
    "another caption": (lambda where: damage.edit_pairs(where, at=6, caption="changed"), "other-pairs", RECEIPT_1),
    "another image": (lambda where: damage.edit_pairs(where, at=4, image_sha256="00" * 32), "other-pairs", RECEIPT_1),
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", UNIT_DAMAGE)
def test_damage_to_one_unit_is_named_and_leaves_the_others_verified(location, kind, deep):
    spoil, problem, key = UNIT_DAMAGE[kind]
    spoil(location)
    report = verify(location, deep=deep)
    assert problems(report) == [(problem, "alpha", 1, (4, 8), key)]
    assert states(report) == ["verified", "damaged", "verified"]
    assert states(report, "beta") == ["verified", "missing", "missing"]
    assert not report.valid
    assert report.problems[0].severity == "damage"
    assert "store repair" in report.problems[0].next


@pytest.mark.parametrize("name", ARRAY_NAMES)
def test_a_flipped_byte_is_found_by_reading_deeply_alone(location, name):
    key = shard_key("alpha", name, 2)
    damage.flip(location, key)
    assert verify(location).valid
    report = verify(location, deep=True)
    assert problems(report) == [("object-bytes", "alpha", 2, (8, 10), key)]
    assert states(report) == ["verified", "verified", "damaged"]


def wrong_norm(at, info, features):
    damage.commit_values(at, "image", 0, features.image * [[1.0], [1.0015], [1.0], [1.0]], info)


def not_finite(at, info, features):
    features.text[3, 2] = np.inf
    damage.commit_values(at, "text", 0, features.text, info)


def wrong_similarity(at, info, features):
    similarity = np.einsum("nd,nd->n", features.image, features.text)
    damage.commit_values(at, "similarity", 0, similarity + np.array([0, 0, 0.01, 0]), info)


def other_status(at, info, features):
    damage.commit_values(at, "status", 0, np.array([1, 1, 1, 2], np.uint8), info)


def unknown_status(at, info, features):
    damage.commit_values(at, "status", 0, np.array([1, 1, 1, 77], np.uint8), info)


def garbage(at, info, features):
    damage.commit_bytes(at, "alpha", "text", 0, b"no shard")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (wrong_norm, {("norm", "image", "features are not of unit norm: 1 rows, the first is row 1")}),
        (
            not_finite,
            {
                ("norm", "text", "features are not of unit norm: 1 rows, the first is row 3"),
                ("similarity", "similarity", "similarity is not the features' cosine: 1 rows, the first is row 3"),
            },
        ),
        (
            wrong_similarity,
            {("similarity", "similarity", "similarity is not the features' cosine: 1 rows, the first is row 2")},
        ),
        (garbage, {("undecodable", "text", None)}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_that_no_writer_should_have_committed_are_found(full, spoil, expected):
    spoil(full.location, full.info, full.features(0))
    assert verify(full.location).valid
    report = verify(full.location, deep=True)
    found = {(str(problem.kind), problem.key.split("/")[2], problem.message) for problem in report.problems}
    if None in {message for *_, message in expected}:
        found = {(*start, None) for *start, _ in found}
    assert found == expected
    assert states(report) == ["damaged", "verified", "verified"]


@pytest.mark.parametrize("spoil", [other_status, unknown_status])
def test_a_status_that_the_receipt_does_not_have_is_found(full, spoil):
    spoil(full.location, full.info, full.features(0))
    found = {str(problem.kind) for problem in verify(full.location, deep=True).problems}
    assert found == {"status", "not-zero"}


def test_features_where_the_receipt_has_none_are_found(full):
    features = full.features(1)
    damage.commit_values(full.location, "image", 1, features.image, full.info)
    report = verify(full.location, deep=True)
    assert problems(report) == [("not-zero", "alpha", 1, (4, 8), IMAGE_1)]
    assert "2 rows, the first is row 5" in report.problems[0].message


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_features_stored_otherwise_are_checked_by_their_own_rule(units, dtype):
    units.register(stored_dtype=dtype)
    spec, features = units.spec(stored_dtype=dtype), units.features(1)
    features.status[1] = Status.BAD_IMAGE
    units.commit(0, spec=spec)
    units.commit(1, spec=spec, features=features)
    assert verify(units.location, deep=True).problems == []
    values = np.roll(units.features(0).image, 1, axis=0)
    damage.commit_bytes(
        units.location, "alpha", "image", 0, encode_shard("image", values, stored_dtype=dtype, info=units.info)
    )
    report = verify(units.location, deep=True)
    assert [(str(problem.kind), problem.range) for problem in report.problems] == [("similarity", 0)]
    receipt = read_record(units.location, receipt_key("alpha", 1), Receipt)
    halved = {
        "image": features.image / 2 if dtype == "float32" else np.rint(features.image * 60).astype(np.int8),
        "text": features.text if dtype == "float32" else quantised(features.text),
        "similarity": np.zeros(4, np.float32),
        "status": features.status,
    }
    assert "norm" in {str(problem) for problem, _, _ in check_values(receipt, halved)}


def test_objects_without_a_receipt_are_told_of_and_are_no_damage(location):
    location.delete([receipt_key("alpha", 2)])
    report = verify(location, deep=True)
    keys = [shard_key("alpha", name, 2) for name in sorted(ARRAY_NAMES)]
    assert problems(report) == [("orphan", "alpha", 2, (8, 10), key) for key in keys]
    assert report.valid
    assert states(report) == ["verified", "verified", "missing"]


def test_a_shard_and_a_receipt_beyond_the_last_range_are_told_of(location):
    location.write(shard_key("alpha", "image", 7), b"12345")
    assert problems(verify(location)) == [("orphan", "alpha", 7, None, shard_key("alpha", "image", 7))]
    location.write(receipt_key("alpha", 7), location.read(receipt_key("alpha", 2)))
    report = verify(location)
    assert problems(report) == [("receipt-wrong", "alpha", 7, None, receipt_key("alpha", 7))]
    assert not report.valid


def test_files_that_belong_to_nothing_are_told_of(full):
    (full.path / "notes.txt").write_text("mine")
    (full.path / "features.zarr/alpha/image/c/1/.0.77.abcd.tmp").write_bytes(b"half")
    report = verify(full.location)
    assert [(str(problem.kind), problem.key) for problem in report.problems] == [
        ("unfinished", "features.zarr/alpha/image/c/1/.0.77.abcd.tmp"),
        ("stray", "notes.txt"),
    ]
    assert report.valid
    assert verify(full.location, teacher="alpha").problems == []


@pytest.mark.parametrize("how", ["deleted", "garbled"])
def test_a_teacher_without_its_spec_is_damaged_where_there_are_receipts(location, how):
    if how == "deleted":
        location.delete([spec_key("alpha")])
    else:
        location.write(spec_key("alpha"), b"{}")
    report = verify(location, deep=True)
    assert problems(report) == [("spec", "alpha", None, None, spec_key("alpha"))]
    assert states(report) == ["damaged"] * 3
    assert states(report, "beta") == ["verified", "missing", "missing"]
    assert "rm-teacher" in report.problems[0].next


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("zarr.json", "deleted"),
        ("zarr.json", "garbled"),
        ("text/zarr.json", "deleted"),
        ("text/zarr.json", "garbled"),
        ("text/zarr.json", "of another shape"),
    ],
)
def test_arrays_that_cannot_be_opened_are_damage(location, file, how):
    key = f"features.zarr/alpha/{file}"
    if how == "deleted":
        location.delete([key])
    elif how == "garbled":
        location.write(key, location.read(key)[:50])
    else:
        damage.edit_json(location, key, shape=[10, 5])
    report = verify(location, deep=True)
    assert problems(report) == [("arrays", "alpha", None, None, "features.zarr/alpha/zarr.json")]
    assert not report.valid
    assert "writes the metadata anew" in report.problems[0].next


def test_the_group_of_all_teachers_is_looked_at(location):
    location.write("features.zarr/zarr.json", b"{")
    assert problems(verify(location)) == [("arrays", None, None, None, "features.zarr/zarr.json")]


def test_a_pair_table_of_another_length_or_none_at_all_is_damage(location):
    table = location.read(damage.TABLE)
    damage.edit_json(location, "store.json", rows=11)
    report = verify(location)
    assert "the pair table has 10 rows, store.json says 11" in report.problems[0].message
    damage.edit_json(location, "store.json", rows=10)
    for broken in (table[:-20], b"", b"PAR1" + bytes(50) + b"PAR1"):
        location.write(damage.TABLE, broken)
        report = verify(location)
        assert problems(report) == [("pair-table", None, None, None, "pairs")]
        assert states(report) == ["verified"] * 3
    location.delete([damage.TABLE])
    assert problems(verify(location)) == [("pair-table", None, None, None, "pairs")]


def test_a_page_of_the_pair_table_that_cannot_be_read_is_damage_of_its_rows(full):
    data = bytearray(full.location.read(damage.TABLE))
    data[4:200] = bytes(196)
    full.location.write(damage.TABLE, bytes(data))
    report = verify(full.location)
    assert ("pair-table", None, None, (0, 4), "pairs") in problems(report)
    assert not report.valid


def test_rows_that_do_not_count_up_are_damage(location):
    damage.edit_pairs(location, at=5, row=3)
    assert problems(verify(location)) == [("pair-table", None, None, (4, 8), "pairs")]


def test_a_range_that_rows_were_appended_to_is_outgrown_and_still_valid(location):
    damage.append_pairs(location, 3)
    report = verify(location, deep=True)
    assert problems(report) == [("outgrown", "alpha", 2, (8, 12), receipt_key("alpha", 2))]
    assert states(report) == ["verified", "verified", "outgrown", "missing"]
    assert report.valid
    assert not report.complete
    damage.flip(location, shard_key("alpha", "status", 2))
    assert not verify(location, deep=True).valid


def test_a_storage_that_does_not_answer_says_nothing_about_what_it_holds(full):
    class Failing(Folder):
        def read(self, key):
            if key == IMAGE_1:
                raise LocationError("the disk fails")
            return super().read(key)

    assert verify(Failing(full.path)).valid
    with pytest.raises(LocationError, match="the disk fails"):
        verify(Failing(full.path), deep=True)


def test_another_version_an_unknown_teacher_and_no_store_are_refused(location):
    with pytest.raises(StoreError, match="did you mean 'alpha'"):
        verify(location, teacher="alhpa")
    damage.edit_json(location, RECEIPT_1, version=3)
    with pytest.raises(FormatVersionError, match="version 3"):
        verify(location)
    with pytest.raises(StoreNotFoundError):
        verify(locate(f"{location.uri}/elsewhere"))
