"""Finds the committed units, of the present spec and pairs, and keeps some hundred bytes of each.

A receipt is looked up at its key and, while a teacher is being replaced, in the folder of the next spec. Its objects
lie below `at` until they have been moved to their keys (docs/store-format.md).
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NoReturn

import numpy as np
import numpy.typing as npt

from store.errors import CorruptChunkError, IncompleteStoreError, SpecMismatchError
from store.format.records import Committed, RangeReceipt, StoreInfo, readable_record
from store.io.fetching import fetch_all
from store.io.location import Location

log = logging.getLogger(__name__)

RECORDS_AT_ONCE = 1024
"""Receipts that are in memory as records at a time; one may take 30 KB there."""

CLOCKS_S = 1.0
"""Receipts are dated to the second: an object changed this much later is newer."""

_NAME = re.compile(r"r(\d{6,})\.json")


class UnitChangedError(Exception):
    """A unit was committed anew while it was read: whoever reads it begins again, and gets the new one whole."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        self.unit = unit


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """The part of a receipt that reading needs.

    Attributes:
        folders: where its objects may lie, in the order of looking, each empty or ending with ``/``.
        nbytes: of each object; -1 where the receipt does not name it.
        crcs: uint32 CRC-32C as bytes: of each object, then of the chunks of each shard of features; empty in format 1.
        content: tells this unit from another attempt at it.
        ok: rows that have features.
        finished: seconds since the epoch; an object changed later may be another attempt's.
    """

    range: int
    start: int
    stop: int
    folders: tuple[str, ...]
    nbytes: tuple[int, ...]
    crcs: bytes
    content: bytes
    ok: int
    finished: float

    def crc(self, place: int) -> int | None:
        """Return the CRC-32C of an object; None in format 1."""
        return int(np.frombuffer(self.crcs, np.uint32)[place]) if self.crcs else None

    def chunk_crcs(self, place: int, chunks: int) -> npt.NDArray[np.uint32]:
        """Return the CRC-32C of each of the ``chunks`` chunks of a shard of features; empty in format 1."""
        first = len(self.nbytes) + place * chunks
        return np.frombuffer(self.crcs, np.uint32)[first : first + chunks]


