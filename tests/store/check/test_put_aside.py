"""A repair takes nothing away that might be owned, and what it takes away can be put back."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from store.check.problems import Kind, Problem, UnitCheck
from store.check.quarantine import find_retries, mark, marked
from store.check.repair import _left_alone, repair
from store.check.verify import verify
from store.errors import LocationError
from store.format.arrays import ARRAY_NAMES, shard_key
from store.format.commit import commit_unit, register_teacher
from store.format.promote import next_folder, promote, unguarded
from store.format.records import (
    RETRY_FOLDER,
    Receipt,
    Status,
    read_record,
    read_store_info,
    receipt_key,
    spec_key,
    write_record,
)
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.store import damage

FIXTURE = Path(__file__).parents[1] / "fixtures/small_1/store"
RECEIPT_1 = receipt_key("alpha", 1)
UNIT_1 = {RECEIPT_1, *(shard_key("alpha", name, 1) for name in ARRAY_NAMES)}


def failing(monkeypatch, call, name, code, *, times=None):
    """Let a call of the system fail for one path, as often as is said or always."""
    real, left = getattr(os, call), [times]

    def fails(path=".", *arguments, **options):
        if os.fspath(path).endswith(name) and left[0] != 0:
            left[0] = left[0] and left[0] - 1
            raise OSError(code, os.strerror(code), os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, call, fails)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("folder", ["receipts/alpha", "features.zarr/alpha/image/c", "specs"])
def test_a_folder_that_cannot_be_listed_ends_check_and_repair_and_nothing_is_changed(
    full, monkeypatch, code, times, folder
):
    before = damage.contents(full.location)
    for look in (verify, repair):
        with monkeypatch.context() as patch:
            failing(patch, "scandir", folder, code, times=times)
            with pytest.raises(LocationError, match=f"{folder}: {os.strerror(code)}"):
                look(full.location)
    assert damage.contents(full.location) == before
    assert damage.taken_away(full.location) == {}


@pytest.mark.parametrize("key", [RECEIPT_1, spec_key("alpha"), "features.zarr/alpha/text/zarr.json", damage.TABLE])
def test_a_record_that_cannot_be_read_ends_check_and_repair_and_nothing_is_changed(full, key):
    class Failing(type(full.location)):
        def read(self, asked):
            if asked == key:
                raise LocationError(f"{asked}: Input/output error")
            return super().read(asked)

    before = damage.contents(full.location)
    place = Failing(full.path)
    if key == damage.TABLE:
        (full.path / key).rename(full.path / "table")
        (full.path / key).symlink_to(full.path / "unmounted")
    for look in (verify, repair):
        with pytest.raises(LocationError):
            look(place)
    if key == damage.TABLE:
        (full.path / "table").rename(full.path / key)
    assert damage.contents(full.location) == before


@pytest.mark.parametrize("folder", ["receipts/alpha", "features.zarr/alpha", "receipts", "features.zarr"])
def test_folders_behind_links_are_part_of_the_store(full, tmp_path, folder):
    (tmp_path / "disk").mkdir()
    (full.path / folder).rename(tmp_path / "disk/part")
    (full.path / folder).symlink_to(tmp_path / "disk/part")
    before = damage.contents(full.location)
    assert verify(full.location, teacher="alpha", deep=True).complete
    assert repair(full.location, deep=True).nothing
    assert damage.contents(full.location) == before
    damage.flip(full.location, shard_key("alpha", "image", 1))
    repair(full.location, deep=True)
    assert set(before) - set(damage.contents(full.location)) == UNIT_1
    assert set(damage.taken_away(full.location)) == UNIT_1
    full.commit(1)
    assert verify(full.location, teacher="alpha", deep=True).complete


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_what_was_taken_away_lies_under_its_key_and_can_be_put_back(full, tmp_path, kind):
    place = full.location if kind == "folder" else damage.copy(full.location, locate(f"memory://aside/{tmp_path.name}"))
    before = damage.contents(place)
    damage.edit_json(place, RECEIPT_1, spec_hash="00" * 32)
    done = repair(place)
    assert {f"{done.lost_found}/{key}" for key in UNIT_1} == {key for key, _ in place.list("lost+found")}
    for key, data in damage.taken_away(place).items():
        place.write(key, before[key] if key == RECEIPT_1 else data)
    assert damage.contents(place) == before
    assert verify(place, deep=True).problems == []
    place.write(RECEIPT_1, b"{")
    assert repair(place).lost_found != done.lost_found


def test_purging_deletes_but_not_what_a_receipt_that_cannot_be_read_may_own(full):
    damage.flip(full.location, shard_key("alpha", "image", 0))
    full.location.write(RECEIPT_1, b"{")
    full.location.write(shard_key("beta", "image", 2), b"of no receipt")
    done = repair(full.location, deep=True, purge=True)
    assert {receipt_key("alpha", 0), RECEIPT_1} == {*done.receipts}
    assert set(damage.taken_away(full.location)) == UNIT_1
    assert not full.location.exists(shard_key("alpha", "image", 0))
    assert not full.location.exists(shard_key("beta", "image", 2))


def test_a_plan_that_is_refused_changes_nothing(full):
    damage.truncate(full.location, shard_key("alpha", "image", 1))
    before = damage.contents(full.location)
    shown = []
    done = repair(full.location, agreed=lambda plan: shown.append(plan.receipts))
    assert shown == [[RECEIPT_1]]
    assert done.dry_run
    assert damage.contents(full.location) == before


def attempt(units, range_id=1, seed=9):
    """Write a unit once more beside the one that is there, and return its receipt."""
    mark_at = receipt_key("alpha", range_id, folder=RETRY_FOLDER)
    units.location.write(mark_at, b"{}")
    old = read_record(units.location, receipt_key("alpha", range_id), Receipt)
    circumstances = type("Of", (), {name: getattr(old, name) for name in type(old).model_fields})()
    return commit_unit(
        units.location,
        holds_lock=False,
        info=units.info,
        spec=units.spec(),
        range_id=range_id,
        pairs=units.pairs.read(*units.info.bounds(range_id)),
        features=units.features(range_id, seed=seed),
        circumstances=circumstances,
    )


def test_an_attempt_that_no_receipt_names_is_a_note_and_is_put_aside(full):
    before = damage.contents(full.location)
    receipt = attempt(full)
    staged = set(damage.contents(full.location)) - {*before, receipt_key("alpha", 1, folder=RETRY_FOLDER)}
    report = verify(full.location, deep=True)
    assert [(str(problem.kind), problem.key) for problem in report.problems] == [("attempt", receipt.at)]
    assert report.valid
    assert verify(full.location, teacher="beta").problems == []
    assert repair(full.location, teacher="beta").nothing
    done = repair(full.location)
    assert (done.attempts, done.receipts, done.objects) == ([receipt.at], [], [])
    assert set(damage.taken_away(full.location)) == staged
    full.location.delete([receipt_key("alpha", 1, folder=RETRY_FOLDER)])
    assert damage.contents(full.location) == before


@pytest.mark.parametrize("moved", range(len(ARRAY_NAMES) + 1))
def test_a_unit_whose_move_was_begun_is_whole_and_is_moved_on(full, moved):
    receipt = attempt(full)
    write_record(full.location, RECEIPT_1, receipt)
    for key in list(receipt.objects)[:moved]:
        full.location.move(f"{receipt.at}/{key}", key)
    report = verify(full.location, teacher="alpha", deep=True)
    assert report.problems == []
    assert report.complete
    assert repair(full.location, dry_run=True).forward == [RECEIPT_1]
    done = repair(full.location, deep=True)
    assert (done.forward, done.receipts, done.objects, done.lost_found) == ([RECEIPT_1], [], [], None)
    assert full.location.list("staged") == []
    assert read_record(full.location, RECEIPT_1, Receipt) == receipt.model_copy(update={"at": None})
    assert verify(full.location, deep=True).problems == []


def test_damage_of_a_unit_whose_move_was_begun_puts_all_of_it_aside(full):
    receipt = attempt(full)
    write_record(full.location, RECEIPT_1, receipt)
    damage.flip(full.location, f"{receipt.at}/{shard_key('alpha', 'text', 1)}")
    report = verify(full.location, deep=True)
    assert [(str(problem.kind), problem.key) for problem in report.problems] == [
        ("object-bytes", f"{receipt.at}/{shard_key('alpha', 'text', 1)}")
    ]
    repair(full.location, deep=True)
    assert {*UNIT_1, *(f"{receipt.at}/{key}" for key in UNIT_1)} == set(damage.taken_away(full.location))
    full.commit(1)
    assert verify(full.location, teacher="alpha", deep=True).complete


@pytest.fixture
def replacing(full):
    """Every range of a new model of alpha beside those of the old one."""
    spec = full.spec(weights_sha256="cd" * 32)
    at = next_folder(spec.hash)
    assert register_teacher(full.location, spec, info=full.info, replace=True) == at
    beside = type(full)(full.path, full.info)
    beside.location = full.location.below(at)
    for range_id in range(3):
        beside.commit(range_id, spec=spec, features=full.features(range_id, seed=5))
    return full, spec, at


def test_a_new_model_that_is_not_complete_is_named_and_left_alone(replacing):
    full, _, at = replacing
    before = damage.contents(full.location)
    report = verify(full.location, deep=True)
    assert [(str(problem.kind), problem.key) for problem in report.problems] == [("stray", at)]
    assert report.valid
    assert repair(full.location, deep=True).nothing
    assert damage.contents(full.location) == before
    assert any(key.startswith(at) for key in before)


@pytest.mark.parametrize("moved", range(4))
def test_a_new_model_whose_move_was_begun_is_whole_and_is_moved_on(replacing, moved):
    full, spec, at = replacing
    write_record(full.location, spec_key("alpha"), spec)
    for range_id in range(moved):
        promote(full.location, at, receipt_key("alpha", range_id), guard=unguarded)
    report = verify(full.location, teacher="alpha", deep=True)
    assert report.problems == []
    assert report.complete
    done = repair(full.location, deep=True)
    assert (done.receipts, done.objects) == ([], [])
    assert done.forward == [receipt_key("alpha", range_id) for range_id in range(moved, 3)]
    if moved < 3:
        assert full.location.list("next") == []
    assert verify(full.location, teacher="alpha", deep=True).complete


def test_a_damaged_unit_of_a_new_model_is_put_aside_with_the_old_one(replacing):
    full, spec, at = replacing
    write_record(full.location, spec_key("alpha"), spec)
    damage.flip(full.location, f"{at}/{shard_key('alpha', 'text', 1)}")
    done = repair(full.location, deep=True)
    assert {*UNIT_1, *(f"{at}/{key}" for key in UNIT_1)} == set(damage.taken_away(full.location))
    assert done.left == []
    assert [unit.state for unit in verify(full.location, teacher="alpha", deep=True).units] == [
        "verified",
        "missing",
        "verified",
    ]


def test_a_unit_that_is_replaced_while_it_is_checked_is_no_damage(full):
    class Replacing(type(full.location)):
        done = False

        def read(self, key):
            if key == shard_key("alpha", "text", 1) and not self.done:
                Replacing.done = True
                receipt = attempt(full)
                promote(full.location, receipt.at, RECEIPT_1, guard=unguarded)
            return super().read(key)

    report = verify(Replacing(full.path), deep=True)
    assert report.problems == []
    assert Replacing.done


def test_checksums_of_a_receipt_are_compared_with_the_bytes(full):
    objects = json.loads(full.location.read(RECEIPT_1))["objects"]
    image, text = shard_key("alpha", "image", 1), shard_key("alpha", "text", 1)
    objects[image]["crc32c"] = "00000000"
    objects[text]["chunk_crc32c"][1] = "00000000"
    damage.edit_json(full.location, RECEIPT_1, objects=objects)
    assert verify(full.location).valid
    found = [(str(problem.kind), problem.key) for problem in verify(full.location, deep=True).problems]
    assert found == [("object-bytes", image), ("object-bytes", text)]


@pytest.mark.parametrize("count", [100, 400])
def test_whether_units_are_to_be_left_alone_costs_the_same_for_each(count):
    looks = [0]

    class Looked(UnitCheck):
        @property
        def receipt(self):
            looks[0] += 1
            return object()

        @receipt.setter
        def receipt(self, _value):
            pass

    accused = Problem(kind=Kind.OTHER_PAIRS, key="k", message="", next="")
    units = [Looked(teacher="alpha", range=n, state="damaged", problems=[accused]) for n in range(count)]
    left_alone = _left_alone(units)
    assert [left_alone(unit) for unit in units] == [[accused]] * count
    assert looks[0] <= 2 * count


def test_a_unit_that_was_done_again_since_it_was_found_is_not_marked(units):
    units.register()
    first = units.features(0)
    first.status[1] = Status.KILLER_ROW
    units.commit(0, features=first)
    found = find_retries(FeatureStore(units.path), statuses=[Status.KILLER_ROW])
    mark(units.location, found)
    assert marked(units.location) == {("alpha", 0)}
    units.commit(0)
    assert marked(units.location) == set()
    mark(units.location, found)
    assert marked(units.location) == set()


def test_an_error_of_the_disk_below_the_pair_table_is_no_damage_of_it(full, monkeypatch):
    def fails(*_arguments, **_options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = damage.contents(full.location)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fails)
    for look in (verify, repair):
        with pytest.raises(LocationError, match="Input/output error"):
            look(full.location)
    assert damage.contents(full.location) == before


def test_a_store_of_the_first_format_is_checked_and_repaired_as_one(tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "store")
    place = locate(tmp_path / "store")
    assert read_store_info(place).version == 1
    assert verify(place, deep=True).problems == []
    before = damage.contents(place)
    damage.flip(place, shard_key("alpha", "text", 1))
    assert repair(place, deep=True).receipts == [RECEIPT_1]
    assert set(damage.taken_away(place)) == set(before) - set(damage.contents(place)) == UNIT_1
    assert verify(place, deep=True).problems == []
