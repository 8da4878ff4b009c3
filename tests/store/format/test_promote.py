"""Units that take the place of others: what killed or lost programs left in between is ended, not in the way."""

from __future__ import annotations

import os

import pytest

from store import faults
from store.check.repair import remove_teacher
from store.check.verify import verify
from store.errors import LockLostError
from store.format import promote
from store.format.commit import commit_unit, register_teacher
from store.format.promote import STAGED_FOLDER, recover, replace_units, unguarded
from store.format.records import read_store_info, receipt_key, spec_key
from store.read.reader import FeatureStore
from tests.store import damage
from tests.store.conftest import Units


@pytest.fixture
def beside(units):
    """All ranges of a teacher, and beside them those of its next model."""
    units.register()
    for range_id in range(units.info.ranges):
        units.commit(range_id)
    spec = units.spec(embed_dim=7)
    at = register_teacher(units.location, spec, info=units.info, replace=True)
    place = Units(units.location.below(at), units.info, pairs=units.pairs)
    for range_id in range(units.info.ranges):
        place.commit(range_id, features=units.features(range_id, seed=1, width=7), spec=spec)
    return place


def switch(units, place, monkeypatch):
    """Let the next model take the place, and end before the first unit is moved."""
    with monkeypatch.context() as patch:
        patch.setattr(promote, "_move_units", lambda *_, **__: None)
        at = place.location.uri.removeprefix(f"{units.location.uri}/")
        replace_units(units.location, at, spec_key("alpha"), guard=unguarded)
    return at


def is_replaced(units):
    width = FeatureStore(units.location).read(slice(0, 1), teacher="alpha", side="image").shape[1]
    left = [key for key, _ in units.location.list() if key.startswith(("next/", "staged/"))]
    return width == 7 and not left and verify(units.location, deep=True).complete


def test_an_attempt_of_a_worker_that_was_lost_is_not_in_the_way_of_a_replacement(units, beside, monkeypatch):
    for key, data in damage.contents(beside.location).items():
        if key == receipt_key("alpha", 1) or "/c/1" in key:
            beside.location.write(f"{STAGED_FOLDER}/lost/{key}", data)
    at = switch(units, beside, monkeypatch)
    replace_units(units.location, at, spec_key("alpha"), guard=unguarded)
    assert is_replaced(units)


def test_a_next_model_stays_beside_where_the_store_has_no_spec_of_its_teacher(units, beside):
    units.location.delete([spec_key("alpha")])
    before = damage.contents(beside.location)
    recover(units.location, guard=unguarded)
    assert damage.contents(beside.location) == before


def test_a_replacement_goes_on_after_the_notes_of_the_spec_were_changed(units, beside, monkeypatch):
    switch(units, beside, monkeypatch)
    damage.edit_json(units.location, spec_key("alpha"), notes={"licence": "CC0-1.0"})
    recover(units.location, guard=unguarded)
    assert is_replaced(units)
    assert FeatureStore(units.location).spec("alpha").notes == {"licence": "CC0-1.0"}


def test_unfinished_writes_go_with_the_attempt_that_they_belong_to(units, beside, monkeypatch):
    switch(units, beside, monkeypatch)
    for folder in (units.path / STAGED_FOLDER / "killed", beside.location.path):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".0.1.ab.tmp").write_bytes(b"half")
    recover(units.location, guard=unguarded)
    assert is_replaced(units)
    assert not list(units.path.rglob("*.tmp"))


def without_lock(units):
    """Commit range 0 as a worker does that does not hold the lock."""
    return commit_unit(
        units.location,
        holds_lock=False,
        info=units.info,
        spec=units.spec(),
        range_id=0,
        pairs=units.pairs.read(0, 4),
        features=units.features(0, seed=1),
        circumstances=Units.circumstances("late"),
    )


def attempt(units):
    """Commit range 0, mark it for a retry, and return (its receipt, that of another attempt, which lies beside it)."""
    units.register()
    old = units.commit(0)
    units.location.write(receipt_key("alpha", 0, folder="retry"), b"{}")
    return old, without_lock(units)


def interrupt(units, new, monkeypatch, *, at, count=1):
    """Promote range 0 up to a step."""
    steps = []

    def stop(step):
        steps.append(step)
        if steps.count(at) == count:
            raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(promote, "reached", stop)
        with pytest.raises(InterruptedError):
            promote.promote(units.location, new.at, receipt_key("alpha", 0), guard=unguarded)


@pytest.mark.parametrize("moved", [1, 2, 3, 4])
def test_a_promotion_that_ended_after_some_moves_is_ended_by_the_same_call(units, monkeypatch, moved):
    _, new = attempt(units)
    interrupt(units, new, monkeypatch, at="promote.moved", count=moved)
    promote.promote(units.location, new.at, receipt_key("alpha", 0), guard=unguarded)
    assert FeatureStore(units.location).receipts("alpha")[0].objects == new.objects
    assert not [key for key, _ in units.location.list() if key.startswith((STAGED_FOLDER, "retry"))]
    assert verify(units.location, deep=True).valid


def test_only_the_holder_of_the_lock_ends_the_promotion_of_a_unit_that_it_is_to_commit(units, monkeypatch):
    _, new = attempt(units)
    units.location.delete([receipt_key("alpha", 0, folder="retry")])
    interrupt(units, new, monkeypatch, at="promote.switched")
    assert without_lock(units).at == new.at
    assert units.location.list(STAGED_FOLDER)
    assert units.commit(0) == new.model_copy(update={"at": None})
    assert not units.location.list(STAGED_FOLDER)


def test_who_lost_the_lock_is_told_so_although_its_attempt_was_dropped(units):
    old, new = attempt(units)
    recover(units.location, guard=unguarded)  # of who took the lock over

    def guard():
        raise LockLostError("lost")

    with pytest.raises(LockLostError):
        promote.promote(units.location, new.at, receipt_key("alpha", 0), guard=guard)
    assert FeatureStore(units.location).receipts("alpha")[0].objects == old.objects


def test_a_removal_that_is_killed_in_the_midst_of_a_replacement_is_ended_by_the_same_call(
    units, beside, tmp_path, monkeypatch
):
    switch(units, beside, monkeypatch)
    count = len([key for key, _ in units.location.list() if "alpha" in key])
    for step in range(1, count + 1):
        location = damage.copy(units.location, Units(tmp_path / str(step), units.info, pairs=units.pairs).location)
        child = os.fork()
        if not child:
            faults._reached.clear()
            os.environ[faults.KILL_AT] = f"delete.done:{step}"
            remove_teacher(location, "alpha")
            os._exit(0)
        assert os.waitpid(child, 0)[1]
        if any("alpha" in key for key, _ in location.list()):
            remove_teacher(location, "alpha")
        assert not [key for key, _ in location.list() if "alpha" in key], step
        assert read_store_info(location).rows == units.info.rows
