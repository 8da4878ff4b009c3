"""Repairing a store: just what is damaged is made anew, and nothing that verified is touched."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from store.check.repair import remove_teacher, repair
from store.check.verify import verify
from store.errors import StoreError
from store.format.arrays import ARRAY_NAMES, shard_key
from store.format.commit import register_teacher
from store.format.records import Status, receipt_key, spec_key
from store.io.folder import Folder
from store.io.location import locate
from store.io.lock import exclusive
from store.read.reader import FeatureStore
from tests.store import damage

ROOT = Path(__file__).parents[3]
RECEIPT_1 = receipt_key("alpha", 1)
UNIT_1 = {RECEIPT_1, *(shard_key("alpha", name, 1) for name in ARRAY_NAMES)}


@pytest.fixture
def full(units):
    """Three ranges of alpha and of beta."""
    for teacher in ("alpha", "beta"):
        units.register(teacher)
        for range_id in range(3):
            units.commit(range_id, teacher=teacher)
    return units


@pytest.fixture(params=["folder", "memory"])
def store(request, full, tmp_path):
    """The same in a folder and in an object storage."""
    if request.param == "memory":
        full.location = damage.copy(full.location, locate(f"memory://repair/{tmp_path.name}"))
    return full


def flip_all(at):
    for name in ARRAY_NAMES:
        damage.flip(at, shard_key("alpha", name, 1))


UNIT_DAMAGE = {
    "a deleted object": lambda at: at.delete([shard_key("alpha", "text", 1)]),
    "a truncated shard": lambda at: damage.truncate(at, shard_key("alpha", "text", 1)),
    "flipped bytes": flip_all,
    "a garbled receipt": lambda at: at.write(RECEIPT_1, b"{"),
    "another range's receipt": lambda at: at.write(RECEIPT_1, at.read(receipt_key("alpha", 0))),
    "a deleted receipt": lambda at: at.delete([RECEIPT_1]),
    "a receipt of another spec": lambda at: damage.edit_json(at, RECEIPT_1, spec_hash="00" * 32),
}


@pytest.mark.parametrize("kind", UNIT_DAMAGE)
def test_just_the_damaged_unit_is_deleted_and_made_anew(store, kind):
    before = damage.contents(store.location)
    UNIT_DAMAGE[kind](store.location)
    done = repair(store.location, deep=True)
    assert done.left == []
    assert set(before) - set(damage.contents(store.location)) == UNIT_1
    assert done.lost_found is not None
    assert set(damage.taken_away(store.location)) == {*done.receipts, *done.objects} <= UNIT_1
    after = verify(store.location, deep=True)
    assert after.problems == []
    assert [unit.state for unit in after.units] == ["verified", "missing", "verified", *["verified"] * 3]
    assert FeatureStore(store.location).status("alpha").tolist() == [1] * 4 + [Status.MISSING] * 4 + [1] * 2

    store.register()
    store.commit(1)
    assert verify(store.location, deep=True).complete
    again = damage.contents(store.location)
    assert {key: data for key, data in again.items() if key != RECEIPT_1} == {
        key: data for key, data in before.items() if key != RECEIPT_1
    }
    assert repair(store.location, deep=True).receipts == []
    assert damage.contents(store.location) == again


def test_a_dry_run_names_the_same_and_changes_nothing(store):
    flip_all(store.location)
    store.location.write(shard_key("alpha", "image", 9), b"of no range")
    before = damage.contents(store.location)
    planned = repair(store.location, deep=True, dry_run=True)
    assert damage.contents(store.location) == before
    done = repair(store.location, deep=True)
    assert planned.receipts == done.receipts == [RECEIPT_1]
    assert planned.objects == done.objects
    assert set(done.objects) == (UNIT_1 - {RECEIPT_1}) | {shard_key("alpha", "image", 9)}


def test_bytes_are_read_only_where_that_is_asked_for(store):
    flip_all(store.location)
    before = damage.contents(store.location)
    assert repair(store.location).receipts == []
    assert damage.contents(store.location) == before


def test_one_teacher_can_be_repaired_alone(store):
    for teacher in ("alpha", "beta"):
        store.location.delete([shard_key(teacher, "image", 2), receipt_key(teacher, 0)])
    done = repair(store.location, teacher="beta")
    assert done.receipts == [receipt_key("beta", 2)]
    assert {key.split("/")[1] for key in done.objects} == {"beta"}
    assert store.location.exists(receipt_key("alpha", 2))


def test_unfinished_writes_are_deleted_and_other_files_are_left(full):
    unfinished = full.path / "features.zarr/alpha/image/c/1/.0.77.abcd.tmp"
    unfinished.write_bytes(b"half")
    (full.path / "notes.txt").write_text("mine")
    done = repair(full.location)
    assert done.unfinished == ["features.zarr/alpha/image/c/1/.0.77.abcd.tmp"]
    assert not unfinished.exists()
    assert (full.path / "notes.txt").read_text() == "mine"
    assert verify(full.location).complete


def test_a_receipt_of_a_range_that_does_not_exist_is_deleted(store):
    key = receipt_key("alpha", 7)
    store.location.write(key, store.location.read(RECEIPT_1))
    assert repair(store.location).receipts == [key]
    assert verify(store.location).complete


def test_pairs_that_changed_in_one_range_cost_that_range_under_every_teacher(store):
    damage.edit_pairs(store.location, at=6, caption="changed")
    done = repair(store.location)
    assert done.receipts == [receipt_key("alpha", 1), receipt_key("beta", 1)]
    assert done.left == []


def test_an_exchanged_pair_table_costs_no_receipt(store):
    table = store.location.read(damage.TABLE)
    for row in (0, 4, 8):
        damage.edit_pairs(store.location, at=row, caption="of another corpus")
    before = damage.contents(store.location)
    done = repair(store.location)
    assert damage.contents(store.location) == before
    assert done.receipts == []
    assert {str(problem.kind) for problem in done.left} == {"other-pairs"}
    assert len(done.left) == 6
    store.location.write(damage.TABLE, table)
    assert verify(store.location, deep=True).complete


def test_an_exchanged_spec_costs_no_receipt(store):
    spec = store.location.read(spec_key("alpha"))
    damage.edit_json(store.location, spec_key("alpha"), weights_sha256="00" * 32)
    done = repair(store.location, deep=True)
    assert done.receipts == []
    assert {(problem.teacher, str(problem.kind)) for problem in done.left} == {("alpha", "other-spec")}
    store.location.delete([spec_key("alpha")])
    assert [str(problem.kind) for problem in repair(store.location).left] == ["spec"]
    store.location.write(spec_key("alpha"), spec)
    assert verify(store.location, deep=True).complete


def test_a_pair_table_that_cannot_be_read_is_left_and_the_rest_is_repaired(store):
    store.location.write(damage.TABLE, b"no table")
    store.location.delete([shard_key("alpha", "image", 1)])
    done = repair(store.location)
    assert [str(problem.kind) for problem in done.left] == ["pair-table"]
    assert done.receipts == [RECEIPT_1]


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
@pytest.mark.parametrize("key", ["alpha/zarr.json", "alpha/similarity/zarr.json", "zarr.json"])
def test_zarr_metadata_are_written_anew_without_touching_a_shard(store, key, content):
    before = damage.contents(store.location)
    if content is None:
        store.location.delete([f"features.zarr/{key}"])
    else:
        store.location.write(f"features.zarr/{key}", content)
    done = repair(store.location)
    assert done.metadata == ["" if key == "zarr.json" else "alpha"]
    assert (done.receipts, done.objects, done.left) == ([], [], [])
    assert damage.contents(store.location) == before
    assert verify(store.location, deep=True).complete


def test_repairing_waits_for_no_writer(store):
    store.location.delete([RECEIPT_1])
    before = damage.contents(store.location)
    with exclusive(store.location), pytest.raises(StoreError, match="another program is writing"):
        repair(store.location)
    assert damage.contents(store.location) == before
    assert len(repair(store.location).objects) == 4


def test_a_teacher_is_removed_and_the_others_stay(store):
    before = damage.contents(store.location)
    remove_teacher(store.location, "alpha")
    after = damage.contents(store.location)
    assert {key for key in before if "alpha" in key} == set(before) - set(after)
    assert all(before[key] == data for key, data in after.items())
    assert FeatureStore(store.location).teachers == ["beta"]
    assert verify(store.location, deep=True).complete
    register_teacher(store.location, store.spec(), info=store.info)
    store.commit(0)
    assert FeatureStore(store.location).status("alpha").tolist() == [1] * 4 + [0] * 6


def test_a_removal_that_was_killed_leaves_nothing_committed_and_is_ended_by_the_same_call(full):
    class Killed(Folder):
        def delete(self, keys):
            if keys == [spec_key("alpha")]:
                raise KeyboardInterrupt
            super().delete(keys)

    unfinished = full.path / "features.zarr/alpha/image/c/1/.0.77.abcd.tmp"
    unfinished.write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt):
        remove_teacher(Killed(full.path), "alpha")
    assert not FeatureStore(full.path).status("alpha").any()
    assert verify(full.location).valid
    full.location.delete([spec_key("alpha")])
    remove_teacher(full.location, "alpha")
    assert not (full.path / "features.zarr/alpha").exists()
    assert not any("alpha" in key for key in damage.contents(full.location))


def test_an_unknown_teacher_is_refused_with_a_suggestion(store):
    with pytest.raises(
        StoreError, match=r"no teacher 'alhpa' in this store; did you mean 'alpha'\?; it has alpha, beta"
    ):
        remove_teacher(store.location, "alhpa")


def run(*arguments, stdin=subprocess.DEVNULL):
    command = [sys.executable, "-m", "store", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=stdin)


@pytest.mark.end_to_end
def test_the_command_repairs_and_says_what_to_run(full):
    damage.truncate(full.location, shard_key("alpha", "image", 1))
    planned = run("repair", full.path, "--dry-run")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert f"to move to lost+found/, receipts of damaged units: 1\n  {RECEIPT_1}\n" in planned.stdout
    assert not (full.path / "lost+found").exists()
    done = run("repair", full.path, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "store": str(full.path),
        "deep": False,
        "dry_run": False,
        "receipts": [RECEIPT_1],
        "objects": [shard_key("alpha", name, 1) for name in ARRAY_NAMES],
        "attempts": [],
        "unfinished": [],
        "forward": [],
        "metadata": [],
        "lost_found": f"lost+found/{next((full.path / 'lost+found').iterdir()).name}",
        "left": [],
    }
    assert run("repair", full.path).stdout == "nothing to repair\n"


@pytest.mark.end_to_end
def test_nothing_is_deleted_without_a_word(full):
    damage.truncate(full.location, shard_key("alpha", "image", 1))
    before = damage.contents(full.location)
    refused = run("repair", full.path, "--purge")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    declined = run("repair", full.path, "--purge", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert declined.returncode == 3
    assert f"to delete, receipts of damaged units: 1\n  {RECEIPT_1}\n" in declined.stdout
    assert damage.contents(full.location) == before
    done = run("repair", full.path, "--purge", "--yes")
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (
        0,
        ["done", "next: python -m extract run --pipeline NAME  # makes these units anew"],
    )
    assert set(before) - set(damage.contents(full.location)) == UNIT_1
    assert damage.taken_away(full.location) == {}


@pytest.mark.end_to_end
def test_the_command_ends_with_one_where_damage_is_left(full):
    full.location.write(damage.TABLE, b"no table")
    done = run("repair", full.path)
    assert done.returncode == 1
    assert "left alone:\ndamage: pairs: " in done.stdout


@pytest.mark.end_to_end
def test_a_teacher_is_not_removed_without_a_word(full):
    before = damage.contents(full.location)
    refused = run("rm-teacher", full.path, "alpha")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    assert damage.contents(full.location) == before
    unknown = run("rm-teacher", full.path, "gamma", "--yes")
    assert unknown.returncode == 1
    assert "it has alpha, beta" in unknown.stderr
    assert run("rm-teacher", full.path, "alpha", "--yes").returncode == 0
    assert FeatureStore(full.path).teachers == ["beta"]


@pytest.mark.end_to_end
@pytest.mark.parametrize(("answer", "code", "left"), [("n", 3, ["alpha", "beta"]), ("y", 0, ["beta"])])
def test_on_a_terminal_it_is_asked_for(full, answer, code, left):
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = run("rm-teacher", full.path, "alpha", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "3 committed ranges" in done.stderr
    assert FeatureStore(full.path).teachers == left


@pytest.mark.end_to_end
def test_the_lock_of_a_folder_is_not_removed_under_its_holder(full):
    with exclusive(full.location):
        done = run("unlock", full.path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "ends with its holder" in done.stdout
        assert (full.path / "writer.lock").exists()


def test_features_that_verified_read_as_before(store):
    expected = FeatureStore(store.location).read(slice(0, 10), teacher="beta", side="image")
    flip_all(store.location)
    repair(store.location, deep=True)
    np.testing.assert_array_equal(
        FeatureStore(store.location).read(slice(0, 10), teacher="beta", side="image"), expected
    )
