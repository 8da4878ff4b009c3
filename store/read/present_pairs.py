"""Tells whether receipts are of the pairs that a store has."""

from __future__ import annotations

import threading
from functools import cached_property

from store.format.pairs import PairTable
from store.format.records import RangeReceipt, StoreInfo, read_store_info
from store.io.location import Location


class PresentPairs:
    """Return whether a receipt is of the pairs that a store has, also where rows were appended since it was opened."""

    def __init__(self, location: Location, info: StoreInfo) -> None:
        self._location, self._info, self._lock = location, info, threading.Lock()
        self._grown: PairTable | None = None

    @cached_property
    def table(self) -> PairTable:
        """The pair table of the rows that the store was opened with."""
        return PairTable(self._location, self._info)

    def __call__(self, receipt: RangeReceipt) -> bool:
        """Return whether the digest of a receipt is that of the rows that it names."""
        with self._lock:
            table = self.table if self._grown is None else self._grown
            if receipt.stop > table.rows:
                table = self._grown = PairTable(self._location, read_store_info(self._location))
            if receipt.stop > table.rows or receipt.start != receipt.range * self._info.range_rows:
                return False
            return table.digest(receipt.start, receipt.stop) == receipt.pairs_digest
