"""Checks the pixel cache against its receipts. What is damaged can be made anew from the corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from store.console import progress
from store.format.pixels import PIXEL_SPEC_KEY, PixelReceipt, PixelSpec, pixel_receipt_key, pixels_key
from store.format.promote import next_folder
from store.format.records import read_or_say
from store.io.location import Location

from .inventory import Inventory, below
from .problems import Kind, Problem, repair_command

MAKE = "python -m extract pixels --pipeline NAME"


def check_pixels(inventory: Inventory, *, digest: Callable[[int, int], str | None], deep: bool) -> Iterator[Problem]:
    """Yield what is wrong with the images that a store keeps; nothing where it keeps none.

    Args:
        digest: of the pairs from one row to another; None where the pair table cannot be read.
        deep: read the images and compare their bytes.
    """
    location = inventory.location
    if PIXEL_SPEC_KEY not in inventory.sizes:
        if any(key.startswith("pixels/") for key in inventory.sizes):
            yield _problem(location, Kind.SPEC, PIXEL_SPEC_KEY, "there are images, but no record of what they are")
        return
    spec = read_or_say(location, PIXEL_SPEC_KEY, PixelSpec)
    if not isinstance(spec, PixelSpec):
        yield _problem(location, Kind.SPEC, PIXEL_SPEC_KEY, spec or "the record of what the images are is gone")
        return
    check = _Check(inventory, spec, digest=digest, deep=deep)
    with progress(inventory.info.ranges, label="pixels", noun="ranges") as advance:
        for range_id in range(inventory.info.ranges):
            found = check.range(range_id)
            # A writer may have moved it since the store was listed.
            yield from check.range(range_id, listed=False) if found else ()
            advance(1)


class _Check:
    def __init__(
        self, inventory: Inventory, spec: PixelSpec, *, digest: Callable[[int, int], str | None], deep: bool
    ) -> None:
        self._inventory, self._location, self._spec = inventory, inventory.location, spec
        self._digest, self._deep = digest, deep

    def range(self, range_id: int, *, listed: bool = True) -> list[Problem]:
        """Return what is wrong with one range's images.

        Args:
            listed: take keys and sizes from the inventory, instead of asking the storage again.
        """
        size = self._inventory.sizes.get if listed else self._location.size
        receipt_at, object_at = pixel_receipt_key(range_id), pixels_key(range_id)
        beside = next_folder(self._spec.hash)
        prefix = next((at for at in ("", beside) if size(below(at, receipt_at)) is not None), None)
        if prefix is None:
            message = "no receipt commits these images, so nobody reads them"
            return [] if size(object_at) is None else [self._of(range_id, Kind.ORPHAN, object_at, message)]
        receipt = read_or_say(self._location, below(prefix, receipt_at), PixelReceipt)
        if not isinstance(receipt, PixelReceipt):
            return [self._of(range_id, Kind.RECEIPT_UNREADABLE, receipt_at, receipt or "the receipt is gone")]
        wrong = self._record(range_id, receipt)
        if wrong:
            return [self._of(range_id, wrong[0], receipt_at, wrong[1])]
        places = dict.fromkeys([*([below(prefix, receipt.at)] if receipt.at else []), prefix, ""])
        at = next((place for place in places if size(below(place, object_at)) is not None), None)
        return self._object(range_id, receipt, None if at is None else below(at, object_at), size)

    def _record(self, range_id: int, receipt: PixelReceipt) -> tuple[Kind, str] | None:
        start, stop = self._inventory.info.bounds(range_id)
        if (receipt.range, receipt.start, [*receipt.objects]) != (range_id, start, [pixels_key(range_id)]):
            return Kind.RECEIPT_WRONG, f"the receipt is of range {receipt.range} and {', '.join(receipt.objects)}"
        if not start < receipt.stop <= stop:
            return Kind.RECEIPT_WRONG, f"the receipt ends at row {receipt.stop}, the range at row {stop}"
        if receipt.spec_hash != self._spec.hash:
            return Kind.OTHER_SPEC, "the receipt is of another kind of images"
        if self._digest(start, receipt.stop) not in (None, receipt.pairs_digest):
            return Kind.OTHER_PAIRS, "the receipt is of other keys, captions or images than the pair table's"
        return None

    def _object(
        self, range_id: int, receipt: PixelReceipt, at: str | None, size: Callable[[str], int | None]
    ) -> list[Problem]:
        key = pixels_key(range_id)
        stored = receipt.objects[key]
        if at is None:
            return [self._of(range_id, Kind.OBJECT_MISSING, key, "the images are missing")]
        if size(at) != stored.nbytes:
            message = f"the images have {size(at):,} bytes, the receipt {stored.nbytes:,}"
            return [self._of(range_id, Kind.OBJECT_SIZE, at, message)]
        if self._deep:
            try:
                found = hashlib.sha256(self._location.read(at)).hexdigest()
            except FileNotFoundError:
                return [self._of(range_id, Kind.OBJECT_MISSING, key, "the images are missing")]
            if found != stored.sha256:
                message = f"the bytes are not those that were committed: SHA-256 {found[:8]}, the receipt has "
                return [self._of(range_id, Kind.OBJECT_BYTES, at, message + stored.sha256[:8])]
        if receipt.stop < self._inventory.info.bounds(range_id)[1]:
            message = f"images up to row {receipt.stop - 1}, before rows were appended; what is there is valid"
            return [self._of(range_id, Kind.OUTGROWN, pixel_receipt_key(range_id), message)]
        return []

    def _of(self, range_id: int, kind: Kind, key: str, message: str) -> Problem:
        rows = self._inventory.info.bounds(range_id)
        return _problem(self._location, kind, key, message, range_id=range_id, rows=rows)


def _problem(
    location: Location,
    kind: Kind,
    key: str,
    message: str,
    *,
    range_id: int | None = None,
    rows: tuple[int, int] | None = None,
) -> Problem:
    step = f"{repair_command(location, kind)}, then {MAKE}"
    if kind == Kind.OUTGROWN:
        step = MAKE
    elif kind == Kind.SPEC:
        step = f"restore it from a copy; without one move the folder pixels/ out of the store, then {MAKE}"
    return Problem(kind=kind, key=key, message=message, next=step, range=range_id, rows=rows)


def pixel_keys(inventory: Inventory, problem: Problem) -> list[str]:
    """Return the keys of the receipt and of the images that a problem is about; receipts first."""
    if problem.range is None or problem.kind == Kind.OUTGROWN:
        return []
    bare = (pixel_receipt_key(problem.range), pixels_key(problem.range))
    if not problem.key.endswith(bare):
        return []
    prefix = problem.key.removesuffix(next((key for key in bare if problem.key.endswith(key)), "")).rstrip("/")
    keys = [below(at, key) for key in bare for at in dict.fromkeys((prefix, ""))]
    return [key for key in keys if key in inventory.sizes]