class Units(Generic[Committed]):
    """The committed units of one teacher, or of the pixel cache, each looked up when it is asked for.

    Safe for use from several threads. What was found is kept: a unit that is committed later does not appear, and one
    that is made anew is noticed when its objects are no longer those of its receipt (`settle`).

    Args:
        folder: of the receipts.
        name: of the teacher, or of what else is committed, for messages.
        spec_hash: receipts of another spec do not count.
        spec_now: returns the present spec hash of what is on disk.
        keys: returns the keys of a range's objects, shards of features first.
        of_pairs: whether a receipt is of the pairs that the pair table has now.
        again: command that makes a missing unit.
        mend: what to do where an object is damaged.
        sides: number of shards of features of a range.
        beside: folder of the next spec, ending with ``/``; empty where there is none.

    Attributes:
        changes: how many times a unit was found to be made anew.
    """

    def __init__(
        self,
        location: Location,
        *,
        info: StoreInfo,
        folder: str,
        name: str,
        model: type[Committed],
        spec_hash: str,
        spec_now: Callable[[], str | None],
        keys: Callable[[int], Sequence[str]],
        of_pairs: Callable[[RangeReceipt], bool],
        again: str,
        mend: str,
        sides: int = 0,
        beside: str = "",
    ) -> None:
        self.location, self.info, self.name, self._folder, self._model = location, info, name, folder, model
        self._spec_hash, self._spec_now, self._keys, self._of_pairs = spec_hash, spec_now, keys, of_pairs
        self._again, self._mend, self._prefixes = again, mend, ("", beside) if beside else ("",)
        self._sides, self._lock = sides, threading.RLock()
        self._known: dict[int, Unit | None] = {}
        self._complete = self._warned = self._told = False
        self.changes = 0

    def get(self, range_id: int) -> Unit | None:
        """Return a unit, None where it is not committed."""
        return self.among([range_id])[range_id]

    def among(self, numbers: Iterable[int]) -> dict[int, Unit | None]:
        """Return the units of some ranges, None where one is not committed."""
        wanted = list(numbers)
        missing = [] if self._complete else [number for number in wanted if number not in self._known]
        if missing:
            self._load(missing)
        return {number: self._known.get(number) for number in wanted}

    def all(self) -> dict[int, Unit]:
        """Return all committed units by range; they are listed and read once."""
        with self._lock:
            if not self._complete:
                self._load([number for number in self._listed() if number not in self._known])
                self._known = {number: self._known[number] for number in sorted(self._known)}
                self._complete = True
        return {number: unit for number, unit in self._known.items() if unit is not None}

    def only(self, numbers: Collection[int], *, known: Units[Committed]) -> None:
        """Treat all ranges but some as not committed, from now on.

        Args:
            known: what an earlier reader knows of them is not read again.

        Raises:
            IncompleteStoreError: one of them is not committed.
        """
        wanted = sorted(number for number in numbers if number < self.info.ranges)
        self._known = {number: unit for number in wanted if (unit := known.known(number))}
        found = self.among(wanted)
        missing = [number for number, unit in found.items() if unit is None]
        if missing:
            raise IncompleteStoreError(
                f"{self.location}: {len(missing)} ranges of {self.name} that were committed no longer are, such as "
                f"{missing[0]}",
                hint=f"{self._again} makes them anew",
            )
        self.adopt({number: unit for number, unit in found.items() if unit})

    def known(self, range_id: int) -> Unit | None:
        """Return a unit if it is known already."""
        return self._known.get(range_id)

    def adopt(self, units: dict[int, Unit]) -> None:
        """Take over what another reader of the same store found."""
        self._known, self._complete = dict(units), True

    def record(self, range_id: int) -> Committed | None:
        """Return the receipt of a unit as it is now, None where it is not committed."""
        if self.get(range_id) is None:
            return None
        found = self._find(range_id)
        return found[0] if found else None

    def records(self) -> Iterator[Committed]:
        """Yield the receipts of all units, in order; each call reads them."""
        numbers = [*self.all()] if self._complete else self._listed()
        for first in range(0, len(numbers), RECORDS_AT_ONCE):
            part = numbers[first : first + RECORDS_AT_ONCE]
            with _without_collection():
                found = dict(zip(part, fetch_all(self._find, part), strict=True))
            self._note({number: self._judged(found[number]) for number in part if number not in self._known})
            yield from (one[0] for number, one in found.items() if one and self._known[number])
        self._known, self._complete = dict(sorted(self._known.items())), True

    def settle(self, unit: Unit, key: str, what: str) -> NoReturn:
        """Find out why an object is not what the receipt of its unit says, by reading the receipt again.

        Args:
            what: is wrong with the object.

        Raises:
            UnitChangedError: the unit was made anew, and the new one is known from now on.
            CorruptChunkError: it was not: the object is damaged.
            SpecMismatchError: the teacher was replaced.
            IncompleteStoreError: the unit is no longer committed, or has fewer features than before.
        """
        with self._lock:
            found = self._reread(unit)
            if (found.content, found.folders) == (unit.content, unit.folders):
                raise CorruptChunkError(
                    f"{self.location.show(key)}: {what} ({self.name}, range {unit.range})", hint=self._mend
                )
            raise UnitChangedError(self._accept(unit, found))

    def confirm(self, unit: Unit) -> None:
        """Read the receipt of a unit again, whose object is newer than it and was not compared with a checksum.

        Raises:
            UnitChangedError, SpecMismatchError, IncompleteStoreError: as `settle`.
        """
        with self._lock:
            found = self._reread(unit)
            if found.content != unit.content:
                raise UnitChangedError(self._accept(unit, found))

    def _reread(self, unit: Unit) -> Unit:
        known = self._known.get(unit.range)
        if known is not unit and known is not None:
            # Another thread noticed it first.
            raise UnitChangedError(known)
        found = self._read(unit.range)
        if found is None or isinstance(found, RangeReceipt):
            raise IncompleteStoreError(
                f"{self.location}: range {unit.range} of {self.name} was committed when the store was opened, and no "
                "longer is",
                hint=f"{self._again} makes it anew",
            )
        return found

    def _accept(self, unit: Unit, found: Unit) -> Unit:
        if found.ok < unit.ok:
            raise IncompleteStoreError(
                f"{self.location}: range {unit.range} of {self.name} was made anew since the store was opened, and has "
                f"features of {found.ok} rows where it had {unit.ok}",
                hint="open the store again; a training run goes on with the same command",
            )
        if found.content != unit.content:
            log.info("%s: range %d of %s was made anew since it was first read", self.location, unit.range, self.name)
        self._known[unit.range] = found
        self.changes += 1
        return found

    def _load(self, numbers: Sequence[int]) -> None:
        with self._lock, _without_collection():
            self._note(dict(zip(numbers, fetch_all(self._read, numbers), strict=True)))

    def _note(self, found: dict[int, Unit | RangeReceipt | None]) -> None:
        of_others = [number for number, unit in found.items() if isinstance(unit, RangeReceipt)]
        self._known |= {number: unit if isinstance(unit, Unit) else None for number, unit in found.items()}
        if of_others and not self._warned:
            self._warned = True
            log.warning(
                "%s: %d ranges of %s, such as %d, were made of other pairs than the pair table has now, and count as "
                "missing: another corpus was indexed, or pairs/ was changed; %s makes them anew",
                self.location,
                len(of_others),
                self.name,
                of_others[0],
                self._again,
            )

    def _listed(self) -> list[int]:
        # The next spec's first: a unit moves from there to its key.
        listed = (self.location.list(start + self._folder) for start in self._prefixes[::-1])
        names = (key.rpartition("/")[2] for keys in listed for key, _ in keys)
        numbers = {int(match[1]) for match in map(_NAME.fullmatch, names) if match}
        return sorted(number for number in numbers if number < self.info.ranges)

    def _read(self, range_id: int) -> Unit | RangeReceipt | None:
        return self._judged(self._find(range_id))

    def _judged(self, found: tuple[Committed, tuple[str, ...]] | None) -> Unit | RangeReceipt | None:
        """Return a unit, None where it is not committed, or the receipt where it is of other pairs."""
        if found is None:
            return None
        receipt, folders = found
        return self._compact(receipt, folders) if self._of_pairs(receipt) else receipt

    def _find(self, range_id: int) -> tuple[Committed, tuple[str, ...]] | None:
        """Return a receipt of the spec with the folders that its objects may lie in.

        Raises:
            SpecMismatchError: there is one of another spec, which is the present one.
        """
        if not 0 <= range_id < self.info.ranges:
            return None
        other = False
        # A unit that moves from the next spec's folder to its key meanwhile is at its key the second time.
        for start in (*self._prefixes, "") if len(self._prefixes) > 1 else self._prefixes:
            receipt = readable_record(self.location, f"{start}{self._folder}/r{range_id:06d}.json", self._model)
            if receipt is not None and receipt.spec_hash == self._spec_hash:
                staged = (f"{start}{receipt.at.rstrip('/')}/",) if receipt.at else ()
                return receipt, tuple(dict.fromkeys((*staged, start, "")))
            other = other or receipt is not None
        if other:
            self._require_present()
            if not self._told:
                self._told = True
                log.warning(
                    "%s: range %d of %s was made by another spec than specs/%s.json has now, and counts as missing, as "
                    "all such ranges do; python -m store verify %s says whether the spec was damaged",
                    self.location,
                    range_id,
                    self.name,
                    self.name,
                    self.location,
                )
        return None

    def _require_present(self) -> None:
        now = self._spec_now()
        if now is not None and now != self._spec_hash:
            raise SpecMismatchError(
                f"{self.location}: {self.name} was replaced since the store was opened: its features are of the spec "
                f"{now[:8]} now, of {self._spec_hash[:8]} then",
                hint="open the store again; a training run has to begin anew with the new features",
            )

    def _compact(self, receipt: Committed, folders: tuple[str, ...]) -> Unit:
        objects = [receipt.objects.get(key) for key in self._keys(receipt.range)]
        digests = "".join(stored.sha256 if stored else "" for stored in objects)
        crcs = [stored.crc32c if stored else None for stored in objects]
        chunks = [crc for stored in objects for crc in (stored and stored.chunk_crc32c) or ()]
        expected = self._sides * -(-(receipt.stop - receipt.start) // self.info.chunk_rows)
        known = None not in crcs and len(chunks) in (0, expected)
        packed = np.array([int(crc, 16) for crc in (*crcs, *chunks) if crc], np.uint32).tobytes() if known else b""
        return Unit(
            range=receipt.range,
            start=receipt.start,
            stop=receipt.stop,
            folders=folders,
            nbytes=tuple(stored.nbytes if stored else -1 for stored in objects),
            crcs=packed,
            content=hashlib.sha256(f"{receipt.stop} {digests}".encode()).digest()[:16],
            ok=receipt.status_counts.get("ok", 0),
            finished=_seconds(receipt.finished),
        )


def committed_rows(units: Iterable[Unit], *, rows: int) -> npt.NDArray[np.bool_]:
    """Return (N,) whether each row lies in a committed range.

    After an append the receipt of the last range may cover only its first rows, or more rows than the reader knows.
    """
    committed_N = np.zeros(rows, dtype=bool)
    for unit in units:
        committed_N[unit.start : unit.stop] = True
    return committed_N


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return float("-inf")


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Hold Python's garbage collector back: with 3,000 receipts of 20 bad rows it takes three quarters of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
