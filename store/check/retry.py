"""Marks committed units that the next extraction is to do again; it removes the marks.

A mark does not change the unit. Deleting its receipt instead would take its good rows from readers until the unit is
made again, and for ever if it cannot be made again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from store.format.records import RETRY_FOLDER, BadRow, Status, parse_receipt_key, retry_key
from store.io.location import Location
from store.io.lock import exclusive
from store.read.reader import FeatureStore

TRANSIENT = (Status.KILLER_ROW, Status.NON_FINITE)
"""Statuses that a second try may mend: memory ran out, a device failed. A damaged image stays damaged."""


@dataclass(kw_only=True, frozen=True, slots=True)
class RetryUnit:
    """A unit with bad rows of the statuses that were asked for."""

    teacher: str
    range: int
    rows: tuple[BadRow, ...]


def marked(location: Location) -> set[tuple[str, int]]:
    """Return teacher and range of every unit that is to be done again."""
    units = (parse_receipt_key(key, folder=RETRY_FOLDER) for key, _ in location.list(RETRY_FOLDER))
    return {unit for unit in units if unit}


def find_retries(
    store: FeatureStore, *, statuses: Collection[Status], teachers: Iterable[str] | None = None
) -> list[RetryUnit]:
    """Return the committed units that have bad rows of some statuses.

    Raises:
        StoreError: there is no such teacher.
    """
    found = []
    for name in store.teachers if teachers is None else teachers:
        for range_id, receipt in sorted(store.receipts(name).items()):
            rows = tuple(row for row in receipt.bad_rows if row.status in statuses)
            if rows:
                found.append(RetryUnit(teacher=name, range=range_id, rows=rows))
    return found


def mark(location: Location, units: Iterable[RetryUnit]) -> None:
    """Mark units to be done again by the next extraction.

    Raises:
        StoreError: another program writes to the store.
    """
    with exclusive(location):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for unit in units:
            content = {"teacher": unit.teacher, "range": unit.range, "marked": now}
            content |= {"rows": [row.row for row in unit.rows]}
            location.write(retry_key(unit.teacher, unit.range), (json.dumps(content) + "\n").encode())


def unmark(location: Location) -> int:
    """Take all marks back and return how many there were.

    Raises:
        StoreError: another program writes to the store.
    """
    with exclusive(location):
        keys = [key for key, _ in location.list(RETRY_FOLDER)]
        location.delete(keys)
    return len(keys)
