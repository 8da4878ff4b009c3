"""Teachers that encode images alone, on disk: spec, arrays, receipts, repair, and what takes the place of what."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr
from pydantic import ValidationError

from store.check.repair import repair
from store.check.verify import verify
from store.format import promote
from store.format.commit import commit_unit, register_teacher
from store.format.promote import recover, replace_units, unguarded
from store.format.records import SIDES, Spec, Status, read_record, receipt_key, spec_key
from store.read.reader import FeatureStore
from tests.store import by_the_book as book
from tests.store import damage
from tests.store.format.test_format import INFO, features_of, pairs_of
from tests.store.make_fixture import spec as fixture_spec

ARRAYS = {"image", "status"}

HASH_BEFORE_SIDES = "3958f30ed4a68a2e4bb8fcefcb9b9cbf9da6d8d977f4d4b65b01fd538a4e2f55"
"""Spec hash of the fixture's teacher ``alpha``, written before specs had ``sides``."""


def one_sided(**changes):
    return Spec(**{**fixture_spec("alpha").model_dump(), "sides": ["image"], **changes})


def test_a_spec_of_both_sides_has_the_hash_and_the_bytes_that_it_had_before():
    spec = fixture_spec("alpha")
    assert spec.sides == SIDES
    assert spec.hash == HASH_BEFORE_SIDES
    assert "sides" not in spec.model_dump(mode="json")
    assert Spec(**spec.model_dump(), sides=["image", "text"]).hash == HASH_BEFORE_SIDES


def test_one_side_is_in_the_file_and_in_the_hash():
    spec = one_sided()
    assert spec.model_dump(mode="json")["sides"] == ["image"]
    assert spec.hash != HASH_BEFORE_SIDES
    assert Spec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.difference(fixture_spec("alpha")) == ["sides: ('image',) here, ('image', 'text') there"]


@pytest.mark.parametrize("sides", [[], ["text"], ["text", "image"], ["image", "image"]])
def test_other_sides_are_refused_by_name(sides):
    with pytest.raises(ValidationError, match=r"encodes both sides, \['image', 'text'\], or \['image'\] alone, not"):
        one_sided(sides=sides)


def arrays_on_disk(units, teacher="seer"):
    keys = [key.split("/") for key, _ in units.location.list(f"features.zarr/{teacher}")]
    return {parts[2] for parts in keys if len(parts) > 3}


def test_a_unit_of_one_side_has_two_arrays_and_any_zarr_reader_opens_them(units):
    units.one_sided()
    assert arrays_on_disk(units) == ARRAYS
    group = zarr.open_group(str(units.path / "features.zarr"), mode="r")["seer"]
    assert {name for name, _ in group.arrays()} == ARRAYS
    assert group["image"].metadata.dimension_names == ("row", "feature")
    assert group["status"][...].tolist() == [1] * 5 + [2] + [1] * 4
    expected = np.concatenate([units.features(range_id).image for range_id in range(3)])
    expected[5] = 0
    assert np.array_equal(group["image"][...], expected.astype(np.float16))


def test_a_receipt_of_one_side_names_two_objects_and_counts_no_caption(units):
    units.one_sided()
    receipt = json.loads((units.path / receipt_key("seer", 1)).read_bytes())
    assert [*receipt["objects"]] == ["features.zarr/seer/image/c/1/0", "features.zarr/seer/status/c/1"]
    assert "chunk_crc32c" in receipt["objects"]["features.zarr/seer/image/c/1/0"]
    assert "truncated_captions" not in receipt
    assert receipt["status_counts"] == {"ok": 3, "bad_image": 1}


def test_features_of_another_side_than_the_specs_are_not_committed(units):
    units.register("seer", sides=["image"])
    with pytest.raises(ValueError, match=r"features of \['image', 'text'\], but seer encodes \['image'\]"):
        units.commit(0, teacher="seer", spec=units.spec("seer", sides=["image"]))
    units.register()
    with pytest.raises(ValueError, match=r"features of \['image'\], but alpha encodes \['image', 'text'\]"):
        units.commit(0, features=replace(units.features(0), text=None))


