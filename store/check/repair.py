"""Repairs a store: puts damaged units aside, so that the next extraction makes exactly these anew."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from store.format.arrays import ZARR_FOLDER, create_arrays, write_root
from store.format.promote import NEXT_FOLDER, STAGED_FOLDER, recover
from store.format.records import (
    RETRY_FOLDER,
    Spec,
    parse_receipt_key,
    read_record,
    read_store_info,
    receipt_key,
    spec_key,
)
from store.io.location import Location
from store.io.lock import exclusive

from .inventory import (
    LOST_FOLDER,
    ROOT_METADATA,
    Inventory,
    metadata_keys,
    split_prefix,
    take_inventory,
    teacher_of,
    unfinished_writes,
)
from .pixel_check import pixel_keys
from .problems import Kind, Problem, Report, UnitCheck
from .verify import verify_inventory

_FOREIGN = frozenset({Kind.OTHER_SPEC, Kind.OTHER_PAIRS})

THREADS = 8
"""Objects that are moved at once: a disk and an object storage take longer to answer than to do it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Repair:
    """The actions of a repair, done or planned.

    Attributes:
        dry_run: nothing was done.
        receipts: keys of receipts that are taken away.
        objects: keys of objects that are taken away: of the units of those receipts, and those without a receipt.
        attempts: prefixes of attempts at units that no receipt names, which are taken away.
        kept: those of the keys above that are never deleted, because a receipt that cannot be read may own them.
        forward: receipts of units that a killed writer was moving; this is finished.
        metadata: teachers whose Zarr metadata is written anew; ``""`` for the group that holds them.
        left: damage that this cannot mend.
        lost_found: prefix below which lies what was taken away, under its keys; None where nothing was.
    """

    report: Report
    dry_run: bool
    receipts: list[str]
    objects: list[str]
    attempts: list[str]
    kept: frozenset[str]
    unfinished: list[str]
    forward: list[str]
    metadata: list[str]
    left: list[Problem]
    lost_found: str | None = None

    @property
    def nothing(self) -> bool:
        """Return whether there is nothing to do."""
        return not (self.receipts or self.objects or self.attempts or self.unfinished or self.forward or self.metadata)

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values; docs/store.md describes them."""
        names = ("dry_run", "receipts", "objects", "attempts", "unfinished", "forward", "metadata", "lost_found")
        return {
            "store": self.report.store,
            "deep": self.report.deep,
            **{name: getattr(self, name) for name in names},
            "left": [problem.as_json() for problem in self.left],
        }


def repair(
    location: Location,
    *,
    teacher: str | None = None,
    deep: bool = False,
    dry_run: bool = False,
    purge: bool = False,
    agreed: Callable[[Repair], bool] = lambda _plan: True,
) -> Repair:
    """Take receipts and objects of damaged units away, so that an extraction makes them anew, and nothing else.

    They are moved below ``lost+found/``. A listing or a read that fails ends it before anything is changed.

    Args:
        deep: find damaged bytes too, by reading all of them.
        dry_run: only say what would be done; takes no lock.
        purge: delete instead of moving, except what a receipt that cannot be read may own.
        agreed: is shown the plan before anything is done, and may refuse it.

    Raises:
        StoreError: there is no store, no such teacher, or another program writes to it.
    """
    read_store_info(location)
    if dry_run:
        return _plan(location, teacher=teacher, deep=deep)[0]
    with exclusive(location) as held:
        planned, attempts = _plan(location, teacher=teacher, deep=deep)
        if not agreed(planned):
            return planned
        run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        away = _Away(location, f"{LOST_FOLDER}/{run}", planned.kept if purge else None)
        held.check()
        # Receipts first: an object of a unit that counts as committed is never taken away.
        away.take(planned.receipts)
        away.take([*planned.objects, *attempts])
        held.check()
        location.delete(planned.unfinished)
        if planned.forward:
            recover(location, guard=held.check)
        _write_metadata(location, planned.metadata, away)
    return replace(planned, dry_run=False, lost_found=away.prefix if away.moved else None)


class _Away:
    """Takes objects away.

    Args:
        kept: what is moved although everything else is deleted; None to move everything.
    """

    def __init__(self, location: Location, prefix: str, kept: frozenset[str] | None) -> None:
        self._location, self.prefix, self._kept = location, prefix, kept
        self.moved = False

    def take(self, keys: Sequence[str]) -> None:
        """Move or delete objects; those that are gone already are not missed."""
        moved = [key for key in keys if self._kept is None or key in self._kept]
        self._location.delete([key for key in keys if self._kept is not None and key not in self._kept])
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._move, moved))

    def _move(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._location.move(key, f"{self.prefix}/{key}")
            self.moved = True


def _plan(location: Location, *, teacher: str | None, deep: bool) -> tuple[Repair, list[str]]:
    """Return what is to be done, and the keys of the attempts that are taken away."""
    inventory = take_inventory(location)
    if teacher is not None:
        inventory.check_name(teacher)
    report = verify_inventory(inventory, teacher=teacher, deep=deep)
    by_kind: dict[Kind, list[Problem]] = {kind: [] for kind in Kind}
    for problem in report.general:
        by_kind[problem.kind].append(problem)
    left = [*by_kind[Kind.PAIR_TABLE], *by_kind[Kind.SPEC]]
    pixels = {problem.key: pixel_keys(inventory, problem) for problem in report.general}
    taken = [problem.key for problem in by_kind[Kind.RECEIPT_WRONG] if not pixels[problem.key]]
    objects = [key for key, name, _ in inventory.orphans(without=taken) if teacher in (None, name)]
    staged, kept = inventory.attempts(), set[str]()
    attempts = [problem.key for problem in by_kind[Kind.ATTEMPT]]
    left_alone = _left_alone(report.units)
    for unit in report.units:
        foreign = left_alone(unit)
        left += foreign
        if unit.state != "damaged" or not unit.problems or foreign:
            continue
        keys = _places(inventory, unit)
        taken += [key for key in keys if key.endswith(".json")]
        objects += [key for key in keys if not key.endswith(".json")]
        if unit.receipt is None:
            kept |= {*keys}
    for problem in report.general:
        taken += [key for key in pixels[problem.key] if key.endswith(".json")]
        objects += [key for key in pixels[problem.key] if not key.endswith(".json")]
        if problem.kind == Kind.RECEIPT_UNREADABLE:
            kept |= {*pixels[problem.key]}
    planned = Repair(
        report=report,
        dry_run=True,
        receipts=taken,
        objects=objects,
        attempts=attempts,
        kept=frozenset(kept),
        unfinished=[problem.key for problem in by_kind[Kind.UNFINISHED]],
        # For one teacher alone nothing is moved on: this cannot be told apart from what other teachers have staged.
        forward=[] if teacher else [_receipt_key(unit) for unit in report.units if _is_moving(unit)],
        metadata=[problem.teacher or "" for problem in by_kind[Kind.ARRAYS]],
        left=left,
    )
    return planned, [key for prefix in attempts for key in staged[prefix]]


def _receipt_key(unit: UnitCheck) -> str:
    return receipt_key(unit.teacher, unit.range)


def _is_moving(unit: UnitCheck) -> bool:
    return unit.state in ("verified", "outgrown") and unit.prefixes != ("",)


def _places(inventory: Inventory, unit: UnitCheck) -> list[str]:
    return inventory.places(unit.teacher, unit.range, unit.prefixes)


def _left_alone(units: Iterable[UnitCheck]) -> Callable[[UnitCheck], list[Problem]]:
    """Return a function that gives a unit's problems of another spec or other pairs, if it is to be left alone.

    If no unit at all agrees with the spec or the pair table, this one file was exchanged. Features would be lost that a
    copy of the file makes valid again.
    """
    agreeing = {
        unit.teacher
        for unit in units
        if unit.receipt is not None
        and not any(problem.kind in _FOREIGN | {Kind.RECEIPT_WRONG} for problem in unit.problems)
    }

    def problems(unit: UnitCheck) -> list[Problem]:
        accused = [problem for problem in unit.problems if problem.kind in _FOREIGN]
        of_spec = any(problem.kind == Kind.OTHER_SPEC for problem in accused)
        return [] if (unit.teacher in agreeing if of_spec else agreeing) else accused

    return problems


def _write_metadata(location: Location, teachers: Iterable[str], away: _Away) -> None:
    """Write Zarr metadata anew. It follows from spec and store.json, and shards do not depend on it."""
    info = read_store_info(location)
    for teacher in sorted(teachers):
        if not teacher:
            away.take([ROOT_METADATA])
            write_root(location)
            continue
        spec = read_record(location, spec_key(teacher), Spec)
        away.take(metadata_keys(teacher))
        create_arrays(location, spec, info=info)


def remove_teacher(location: Location, teacher: str) -> int:
    """Delete a teacher's receipts, spec and arrays, in this order, and return how many objects that were.

    After a kill in between, nothing of the teacher counts as committed; the same call completes the deletion.

    Raises:
        StoreError: there is no store, no such teacher, or another program writes to it.
    """
    read_store_info(location)
    with exclusive(location) as held:
        take_inventory(location).check_name(teacher)
        folders = (f"receipts/{teacher}", f"{ZARR_FOLDER}/{teacher}")
        receipts, arrays = ([key for key, _ in location.list(folder)] for folder in folders)
        beside = [key for folder in (NEXT_FOLDER, STAGED_FOLDER, RETRY_FOLDER) for key, _ in location.list(folder)]
        beside = [key for key in beside if teacher_of(key) == teacher]
        receipts += [key for key in beside if parse_receipt_key(split_prefix(key)[1])]
        unfinished = [key for key in unfinished_writes(location) if key.startswith(tuple(f"{f}/" for f in folders))]
        held.check()
        location.delete(receipts)
        beside = [key for key in beside if key not in receipts]
        location.delete(beside)
        location.delete([spec_key(teacher)])
        # Last what a second call finds the teacher by.
        location.delete([*unfinished, *arrays])
    return len(receipts) + 1 + len(arrays) + len(beside)
