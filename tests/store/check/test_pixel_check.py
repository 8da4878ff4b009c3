"""Verify and repair of the images that a store keeps itself."""

from __future__ import annotations

import json

import pytest

from store.check.problems import Kind
from store.check.repair import repair
from store.check.verify import verify
from store.format.pixels import PIXEL_SPEC_KEY, pixel_receipt_key, pixels_key, register_pixels
from store.io.location import locate
from store.read.pixel_cache import PixelCache
from tests.store import damage
from tests.store.format.test_pixels import SPEC, commit


@pytest.fixture(params=["folder", "objects"])
def location(request, units, tmp_path):
    """Images of every range, in a folder and on object storage."""
    register_pixels(units.location, SPEC)
    for range_id in range(units.info.ranges):
        commit(units, range_id)
    if request.param == "folder":
        return units.location
    return damage.copy(units.location, locate(f"memory://pixel-check/{tmp_path.name}"))


def cut(location):
    location.write(pixels_key(1), location.read(pixels_key(1))[:-1])


def flip(location):
    data = bytearray(location.read(pixels_key(1)))
    data[len(data) // 2] ^= 1
    location.write(pixels_key(1), bytes(data))


def lose(location):
    location.delete([pixels_key(1)])


def lose_receipt(location):
    location.delete([pixel_receipt_key(1)])


def spoil_receipt(location):
    location.write(pixel_receipt_key(1), b"{")


def other(name, value):
    def change(location):
        record = json.loads(location.read(pixel_receipt_key(1)))
        location.write(pixel_receipt_key(1), json.dumps(record | {name: value}).encode())

    return change


DAMAGE = {
    Kind.OBJECT_SIZE: cut,
    Kind.OBJECT_BYTES: flip,
    Kind.OBJECT_MISSING: lose,
    Kind.ORPHAN: lose_receipt,
    Kind.RECEIPT_UNREADABLE: spoil_receipt,
    Kind.RECEIPT_WRONG: other("range", 0),
    Kind.OTHER_SPEC: other("spec_hash", "0" * 64),
    Kind.OTHER_PAIRS: other("pairs_digest", "0" * 64),
}


def test_images_as_they_were_made_are_valid(location):
    assert verify(location, deep=True).problems == []
    assert repair(location, deep=True).nothing


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_images_are_told_and_put_aside_and_can_be_made_again(location, units, kind):
    before = damage.contents(location)
    DAMAGE[kind](location)
    damaged = damage.contents(location)
    (problem,) = verify(location, deep=True).problems
    assert (problem.kind, problem.range, problem.teacher) == (kind, 1, None)
    assert problem.rows == units.info.bounds(1)
    assert "extract pixels" in problem.next
    assert (verify(location).problems == []) == (kind == Kind.OBJECT_BYTES)

    planned = repair(location, deep=True, dry_run=True)
    assert damage.contents(location) == damaged
    done = repair(location, deep=True)
    assert (done.receipts, done.objects) == (planned.receipts, planned.objects)
    assert damage.taken_away(location) == {
        key: damaged[key] for key in (pixel_receipt_key(1), pixels_key(1)) if key in damaged
    }
    cache = PixelCache(location, info=units.info)
    start, stop = units.info.bounds(1)
    assert not cache.committed_rows()[start:stop].any()
    assert cache.committed_rows().sum() == units.info.rows - (stop - start)

    commit(units, 1, location=location)
    now = damage.contents(location)
    assert now[pixels_key(1)] == before[pixels_key(1)]
    assert verify(location, deep=True).problems == []


def test_purging_keeps_what_an_unreadable_receipt_may_own(location):
    spoil_receipt(location)
    repair(location, purge=True)
    assert {*damage.taken_away(location)} == {pixel_receipt_key(1), pixels_key(1)}


def test_without_their_record_images_are_left_alone(location):
    location.delete([PIXEL_SPEC_KEY])
    before = damage.contents(location)
    report = verify(location)
    assert [problem.kind for problem in report.problems] == [Kind.SPEC]
    assert "move the folder pixels/ out" in report.problems[0].next
    done = repair(location)
    assert done.left == report.problems
    assert damage.contents(location) == before


def test_one_teacher_is_checked_without_the_images(units):
    units.fill({})
    register_pixels(units.location, SPEC)
    commit(units, 1)
    lose(units.location)
    assert verify(units.location, teacher="alpha").problems == []
    assert [problem.kind for problem in verify(units.location).problems] == [Kind.OBJECT_MISSING]


def test_images_that_are_to_replace_others_are_named_and_left_alone(location, units):
    spec = SPEC.model_copy(update={"short_side_px": 64})
    at = register_pixels(location, spec, replace=True)
    commit(units, 0, spec=spec, location=location.below(at))
    before = damage.contents(location)
    (problem,) = verify(location, deep=True).problems
    assert (problem.kind, problem.key, problem.severity) == (Kind.STRAY, at, "note")
    assert repair(location, deep=True).nothing
    assert damage.contents(location) == before
