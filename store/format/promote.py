"""Moves units that were committed beside the store's own objects over the units that they replace.

An attempt at a unit that is there already, and all units of a teacher's new model, are committed below a prefix of
their own. The switch is one record: a receipt whose ``at`` names that prefix, or the spec of the new model. After it
the objects are moved to their keys, which any later writer can finish.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from store.faults import reached
from store.io.location import Location

from .arrays import ARRAY_NAMES, ZARR_FOLDER, array_names
from .records import (
    RETRY_FOLDER,
    RangeReceipt,
    Receipt,
    Spec,
    parse_receipt_key,
    read_record,
    readable_record,
    receipt_key,
    write_record,
)

STAGED_FOLDER = "staged"
"""Below it, attempts at units that are there already, each in a folder of its own."""

NEXT_FOLDER = "next"
"""Below it, the units of a teacher's new model, or of images of another spec, until all ranges are there."""

_PIXEL_SPEC = "pixels/spec.json"

Guard: TypeAlias = Callable[[], object]
"""Called before every record that commits something; raises if this program is no longer the only writer."""


def unguarded() -> None:
    """Check nothing: the place belongs to this process, or the writers of its units overwrite nothing."""


def next_folder(spec_hash: str) -> str:
    """Return the prefix of the units that are to replace those of another spec."""
    return f"{NEXT_FOLDER}/{spec_hash[:16]}"


def promote(location: Location, at: str, receipt_at: str, *, guard: Guard) -> None:
    """Put the unit that is committed below a prefix in the place of the one that readers see.

    May be repeated after a kill at any step. Only the holder of the lock may call it.

    Args:
        receipt_at: key of the receipt, below the prefix and in the store.
    """
    guard()  # before the look: who took the lock over has dropped attempts that were not switched to
    data = location.read(f"{at}/{receipt_at}")
    receipt = read_record(location.below(at), receipt_at, _model(receipt_at))
    write_record(location, receipt_at, receipt.model_copy(update={"at": at}))
    reached("promote.switched")
    for key in receipt.objects:
        try:
            location.move(f"{at}/{key}", key)
        except FileNotFoundError:  # moved before a kill
            continue
        reached("promote.moved")
    guard()
    location.write(receipt_at, data)
    unit = parse_receipt_key(receipt_at)
    mark = unit and receipt_key(*unit, folder=RETRY_FOLDER)
    location.delete([f"{at}/{receipt_at}", *([mark] if mark and location.exists(mark) else [])])
    reached("promote.done")


def recover(location: Location, *, guard: Guard) -> None:
    """Finish what a killed writer had switched to, and drop attempts that it had not. For the holder of the lock."""
    for key in _receipts_below(location, STAGED_FOLDER):
        folder, token, receipt_at = key.split("/", 2)
        receipt = readable_record(location, receipt_at, _model(receipt_at))
        if receipt and receipt.at == f"{folder}/{token}":
            promote(location, receipt.at, receipt_at, guard=guard)
    location.delete_below(STAGED_FOLDER)
    for at in {"/".join(key.split("/")[:2]) for key, _ in location.list(NEXT_FOLDER)}:
        recover(location.below(at), guard=guard)
        specs = _specs_of(location.below(at))
        if specs and all(_is_switched(location, at, key) for key in specs):
            _move_units(location, at, guard=guard)


def _specs_of(place: Location) -> list[str]:
    return [key for key, _ in place.list() if key.startswith("specs/") or key == _PIXEL_SPEC]


def _is_switched(location: Location, at: str, spec_at: str) -> bool:
    """Return whether a spec below a prefix is the store's present one, whose notes may have been changed since."""
    if not location.exists(spec_at):
        return False
    if spec_at == _PIXEL_SPEC:
        return location.read(spec_at) == location.read(f"{at}/{spec_at}")
    return next_folder(read_record(location, spec_at, Spec).hash) == at


def replace_units(location: Location, at: str, spec_at: str, *, guard: Guard) -> None:
    """Let a new spec and its units, which are complete below a prefix, take the place of the old ones.

    Args:
        spec_at: key of the spec, below the prefix and in the store.
    """
    guard()
    location.write(spec_at, location.read(f"{at}/{spec_at}"))
    reached("replace.switched")
    _move_units(location, at, guard=guard)


def _move_units(location: Location, at: str, *, guard: Guard) -> None:
    place = location.below(at)
    place.delete_below(STAGED_FOLDER)  # of workers that were lost after their last write
    keys = [key for key, _ in place.list()]
    for key in keys:
        if key.endswith("zarr.json"):
            location.write(key, place.read(key))
    for key in keys:
        if key.startswith(("receipts/", "pixels/receipts/")):
            promote(location, at, key, guard=guard)
    specs = _specs_of(place)
    for key in specs if _PIXEL_SPEC not in specs else ():
        spec = read_record(place, key, Spec)
        # Of a model that encoded another side too.
        for name in (name for name in ARRAY_NAMES if name not in array_names(spec)):
            location.delete_below(f"{ZARR_FOLDER}/{spec.teacher}/{name}")
    place.delete([key for key, _ in place.list() if key not in specs])
    location.delete_below(at)  # the spec last: without it nobody knows that the rest can go
    reached("replace.done")


def _receipts_below(location: Location, folder: str) -> list[str]:
    return [key for key, _ in location.list(folder) if "/receipts/" in key]


def _model(receipt_at: str) -> type[RangeReceipt]:
    return Receipt if receipt_at.startswith("receipts/") else RangeReceipt
