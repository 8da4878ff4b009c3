"""Tells whether receipts are of the pairs that a store has."""

from __future__ import annotations

import threading
from collections.abc import Callable

from store.format.pairs import PairTable
from store.format.records import RangeReceipt, StoreInfo, read_store_info
from store.io.location import Location


class PresentPairs:
    """Whether a receipt is of the pairs that a store has, also where rows were appended since it was opened.

    Args:
        pairs: returns the pair table, if the caller has one.
    """

    def __init__(self, location: Location, info: StoreInfo, pairs: Callable[[], PairTable] | None = None) -> None:
        self._location, self._info, self._open = location, info, pairs or self._reopened
        self._pairs: PairTable | None = None
        self._lock = threading.Lock()

    def __call__(self, receipt: RangeReceipt) -> bool:
        """Return whether the digest of a receipt is that of the rows that it names."""
        with self._lock:
            if receipt.stop > self._info.rows:
                self._info = read_store_info(self._location)
                self._pairs = self._reopened()
            if receipt.stop > self._info.rows or receipt.start != receipt.range * self._info.range_rows:
                return False
            self._pairs = self._pairs or self._open()
            return self._pairs.digest(receipt.start, receipt.stop) == receipt.pairs_digest

    def _reopened(self) -> PairTable:
        return PairTable(self._location, self._info)
