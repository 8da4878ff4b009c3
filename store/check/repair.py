"""Mending a store: what is damaged loses its receipt, so that the next extraction makes exactly that anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from store.format.arrays import ZARR_FOLDER, create_arrays, write_root
from store.format.records import Spec, read_record, read_store_info, receipt_key, spec_key
from store.io.location import Location
from store.io.lock import exclusive

from .inventory import ROOT_METADATA, metadata_keys, take_inventory, unfinished_writes
from .problems import Finding, Problem, Report, UnitCheck
from .verify import THREADS, verify

_FOREIGN = frozenset({Problem.OTHER_SPEC, Problem.OTHER_PAIRS})


@dataclass(kw_only=True, frozen=True, slots=True)
class Repair:
    """What a repair did, or would do.

    Attributes:
        objects: keys of objects that are deleted: of the units of those receipts, and those without a receipt.
        unfinished: keys of unfinished writes that are deleted.
        metadata: teachers whose Zarr metadata is written anew; ``""`` for the group that holds them.
        left: damage that this cannot mend.
    """

    report: Report
    dry_run: bool
    receipts: list[str]
    objects: list[str]
    unfinished: list[str]
    metadata: list[str]
    left: list[Finding]

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values; docs/store.md describes them."""
        return {
            "store": self.report.store,
            "deep": self.report.deep,
            "dry_run": self.dry_run,
            "receipts": self.receipts,
            "objects": self.objects,
            "unfinished": self.unfinished,
            "metadata": self.metadata,
            "left": [finding.as_json() for finding in self.left],
        }


def repair(
    location: Location,
    *,
    teacher: str | None = None,
    deep: bool = False,
    dry_run: bool = False,
    threads: int = THREADS,
) -> Repair:
    """Delete what keeps an extraction from making damaged units anew, and nothing else.

    Args:
        deep: find damaged bytes too, by reading all of them.
        dry_run: only say what would be done; takes no lock.

    Raises:
        StoreError: there is no store, no such teacher, or another program writes to it.
    """
    read_store_info(location)
    if dry_run:
        return _plan(location, teacher=teacher, deep=deep, dry_run=True, threads=threads)
    with exclusive(location):
        planned = _plan(location, teacher=teacher, deep=deep, dry_run=False, threads=threads)
        # Receipts first: an object of a unit that counts as committed is never deleted.
        location.delete(planned.receipts)
        location.delete(planned.objects)
        location.delete(planned.unfinished)
        _write_metadata(location, planned.metadata)
    return planned


def _plan(location: Location, *, teacher: str | None, deep: bool, dry_run: bool, threads: int) -> Repair:
    report = verify(location, teacher=teacher, deep=deep, threads=threads)
    inventory = take_inventory(location)
    by_problem: dict[Problem, list[Finding]] = {problem: [] for problem in Problem}
    for finding in report.general:
        by_problem[finding.problem].append(finding)
    left = [*by_problem[Problem.PAIR_TABLE], *by_problem[Problem.SPEC]]
    receipts = [finding.key for finding in by_problem[Problem.RECEIPT_WRONG]]
    for unit in report.units:
        if unit.state != "damaged":
            continue
        foreign = _left_alone(unit, report.units)
        left += foreign
        if unit.findings and not foreign:
            receipts.append(receipt_key(unit.teacher, unit.range))
    return Repair(
        report=report,
        dry_run=dry_run,
        receipts=receipts,
        objects=[key for key, name, _ in inventory.orphans(without=receipts) if teacher in (None, name)],
        unfinished=[finding.key for finding in by_problem[Problem.UNFINISHED]],
        metadata=[finding.teacher or "" for finding in by_problem[Problem.ARRAYS]],
        left=left,
    )


def _left_alone(unit: UnitCheck, units: Iterable[UnitCheck]) -> list[Finding]:
    """Return the findings that accuse a unit of another spec or other pairs, if the accuser is the likelier culprit.

    Where not one unit agrees with the spec, or with the pair table, that file was exchanged rather than all the others.
    Deleting the receipts would then lose features that a copy of the one file makes valid again.
    """
    accused = [finding for finding in unit.findings if finding.problem in _FOREIGN]
    problems = {finding.problem for finding in accused}
    teachers = {unit.teacher} if Problem.OTHER_SPEC in problems else None
    agreeing = (
        other
        for other in units
        if (teachers is None or other.teacher in teachers)
        and other.receipt is not None
        and not any(finding.problem in _FOREIGN | {Problem.RECEIPT_WRONG} for finding in other.findings)
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
        create_arrays(location, teacher, width=spec.embed_dim, stored_dtype=spec.stored_dtype, info=info)


def remove_teacher(location: Location, teacher: str) -> int:
    """Delete a teacher's receipts, spec and arrays, in this order, and return how many objects that were.

    Killed between two of them, the store has a teacher of whom nothing counts as committed; the same call ends it.

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
