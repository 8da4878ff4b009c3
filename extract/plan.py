"""What is left to do: one listing of receipts against specs and pairs. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from store.commit import committed_receipt
from store.location import Location
from store.pairs import PairTable, pairs_digest
from store.records import Spec, StoreInfo
from store.retry import marked


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
    """

    work: Sequence[RangeWork]
    units: int
    committed: int


def plan(store: Location, *, info: StoreInfo, pairs: PairTable, specs: Mapping[str, Spec]) -> Plan:
    """Find the units that have no valid receipt, or are marked to be done again.

    Args:
        store: where it lies.
        info: its shape.
        pairs: its pair table.
        specs: of the teachers to be complete, by id.
    """
    work: list[RangeWork] = []
    again = marked(store)
    for range_id in range(info.ranges):
        start, stop = info.bounds(range_id)
        digest = pairs_digest(pairs.read(start, stop, ["key", "caption", "image_sha256"]))
        lacking = tuple(
            name
            for name, spec in specs.items()
            if (name, range_id) in again
            or committed_receipt(store, name, range_id, spec_hash=spec.hash, digest=digest) is None
        )
        if lacking:
            work.append(RangeWork(range_id=range_id, teachers=lacking))
    units = info.ranges * len(specs)
    return Plan(work=work, units=units, committed=units - sum(len(item.teachers) for item in work))