def test_a_number_that_is_not_finite_costs_the_row(units):
    units.register("seer", sides=["image"])
    features = replace(units.features(0), text=None)
    features.image[2, 1] = np.inf
    receipt = units.commit(0, teacher="seer", spec=units.spec("seer", sides=["image"]), features=features)
    assert receipt.status_counts == {"ok": 3, "non_finite": 1}
    assert not FeatureStore(units.path).read(slice(2, 3), teacher="seer", side="image").any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_what_the_document_says_and_what_is_written_agree_in_both_directions(units, tmp_path, dtype):
    spec = units.one_sided(stored_dtype=dtype)
    assert book.damage(units.path, "seer") == []
    assert json.loads((units.path / spec_key("seer")).read_bytes())["sides"] == ["image"]
    read, store = book.read_features(units.path, "seer"), FeatureStore(units.path)
    assert book.spec_hash(read.spec) == spec.hash
    assert np.array_equal(read.image, store.read(slice(None), teacher="seer", side="image"))

    features = replace(features_of(10, seed=1, teacher="seer", sides=["image"], stored_dtype=dtype), text=None)
    book.write_store(tmp_path / "booked", pairs_of(10), {"seer": features}, info=INFO)
    report = verify(FeatureStore(tmp_path / "booked").location, deep=True)
    assert (report.problems, report.complete) == ([], True)
    found = FeatureStore(tmp_path / "booked").read(slice(None), teacher="seer", side="image")
    expected = np.where((features.status == Status.OK)[:, None], features.image, 0)
    np.testing.assert_allclose(found, expected, atol=8e-3)


def test_a_unit_of_one_side_is_verified_repaired_and_made_anew(units):
    spec = units.one_sided()
    assert (verify(units.location, deep=True).problems, verify(units.location).complete) == ([], True)
    damage.flip(units.location, "features.zarr/seer/image/c/1/0")
    (problem,) = verify(units.location, deep=True).problems
    assert (problem.kind, problem.teacher, problem.range) == ("object-bytes", "seer", 1)
    done = repair(units.location, deep=True)
    assert sorted(done.objects) == ["features.zarr/seer/image/c/1/0", "features.zarr/seer/status/c/1"]
    units.commit(1, teacher="seer", spec=spec, features=replace(units.features(1), text=None))
    assert verify(units.location, deep=True).complete


def test_metadata_of_one_side_are_checked_and_written_anew(units):
    units.one_sided()
    units.location.write("features.zarr/seer/image/zarr.json", b"{")
    assert [problem.kind for problem in verify(units.location).problems] == ["arrays"]
    repair(units.location)
    assert (verify(units.location, deep=True).problems, arrays_on_disk(units)) == ([], ARRAYS)


def test_verify_names_a_bad_text_and_an_array_that_one_side_cannot_have(units):
    spec = units.spec("seer", sides=["image"])
    units.register("seer", sides=["image"])
    features = replace(units.features(0), text=None)
    features.status[0] = Status.BAD_TEXT
    units.commit(0, teacher="seer", spec=spec, features=features)
    units.location.write("features.zarr/seer/text/c/0/0", b"left")
    problems = {(problem.kind, problem.key) for problem in verify(units.location, deep=True).problems}
    assert ("status", "features.zarr/seer/status/c/0") in problems
    assert ("stray", "features.zarr/seer/text") in problems


@pytest.mark.parametrize("killed", [False, True])
def test_a_model_of_one_side_takes_the_place_of_one_of_two_and_leaves_no_text(units, monkeypatch, killed):
    units.register()
    for range_id in range(3):
        units.commit(range_id)
    spec = units.spec(sides=["image"])
    at = register_teacher(units.location, spec, info=units.info, replace=True)
    for range_id in range(3):
        commit_unit(
            units.location.below(at),
            info=units.info,
            spec=spec,
            range_id=range_id,
            pairs=units.pairs.read(*units.info.bounds(range_id)),
            features=replace(units.features(range_id), text=None),
            circumstances=units.circumstances("second"),
        )
    if killed:
        with monkeypatch.context() as patch:
            patch.setattr(promote, "_move_units", lambda *_, **__: None)
            replace_units(units.location, at, spec_key("alpha"), guard=unguarded)
        recover(units.location, guard=unguarded)
    else:
        replace_units(units.location, at, spec_key("alpha"), guard=unguarded)
    assert arrays_on_disk(units, "alpha") == ARRAYS
    assert read_record(units.location, spec_key("alpha"), Spec).sides == ("image",)
    assert (verify(units.location, deep=True).problems, verify(units.location).complete) == ([], True)


def test_rows_that_are_appended_let_the_two_arrays_grow(units):
    spec = units.one_sided()
    for name in ARRAYS:
        key = f"features.zarr/seer/{name}/zarr.json"
        metadata = json.loads(units.location.read(key))
        units.location.write(key, json.dumps(metadata | {"shape": [8, *metadata["shape"][1:]]}).encode())
    register_teacher(units.location, spec, info=units.info)
    assert arrays_on_disk(units) == ARRAYS
    assert zarr.open_array(str(units.path / "features.zarr/seer/image"), mode="r").shape == (10, 6)
