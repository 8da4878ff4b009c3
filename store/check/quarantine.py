"""Lists the rows that have no feature, and why, from the receipts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from store.format.pairs import strings
from store.read.reader import FeatureStore


@dataclass(kw_only=True, frozen=True, slots=True)
class QuarantinedRow:
    """One row that a teacher could make no feature of.

    Attributes:
        uri: the file that holds the image; None where there is none.
    """

    row: int
    key: str
    teacher: str
    status: str
    reason: str
    uri: str | None


def quarantined(store: FeatureStore, *, teacher: str | None = None) -> Iterator[QuarantinedRow]:
    """Yield the bad rows of a store, teacher by teacher, in order.

    Raises:
        StoreError: there is no such teacher.
    """
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
    counts = Counter((row.teacher, row.status, row.reason) for row in rows)
    fields = ("teacher", "status", "reason")
    return [{**dict(zip(fields, what, strict=True)), "rows": count} for what, count in counts.most_common()]
