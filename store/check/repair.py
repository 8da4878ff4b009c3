"""Repairs a store: deletes the receipts of damaged units, so that the next extraction makes exactly these anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from store.format.arrays import ZARR_FOLDER, create_arrays, write_root
from store.format.records import Spec, read_record, read_store_info, receipt_key, spec_key
from store.io.location import Location
from store.io.lock import exclusive

from .inventory import ROOT_METADATA, metadata_keys, take_inventory, unfinished_writes
from .problems import Kind, Problem, Report, UnitCheck
from .verify import verify

_FOREIGN = frozenset({Kind.OTHER_SPEC, Kind.OTHER_PAIRS})


@dataclass(kw_only=True, frozen=True, slots=True)
class Repair:
    """The actions of a repair, done or planned.

    Attributes:
        objects: keys of objects that are deleted: of the units of those receipts, and those without a receipt.
        metadata: teachers whose Zarr metadata is written anew; ``""`` for the group that holds them.
        left: damage that this cannot mend.
    """

    report: Report
    dry_run: bool
    receipts: list[str]
    objects: list[str]
    unfinished: list[str]
    metadata: list[str]
    left: list[Problem]

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values; docs/store.md describes them."""
        names = ("dry_run", "receipts", "objects", "unfinished", "metadata")
        return {
            "store": self.report.store,
            "deep": self.report.deep,
            **{name: getattr(self, name) for name in names},
            "left": [problem.as_json() for problem in self.left],
        }


def repair(location: Location, *, teacher: str | None = None, deep: bool = False, dry_run: bool = False) -> Repair:
    """Delete receipts and objects of damaged units, so that an extraction makes them anew, and nothing else.

    Args:
        deep: find damaged bytes too, by reading all of them.
        dry_run: only say what would be done; takes no lock.

    Raises:
        StoreError: there is no store, no such teacher, or another program writes to it.
    """
    read_store_info(location)
    if dry_run:
        return _plan(location, teacher=teacher, deep=deep, dry_run=True)
    with exclusive(location):
        planned = _plan(location, teacher=teacher, deep=deep, dry_run=False)
        # Receipts first: an object of a unit that counts as committed is never deleted.
        location.delete(planned.receipts)
        location.delete(planned.objects)
        location.delete(planned.unfinished)
        _write_metadata(location, planned.metadata)
    return planned


def _plan(location: Location, *, teacher: str | None, deep: bool, dry_run: bool) -> Repair:
    report = verify(location, teacher=teacher, deep=deep)
    inventory = take_inventory(location)
    by_kind: dict[Kind, list[Problem]] = {kind: [] for kind in Kind}
    for problem in report.general:
        by_kind[problem.kind].append(problem)
    left = [*by_kind[Kind.PAIR_TABLE], *by_kind[Kind.SPEC]]
    receipts = [problem.key for problem in by_kind[Kind.RECEIPT_WRONG]]
    for unit in report.units:
        if unit.state != "damaged":
            continue
        foreign = _left_alone(unit, report.units)
        left += foreign
        if unit.problems and not foreign:
            receipts.append(receipt_key(unit.teacher, unit.range))
    return Repair(
        report=report,
        dry_run=dry_run,
        receipts=receipts,
        objects=[key for key, name, _ in inventory.orphans(without=receipts) if teacher in (None, name)],
        unfinished=[problem.key for problem in by_kind[Kind.UNFINISHED]],
        metadata=[problem.teacher or "" for problem in by_kind[Kind.ARRAYS]],
        left=left,
    )


def _left_alone(unit: UnitCheck, units: Iterable[UnitCheck]) -> list[Problem]:
    """Return the problems of another spec or other pairs, if the spec or the pair table is probably what is wrong.

    If no unit at all agrees with the spec or the pair table, this one file was exchanged. Deleting the receipts would
    then lose features that a copy of the file makes valid again.
    """
    accused = [problem for problem in unit.problems if problem.kind in _FOREIGN]
    kinds = {problem.kind for problem in accused}
    teachers = {unit.teacher} if Kind.OTHER_SPEC in kinds else None
    agreeing = (
        other
        for other in units
        if (teachers is None or other.teacher in teachers)
        and other.receipt is not None
        and not any(problem.kind in _FOREIGN | {Kind.RECEIPT_WRONG} for problem in other.problems)
    )
    return [] if any(agreeing) else accused


def _write_metadata(location: Location, teachers: Iterable[str]) -> None:
    """Write Zarr metadata anew. It follows from spec and store.json, and shards do not depend on it."""
    info = read_store_info(location)
    for teacher in sorted(teachers):
        if not teacher:
            location.delete([ROOT_METADATA])
            write_root(location)
            continue
        spec = read_record(location, spec_key(teacher), Spec)
        location.delete(metadata_keys(teacher))
        create_arrays(location, spec, info=info)


def remove_teacher(location: Location, teacher: str) -> int:
    """Delete a teacher's receipts, spec and arrays, in this order, and return how many objects that were.

    After a kill in between, nothing of the teacher counts as committed; the same call completes the deletion.

    Raises:
        StoreError: there is no store, no such teacher, or another program writes to it.
    """
    read_store_info(location)
    with exclusive(location):
        take_inventory(location).check_name(teacher)
        folders = (f"receipts/{teacher}", f"{ZARR_FOLDER}/{teacher}")
        receipts, arrays = ([key for key, _ in location.list(folder)] for folder in folders)
        unfinished = [key for key in unfinished_writes(location) if key.startswith(tuple(f"{f}/" for f in folders))]
        location.delete(receipts)
        location.delete([spec_key(teacher)])
        location.delete(arrays)
        location.delete(unfinished)
    return len(receipts) + 1 + len(arrays)
