"""Committing units: what is written, what a receipt says of it, and what is never touched again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import zarr

from store.errors import CorruptChunkError, SpecMismatchError, StoreError
from store.format.arrays import ARRAY_NAMES, quantised, restored, shard_key
from store.format.commit import register_teacher
from store.format.promote import replace_units, unguarded
from store.format.records import Receipt, Spec, Status, read_record, receipt_key, spec_key
from store.io.folder import Folder
from store.io.lock import exclusive
from store.read.reader import FeatureStore
from tests.store.conftest import Units


def group(units, teacher="alpha"):
    return zarr.open_group(str(units.path / "features.zarr"), mode="r")[teacher]


def state(units):
    """Return (bytes, mtime) of everything below the store."""
    files = (path for path in sorted(units.path.rglob("*")) if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_unit_is_four_objects_whose_size_and_digest_the_receipt_names(units):
    units.register()
    receipt = units.commit(1)
    assert list(receipt.objects) == [shard_key("alpha", name, 1) for name in ARRAY_NAMES]
    for key, stored in receipt.objects.items():
        data = (units.path / key).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (stored.nbytes, stored.sha256)


def test_the_receipt_on_disk_is_the_one_returned(units):
    units.register()
    receipt = units.commit(1)
    on_disk = json.loads((units.path / "receipts/alpha/r000001.json").read_bytes())
    assert on_disk == receipt.model_dump(mode="json")
    assert (receipt.start, receipt.stop, receipt.status_counts, receipt.bad_rows) == (4, 8, {"ok": 4}, [])
    assert (receipt.spec_hash, receipt.run_id, receipt.device) == (units.spec().hash, "first", "cpu")


def test_a_receipt_counts_the_changed_images_of_ok_rows_alone(units):
    units.register()
    features = units.features(1)
    features.status[0] = Status.BAD_IMAGE
    made = ["scaled", "scaled", None, "cut"]
    receipt = units.commit(1, features=dataclasses.replace(features, changed=made, reasons={0: "truncated"}))
    assert receipt.changed_images == {"cut": 1, "scaled": 1}


def test_plain_zarr_reads_back_the_rounded_features(units):
    units.register()
    for range_id in (2, 0, 1):
        units.commit(range_id)
    parts = [units.features(range_id) for range_id in range(3)]
    image, text = (np.concatenate([getattr(part, side) for part in parts]) for side in ("image", "text"))
    arrays = group(units)
    for name, expected in (("image", image), ("text", text)):
        assert arrays[name].dtype == np.float16
        np.testing.assert_array_equal(arrays[name][...], expected.astype(np.float16))
    assert arrays["similarity"].dtype == np.float32
    np.testing.assert_allclose(arrays["similarity"][...], (image * text).sum(axis=1), rtol=1e-5, atol=1e-7)
    assert arrays["status"][...].tolist() == [1] * 10


def test_the_last_range_may_be_partial(units):
    units.register()
    receipt = units.commit(2)
    assert (receipt.start, receipt.stop, receipt.status_counts) == (8, 10, {"ok": 2})
    np.testing.assert_array_equal(group(units)["text"][8:], units.features(2).text.astype(np.float16))
    assert group(units)["status"][...].tolist() == [0] * 8 + [1, 1]


def test_a_worker_that_was_overtaken_and_dies_takes_no_receipt_along(units, monkeypatch):
    units.register()
    by_the_other = []

    def be_overtaken_and_die(step):
        if step == "commit.begin" and not by_the_other:
            by_the_other.append(None)
            by_the_other[0] = units.commit(1, run_id="second")
        elif step == "commit.object" and by_the_other[0] is not None:
            raise KeyboardInterrupt

    monkeypatch.setattr("store.format.commit.reached", be_overtaken_and_die)
    with pytest.raises(KeyboardInterrupt):
        units.commit(1)
    assert read_record(units.location, receipt_key("alpha", 1), Receipt) == by_the_other[0]
    assert FeatureStore(units.location).committed_rows("alpha").tolist() == [False] * 4 + [True] * 4 + [False] * 2


def test_a_committed_unit_is_left_alone(units):
    units.register()
    first = units.commit(0)
    before = state(units)
    assert units.commit(0, features=units.features(0, seed=9), run_id="second") == first
    assert state(units) == before


def test_a_unit_without_receipt_is_written_anew_over_whatever_lies_there(units):
    units.register()
    first = units.commit(0)
    (units.path / receipt_key("alpha", 0)).unlink()
    for key in first.objects:
        (units.path / key).write_bytes(b"torn")
    assert units.commit(0, run_id="second").objects == first.objects
    np.testing.assert_array_equal(group(units)["image"][:4], units.features(0).image.astype(np.float16))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"teacher": "alpha"}', b"\xff\xfe"])
def test_a_garbage_receipt_counts_as_not_committed(units, content):
    units.register()
    units.commit(0)
    (units.path / receipt_key("alpha", 0)).write_bytes(content)
    assert units.commit(0, run_id="second").run_id == "second"


class ForgetfulFolder(Folder):
    """A disk that says it has written and has not."""

    def create(self, key, data):
        super().create(key, data[:-1] if "/c/" in key else data)


def test_nothing_counts_as_committed_if_the_bytes_read_back_differ(units):
    units.register()
    units.location = ForgetfulFolder(units.path)
    with pytest.raises(CorruptChunkError, match="what was read back is not what was written"):
        units.commit(0)
    assert not (units.path / receipt_key("alpha", 0)).exists()


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_becomes_zeros_with_status_and_reason(units, side, value):
    units.register()
    features = units.features(1)
    getattr(features, side)[2, 3] = value
    receipt = units.commit(1, features=features)
    arrays = group(units)
    assert arrays["status"][4:8].tolist() == [1, 1, 5, 1]
    assert not arrays["image"][6].any()
    assert not arrays["text"][6].any()
    assert arrays["similarity"][6] == 0
    (bad,) = receipt.bad_rows
    assert (bad.row, bad.key, bad.status) == (6, "p06", Status.NON_FINITE)
    assert bad.reason == "the teacher returned a number that is not finite"
    assert receipt.status_counts == {"ok": 3, "non_finite": 1}


def test_rows_that_are_not_ok_hold_zeros_and_only_bad_ones_are_listed(units):
    units.register()
    features = units.features(0)
    features.status[:] = [Status.OK, Status.BAD_IMAGE, Status.NOT_APPLICABLE, Status.BAD_TEXT]
    features.image[1] = np.nan
    features.reasons[1] = "cut short"
    receipt = units.commit(0, features=features)
    assert [(bad.row, bad.status, bad.reason) for bad in receipt.bad_rows] == [
        (1, Status.BAD_IMAGE, "cut short"),
        (3, Status.BAD_TEXT, "no reason was given"),
    ]
    assert receipt.status_counts == {"ok": 1, "bad_image": 1, "bad_text": 1, "not_applicable": 1}
    assert not group(units)["image"][1:4].any()
    assert not group(units)["text"][1:4].any()


def test_registering_a_teacher_again_changes_nothing(units):
    units.register()
    units.commit(0)
    before = state(units)
    units.register(notes={"logit_scale": 100.0})
    assert state(units) == before


def test_a_teacher_of_another_spec_is_refused_by_the_field(units):
    units.register()
    units.commit(0)
    before = state(units)
    with pytest.raises(SpecMismatchError) as caught:
        units.register(preprocessing={"size": 9, "mean": [0.5, 0.5, 0.5]})
    assert str(caught.value).splitlines()[1:] == ["  preprocessing.size: 9 here, 8 there"]
    assert "--replace alpha" in caught.value.hint
    assert state(units) == before


def test_a_new_model_is_committed_beside_the_old_one_and_replaces_it_as_a_whole(units):
    for teacher in ("alpha", "beta"):
        units.register(teacher)
        for range_id in range(3):
            units.commit(range_id, teacher=teacher)
    before = state(units)
    wider = units.spec(embed_dim=7)
    at = register_teacher(units.location, wider, info=units.info, replace=True)
    assert at == f"next/{wider.hash[:16]}"
    place = Units(units.location.below(at), units.info, pairs=units.pairs)
    for range_id in range(3):
        place.commit(range_id, spec=wider, features=place.features(range_id, width=7))
    assert {path: state(units)[path] for path in before} == before
    replace_units(units.location, at, spec_key("alpha"), guard=unguarded)
    after = state(units)
    assert {path for path in after if "beta" in str(path)} == {path for path in before if "beta" in str(path)}
    assert all(after[path] == before[path] for path in after if "beta" in str(path))
    assert after.keys() == before.keys()
    assert read_record(units.location, spec_key("alpha"), Spec) == wider
    expected = np.concatenate([place.features(range_id, width=7).text for range_id in range(3)])
    np.testing.assert_array_equal(group(units)["text"][...], expected.astype(np.float16))


def test_a_teacher_of_which_nothing_is_committed_gets_its_new_model_at_once(units):
    units.register()
    wider = units.spec(embed_dim=7)
    assert register_teacher(units.location, wider, info=units.info, replace=True) == ""
    assert read_record(units.location, spec_key("alpha"), Spec) == wider
    assert group(units)["image"].shape == (10, 7)


def test_arrays_of_another_shape_are_refused_where_receipts_say_that_they_are_in_use(units):
    units.register()
    units.commit(0)
    (units.path / spec_key("alpha")).unlink()
    with pytest.raises(StoreError, match=r"alpha/image has shape \(10, 6\), expected \(10, 7\)"):
        units.register(embed_dim=7)


def test_the_lock_refuses_a_second_holder_and_names_the_process(units):
    message = f"another program is writing .*process {os.getpid()} on "
    with exclusive(units.location), pytest.raises(StoreError, match=message), exclusive(units.location):
        pass
    with exclusive(units.location):
        assert f"process {os.getpid()} on " in (units.path / "writer.lock").read_text()


def test_the_lock_is_free_once_its_holder_is_killed(units):
    script = (
        "import os, signal, sys; from store.io.lock import exclusive; from store.io.location import locate\n"
        "with exclusive(locate(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(units.path)], check=False).returncode == -9
    with exclusive(units.location):
        assert str(os.getpid()) in (units.path / "writer.lock").read_text()


def cosines(left_ND, right_ND):
    left_ND, right_ND = left_ND.astype(np.float64), right_ND.astype(np.float64)
    return (left_ND * right_ND).sum(1) / np.linalg.norm(left_ND, axis=1) / np.linalg.norm(right_ND, axis=1)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-12), ("float16", 1e-6), ("int8", 1e-3)])
def test_features_are_stored_in_the_dtype_of_the_spec_and_read_back_with_unit_norm(units, dtype, error):
    spec = units.spec(stored_dtype=dtype)
    register_teacher(units.location, spec, info=units.info)
    features = units.features(0)
    features.status[1], features.reasons[1] = Status.BAD_IMAGE, "cut short"
    units.commit(0, features=features, spec=spec)
    assert group(units)["image"].dtype == dtype
    read = FeatureStore(units.path).read(slice(0, 4), teacher="alpha", side="image")
    ok = np.array([0, 2, 3])
    assert (1 - cosines(read[ok], features.image[ok])).max() < error
    np.testing.assert_allclose(np.linalg.norm(read[ok].astype(np.float32), axis=1), 1, atol=1e-3)
    assert not read[1].any()


def test_eight_bits_use_the_whole_scale_of_each_row():
    features = np.array([[0.0, 0.5, -1.0], [1e-3, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    assert quantised(features).tolist() == [[0, 64, -127], [127, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(np.linalg.norm(restored(quantised(features)), axis=1), [1, 1, 0], rtol=1e-6)


@pytest.mark.parametrize("name", ["", "../alpha", ".hidden", "a/b", "with space"])
def test_a_teacher_whose_name_cannot_be_a_folder_is_refused(units, name):
    with pytest.raises(StoreError, match="cannot name a teacher"):
        register_teacher(units.location, units.spec(name), info=units.info)
