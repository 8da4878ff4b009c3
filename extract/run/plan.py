"""Finds what is left to do: compares a listing of receipts with specs and pairs. Imports neither torch nor Ray."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, Field

from store.check.quarantine import marked
from store.errors import StoreError
from store.format.pairs import PairTable
from store.format.records import (
    KNOWN_UNITS_KEY,
    Receipt,
    Spec,
    StoreInfo,
    parse_receipt_key,
    readable_record,
    receipt_key,
    record_bytes,
)
from store.io.fetching import fetch_all
from store.io.location import Location

log = logging.getLogger(__name__)

READ_AT_ONCE = 1000
"""Receipts in memory at a time; the receipt of a range with many bad rows may be large."""

Unit = tuple[str, int]
"""A teacher and a range."""


class KnownOfTeacher(BaseModel):
    """A teacher's valid receipts: the spec hash of all, and the bytes of each by range."""

    spec_hash: str
    sizes: dict[int, int]


class KnownUnits(BaseModel):
    """Receipts that were found valid before, kept in the store so that planning reads none of them twice.

    A receipt is valid if it has the teacher's spec and the range's pairs. To check that, the receipt and the pairs have
    to be read, which takes long for a hundred thousand units. A receipt of the same size counts as unchanged: only this
    program changes receipts, a damaged one has another size, and ``store verify`` finds the rest.

    Attributes:
        digests: by range, the row after its last and the digest of its pairs.
        changed: whether the store does not hold all of it yet.
    """

    version: Literal[1] = 1
    digests: dict[int, tuple[int, str]]
    teachers: dict[str, KnownOfTeacher]
    changed: bool = Field(default=False, exclude=True)

    def has(self, unit: Unit, *, size: int, spec_hash: str, stop: int) -> bool:
        """Return whether a receipt of that size was found valid for this spec and these rows."""
        known, range_id = self.teachers.get(unit[0]), unit[1]
        same = known is not None and known.spec_hash == spec_hash and known.sizes.get(range_id) == size
        return same and self.digests.get(range_id, (0, ""))[0] == stop

    def digest(self, range_id: int, *, stop: int) -> str | None:
        """Return the digest of a range's pairs if it is known."""
        known_stop, digest = self.digests.get(range_id, (0, ""))
        return digest if known_stop == stop else None

    def add(self, receipt: Receipt, *, size: int | None = None) -> None:
        """Note a valid receipt.

        Args:
            size: bytes of its file; those of a file written now if left out.
        """
        known = self.teachers.get(receipt.teacher)
        if known is None or known.spec_hash != receipt.spec_hash:
            known = self.teachers[receipt.teacher] = KnownOfTeacher(spec_hash=receipt.spec_hash, sizes={})
        if self.digests.get(receipt.range) != (receipt.stop, receipt.pairs_digest):
            # Receipts for other pairs of this range are no longer valid.
            for other in self.teachers.values():
                other.sizes.pop(receipt.range, None)
            self.digests[receipt.range] = receipt.stop, receipt.pairs_digest
        known.sizes[receipt.range] = len(record_bytes(receipt)) if size is None else size
        self.changed = True

    @classmethod
    def read(cls, store: Location) -> KnownUnits:
        """Return what a store knows; nothing where that cannot be read."""
        try:
            return cls.model_validate_json(store.read(KNOWN_UNITS_KEY))
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("%s: cannot be read, all receipts are read instead: %s", store.show(KNOWN_UNITS_KEY), error)
        return cls(digests={}, teachers={})

    def write(self, store: Location) -> None:
        """Keep it in the store. If the store cannot be written, only the next plan gets slower."""
        if not self.changed:
            return
        try:
            store.write(KNOWN_UNITS_KEY, self.model_dump_json().encode())
            self.changed = False
        except StoreError as error:
            log.warning("what is committed cannot be kept for the next plan: %s", error)


@dataclass(kw_only=True, frozen=True, slots=True)
class RangeWork:
    """A range and the teachers that still lack it."""

    range_id: int
    teachers: tuple[str, ...]


@dataclass(kw_only=True, frozen=True, slots=True)
class Plan:
    """The work of a run.

    Attributes:
        work: ranges with something missing, in order.
        units, committed: number of units in the complete store, and of those with a valid receipt.
        known: the valid receipts; a run keeps it in the store for the next plan.
    """

    work: Sequence[RangeWork]
    units: int
    committed: int
    known: KnownUnits


def plan(
    store: Location,
    *,
    info: StoreInfo,
    pairs: PairTable,
    specs: Mapping[str, Spec],
    prefixes: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Find the units that have no valid receipt or are marked to be done again. Writes nothing.

    Args:
        prefixes: by teacher, where in the store its units are committed, if not in the store itself.
    """
    known = KnownUnits.read(store)
    places = {name: store.below(prefixes.get(name, "")) for name in specs}
    hashes = {name: spec.hash for name, spec in specs.items()}
    again: set[Unit] = set()
    listed: dict[Unit, int] = {}
    for place in {*places.values()}:
        here = [name for name in specs if places[name] == place]
        again |= {unit for unit in marked(place) if unit[0] in here}
        listed |= listed_receipts(place, info, here)
    valid = {
        unit
        for unit, size in listed.items()
        if known.has(unit, size=size, spec_hash=hashes[unit[0]], stop=info.bounds(unit[1])[1])
    }
    unread = sorted(listed.keys() - valid)
    digest = functools.cache(lambda range_id: pairs.digest(*info.bounds(range_id)))
    for first in range(0, len(unread), READ_AT_ONCE):
        sizes = {unit: listed[unit] for unit in unread[first : first + READ_AT_ONCE]}
        valid |= _read(places, sizes, info=info, digest=digest, hashes=hashes, known=known)
    valid -= again
    work = []
    for range_id in range(info.ranges):
        lacking = tuple(name for name in specs if (name, range_id) not in valid)
        if lacking:
            work.append(RangeWork(range_id=range_id, teachers=lacking))
    units = info.ranges * len(specs)
    return Plan(work=work, units=units, committed=units - sum(len(item.teachers) for item in work), known=known)


def listed_receipts(store: Location, info: StoreInfo, teachers: Collection[str]) -> dict[Unit, int]:
    """Return the sizes of some teachers' receipts, by unit."""
    found = ((parse_receipt_key(key), size) for key, size in store.list("receipts"))
    return {unit: size for unit, size in found if unit and unit[0] in teachers and unit[1] < info.ranges}


def _read(
    places: Mapping[str, Location],
    sizes: Mapping[Unit, int],
    *,
    info: StoreInfo,
    digest: Callable[[int], str],
    hashes: Mapping[str, str],
    known: KnownUnits,
) -> set[Unit]:
    """Read the receipts of some units; note the valid ones in ``known`` and return their units.

    Args:
        digest: of a range's pairs.
    """
    receipts = fetch_all(lambda unit: readable_record(places[unit[0]], receipt_key(*unit), Receipt), sizes)
    valid = set()
    for (name, range_id), receipt in zip(sizes, receipts, strict=True):
        stop = info.bounds(range_id)[1]
        if receipt is None or receipt.spec_hash != hashes[name] or receipt.stop != stop:
            continue
        if receipt.pairs_digest != known.digest(range_id, stop=stop) and receipt.pairs_digest != digest(range_id):
            continue
        known.add(receipt, size=sizes[name, range_id])
        valid.add((name, range_id))
    return valid
