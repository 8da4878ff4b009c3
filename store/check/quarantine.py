"""Lists the rows that have no feature, and why, and marks their units, so that the next extraction does these again.

A mark does not change the unit. Deleting its receipt instead would take its good rows from readers until the unit is
made again, and for ever if it cannot be made again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from store.errors import kind_of
from store.format.pairs import strings
from store.format.records import RETRY_FOLDER, BadRow, Status, parse_receipt_key, receipt_key
from store.io.location import Location
from store.io.lock import exclusive
from store.read.reader import FeatureStore


@dataclass(kw_only=True, frozen=True, slots=True)
class QuarantinedRow:
    """One row that a teacher could make no feature of."""

    row: int
    key: str
    teacher: str
    status: str
    reason: str
    uri: str | None


def quarantined(store: FeatureStore, *, teacher: str | None = None) -> Iterator[QuarantinedRow]:
    """Yield the bad rows of a store, teacher by teacher, in order."""
    for name in store.teachers if teacher is None else [teacher]:
        for _, receipt in sorted(store.receipts(name).items()):
            if not receipt.bad_rows:
                continue
            uris = strings(store.pairs.read(receipt.start, receipt.stop, ["uri"]), "uri")
            for bad in receipt.bad_rows:
                yield QuarantinedRow(
                    row=bad.row,
                    key=bad.key,
                    teacher=name,
                    status=bad.status.name.lower(),
                    reason=bad.reason,
                    uri=uris[bad.row - receipt.start],
                )


def count_reasons(rows: Iterable[QuarantinedRow]) -> list[dict[str, Any]]:
    """Return how many rows have each teacher, status and reason, the most frequent first."""
    counts = Counter((row.teacher, row.status, kind_of(row.reason)) for row in rows)
    fields = ("teacher", "status", "reason")
    return [{**dict(zip(fields, what, strict=True)), "rows": count} for what, count in counts.most_common()]


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
    """Return the committed units that have bad rows of some statuses."""
    found = []
    for name in store.teachers if teachers is None else teachers:
        for range_id, receipt in sorted(store.receipts(name).items()):
            rows = tuple(row for row in receipt.bad_rows if row.status in statuses)
            if rows:
                found.append(RetryUnit(teacher=name, range=range_id, rows=rows))
    return found


def mark(location: Location, units: Collection[RetryUnit]) -> None:
    """Mark units to be done again by the next extraction; those that another has done again meanwhile are passed over.

    Raises:
        StoreError: another program writes to the store.
    """
    with exclusive(location) as held:
        now, store = datetime.now(UTC).isoformat(timespec="seconds"), FeatureStore(location)
        receipts = {name: store.receipts(name) for name in {unit.teacher for unit in units}}
        held.check()
        for unit in units:
            receipt = receipts[unit.teacher].get(unit.range)
            rows = [row.row for row in unit.rows if receipt is not None and row in receipt.bad_rows]
            if rows:
                content = {"teacher": unit.teacher, "range": unit.range, "marked": now, "rows": rows}
                key = receipt_key(unit.teacher, unit.range, folder=RETRY_FOLDER)
                location.write(key, (json.dumps(content) + "\n").encode())


def unmark(location: Location) -> int:
    """Take all marks back and return how many there were.

    Raises:
        StoreError: another program writes to the store.
    """
    with exclusive(location) as held:
        keys = [key for key, _ in location.list(RETRY_FOLDER)]
        held.check()
        location.delete(keys)
    return len(keys)
