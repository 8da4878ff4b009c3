"""What is left to do: one listing of receipts against specs and pairs. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from store.check.retry import marked
from store.format.pairs import PairTable, pairs_digest
from store.format.records import Spec, StoreInfo, parse_receipt_key, readable_receipt, receipt_key
from store.io.fetching import fetch_all
from store.io.location import Location

from .known_units import KnownUnits

READ_AT_ONCE = 1000
"""Receipts in memory at a time; one of a range with bad rows may be large."""

Unit = tuple[str, int]
"""A teacher and a range."""


@dataclass(kw_only=True, frozen=True, slots=True)
class RangeWork:
    """A range and the teachers that still lack it."""

    range_id: int
    teachers: tuple[str, ...]


@dataclass(kw_only=True, frozen=True, slots=True)
class Plan:
    """What a run has to do.

    Attributes:
        work: ranges with something missing, in order.
        units: (range, teacher) pairs in the store when it is complete.
        committed: units that are there already.
        known: which receipts are valid; a run keeps it in the store for the next plan.
    """

    work: Sequence[RangeWork]
    units: int
    committed: int
    known: KnownUnits = field(default_factory=KnownUnits)


def plan(store: Location, *, info: StoreInfo, pairs: PairTable, specs: Mapping[str, Spec]) -> Plan:
    """Find the units that have no valid receipt, or are marked to be done again. Writes nothing.

    Args:
        store: where it lies.
        info: its shape.
        pairs: its pair table.
        specs: of the teachers to be complete, by id.
    """
    known, again = KnownUnits.read(store), marked(store)
    hashes = {name: spec.hash for name, spec in specs.items()}
    listed = _listed(store, info, specs)
    valid = {
        (name, range_id)
        for (name, range_id), size in listed.items()
        if known.has(name, range_id, size=size, spec_hash=hashes[name], stop=info.bounds(range_id)[1])
    }
    unread = sorted(listed.keys() - valid, key=lambda unit: unit[::-1])
    for first in range(0, len(unread), READ_AT_ONCE):
        sizes = {unit: listed[unit] for unit in unread[first : first + READ_AT_ONCE]}
        valid |= _read(store, sizes, info=info, pairs=pairs, hashes=hashes, known=known)
    valid -= again
    work = []
    for range_id in range(info.ranges):
        lacking = tuple(name for name in specs if (name, range_id) not in valid)
        if lacking:
            work.append(RangeWork(range_id=range_id, teachers=lacking))
    units = info.ranges * len(specs)
    return Plan(work=work, units=units, committed=units - sum(len(item.teachers) for item in work), known=known)


def _listed(store: Location, info: StoreInfo, specs: Mapping[str, Spec]) -> dict[Unit, int]:
    """Return the receipts that are there, by unit, with their sizes."""
    found = {}
    for key, size in store.list("receipts"):
        unit = parse_receipt_key(key)
        if unit and unit[0] in specs and unit[1] < info.ranges:
            found[unit] = size
    return found


def _read(
    store: Location,
    sizes: Mapping[Unit, int],
    *,
    info: StoreInfo,
    pairs: PairTable,
    hashes: Mapping[str, str],
    known: KnownUnits,
) -> set[Unit]:
    """Read the receipts of some units; return the units whose receipts are valid, and note these."""
    receipts = fetch_all(lambda unit: readable_receipt(store, receipt_key(*unit)), sizes)
    valid, digests = set(), {}
    for (name, range_id), receipt in zip(sizes, receipts, strict=True):
        start, stop = info.bounds(range_id)
        if receipt is None or receipt.spec_hash != hashes[name] or receipt.stop != stop:
            continue
        if receipt.pairs_digest != known.digest(range_id, stop=stop):
            if range_id not in digests:
                digests[range_id] = pairs_digest(pairs.read(start, stop, ["key", "caption", "image_sha256"]))
            if receipt.pairs_digest != digests[range_id]:
                continue
        known.add(receipt, size=sizes[name, range_id])
        valid.add((name, range_id))
    return valid
