"""Marks by which committed units are done again: nothing is lost before the new unit is there."""

from __future__ import annotations

import pytest

from store.check.quarantine import TRANSIENT, find_retries, mark, marked, unmark
from store.check.verify import verify
from store.errors import StoreError
from store.format.records import RETRY_FOLDER, Status, receipt_key
from store.io.lock import exclusive
from store.read.reader import FeatureStore
from tests.store.damage import contents


@pytest.fixture
def bad(units):
    """Row 1 killed a worker and row 2 is no image under alpha; row 6 is not finite under beta."""
    for name in ("alpha", "beta"):
        units.register(name)
    first, second = units.features(0), units.features(1)
    first.status[[1, 2]] = Status.KILLER_ROW, Status.BAD_IMAGE
    first.reasons |= {1: "its worker died", 2: "cut short"}
    units.commit(0, features=first)
    units.commit(0, teacher="beta")
    units.commit(1)
    second.image[2] = float("nan")
    units.commit(1, teacher="beta", features=second)
    return units


def found(units, **options):
    return [
        (u.teacher, u.range, [row.row for row in u.rows]) for u in find_retries(FeatureStore(units.path), **options)
    ]


def test_units_are_found_by_the_status_of_their_bad_rows(bad):
    assert found(bad, statuses=TRANSIENT) == [("alpha", 0, [1]), ("beta", 1, [6])]
    assert found(bad, statuses=[Status.BAD_IMAGE]) == [("alpha", 0, [2])]
    assert found(bad, statuses=[Status.BAD_IMAGE, Status.KILLER_ROW]) == [("alpha", 0, [1, 2])]
    assert found(bad, statuses=TRANSIENT, teachers=["beta"]) == [("beta", 1, [6])]
    assert found(bad, statuses=[Status.BAD_TEXT]) == []
    with pytest.raises(StoreError, match="no teacher 'gamma'"):
        found(bad, statuses=TRANSIENT, teachers=["gamma"])


def test_a_mark_changes_nothing_that_readers_see_and_can_be_taken_back(bad):
    before = contents(bad.location)
    mark(bad.location, find_retries(FeatureStore(bad.path), statuses=TRANSIENT))
    assert marked(bad.location) == {("alpha", 0), ("beta", 1)}
    after = contents(bad.location)
    assert after.items() >= before.items()
    assert set(after) - set(before) == {
        receipt_key("alpha", 0, folder=RETRY_FOLDER),
        receipt_key("beta", 1, folder=RETRY_FOLDER),
    }
    report = verify(bad.location, deep=True)
    assert {unit.state for unit in report.units} <= {"verified", "missing"}
    assert not report.general
    assert unmark(bad.location) == 2
    assert contents(bad.location) == before


def test_a_marked_unit_is_replaced_by_the_next_commit_and_the_mark_goes(bad):
    mark(bad.location, find_retries(FeatureStore(bad.path), statuses=TRANSIENT))
    before = contents(bad.location)
    receipt = bad.commit(0, run_id="again")
    assert (receipt.run_id, receipt.bad_rows) == ("again", [])
    after = contents(bad.location)
    assert marked(bad.location) == {("beta", 1)}
    changed = {key for key in before if after.get(key) != before[key]}
    assert receipt_key("alpha", 0, folder=RETRY_FOLDER) in changed
    assert all("alpha" in key for key in changed)
    assert FeatureStore(bad.path).status("alpha")[:4].tolist() == [Status.OK] * 4
    # Once done it is left alone again.
    assert bad.commit(0, run_id="third").run_id == "again"


def test_a_unit_that_was_being_replaced_when_its_writer_died_is_done_once_and_not_again(bad):
    mark(bad.location, find_retries(FeatureStore(bad.path), statuses=TRANSIENT))
    bad.location.delete([receipt_key("alpha", 0)])  # as a kill after the old receipt went leaves it
    assert bad.commit(0, run_id="again").run_id == "again"
    assert marked(bad.location) == {("beta", 1)}


def test_marking_is_refused_while_another_writes(bad):
    units = find_retries(FeatureStore(bad.path), statuses=TRANSIENT)
    with exclusive(bad.location), pytest.raises(StoreError, match="another program is writing"):
        mark(bad.location, units)
    assert marked(bad.location) == set()
