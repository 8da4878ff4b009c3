"""Checks a store against its receipts: committed objects must be there unchanged."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import TypeVar

import numpy as np
import pyarrow as pa

from store.console import progress
from store.errors import CorruptChunkError, LocationError, StoreError
from store.format.arrays import ARRAY_NAMES, ZARR_FOLDER, ArrayName, array_names
from store.format.pairs import PairTable, pairs_digest
from store.format.promote import NEXT_FOLDER, next_folder
from store.format.records import RangeReceipt, Receipt, Spec, read_or_say, receipt_key, spec_key
from store.io.location import Location
from store.io.object_file import disk_error

from .array_check import check_arrays, check_root
from .inventory import (
    ROOT_METADATA,
    Inventory,
    below,
    metadata_keys,
    split_prefix,
    take_inventory,
    teacher_of,
    unfinished_writes,
)
from .pixel_check import check_pixels
from .problems import Kind, Problem, Report, UnitCheck, repair_command
from .unit_check import Found, check_bytes, check_record

THREADS = 8
"""Units read at once; each holds its shards, decoded (about 60 MB at 8192 rows of width 768)."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def verify(location: Location, *, teacher: str | None = None, deep: bool = False) -> Report:
    """Check a store.

    Args:
        deep: read every object and check its bytes and values, not just that it is there.

    Raises:
        StoreError: there is no store, or no such teacher.
        FormatVersionError: a record of another version of the format.
        LocationError: the storage does not answer; that says nothing about what it holds.
    """
    inventory = take_inventory(location)
    if teacher is not None:
        inventory.check_name(teacher)
    return verify_inventory(inventory, teacher=teacher, deep=deep)


def verify_inventory(inventory: Inventory, *, teacher: str | None, deep: bool) -> Report:
    """Check a store as `verify` does, by a listing that was made already."""
    check = _Check(inventory)
    check.root()
    if deep:
        check.pair_table()
    for name in [teacher] if teacher is not None else inventory.teachers:
        check.teacher(name, deep=deep)
    if teacher is None:
        check.general += check_pixels(inventory, digest=check.digest, deep=deep)
    check.belongings(teacher)
    return Report(
        store=inventory.location.uri,
        deep=deep,
        rows=inventory.info.rows,
        ranges=inventory.info.ranges,
        units=check.units,
        general=check.general,
    )


class _Check:
    """A check in progress."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory, self._location, self._info = inventory, inventory.location, inventory.info
        self.units: list[UnitCheck] = []
        self.general: list[Problem] = []
        self._digests: dict[tuple[int, int], str | None] = {}
        self._one_at_a_time = Lock()
        self._pairs = self._open_pairs()

    def _open_pairs(self) -> PairTable | None:
        try:
            pairs = PairTable(self._location, self._info)
            pairs.check()
        except (StoreError, pa.ArrowException, OSError) as error:
            if failed := disk_error(error, self._location.show("pairs")):
                raise failed from error
            self._table_damage(str(error))
            return None
        return pairs

    def _table_damage(self, message: str, rows: tuple[int, int] | None = None) -> None:
        step = "restore pairs/ from a copy: rows never change, and without them no feature has a meaning"
        self._note(Kind.PAIR_TABLE, "pairs", message, step, rows=rows)

    def _note(
        self,
        kind: Kind,
        key: str,
        message: str,
        step: str,
        *,
        teacher: str | None = None,
        range_id: int | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        if range_id is not None and range_id < self._info.ranges:
            rows = self._info.bounds(range_id)
        self.general.append(
            Problem(kind=kind, key=key, message=message, next=step, teacher=teacher, range=range_id, rows=rows)
        )

    def digest(self, start: int, stop: int) -> str | None:
        """Return the digest of the pairs from one row to another; None where they cannot be read."""
        # Several threads may not read one Parquet file.
        with self._one_at_a_time:
            if (start, stop) not in self._digests:
                self._digests[start, stop] = self._read_digest(start, stop)
            return self._digests[start, stop]

    def _read_digest(self, start: int, stop: int) -> str | None:
        if self._pairs is None:
            return None
        try:
            table = self._pairs.read(start, stop, ["row", "key", "caption", "image_sha256"])
        except (pa.ArrowException, OSError, CorruptChunkError, LocationError) as error:
            if failed := disk_error(error, self._location.show("pairs")):
                raise failed from error
            self._table_damage(f"the pair table cannot be read: {error}", (start, stop))
            return None
        if not np.array_equal(table["row"].to_numpy(), np.arange(start, stop)):
            self._table_damage(f"the column row does not count from {start} to {stop - 1}", (start, stop))
            return None
        digest = pairs_digest(table)
        if self._pairs.stated_digest(start, stop) not in (None, digest):
            # Which of the two is right cannot be said, so nothing that was made of the rows is accused.
            self._table_damage("the pair table states another digest of these rows than they have", (start, stop))
            return None
        return digest

    def pair_table(self) -> None:
        """Read all of the pair table, which compares its pages with their checksums."""
        if self._pairs is None:
            return
        for range_id in range(self._info.ranges):
            start, stop = self._info.bounds(range_id)
            try:
                self._pairs.read(start, stop)
            except CorruptChunkError as error:
                self._table_damage(str(error), (start, stop))

    def root(self) -> None:
        """Check the Zarr group that holds the teachers."""
        problem = check_root(self._location) if self._inventory.teachers else None
        if problem:
            self._arrays_damage(None, ROOT_METADATA, problem)

    def teacher(self, name: str, *, deep: bool) -> None:
        """Check everything that belongs to one teacher."""
        spec = read_or_say(self._location, spec_key(name), Spec)
        listed = {*self._inventory.receipts, *(key for key in self._inventory.sizes if key.startswith(NEXT_FOLDER))}
        if not isinstance(spec, Spec):
            ranges = [k for k in range(self._info.ranges) if receipt_key(name, k) in listed]
            if ranges or spec:
                again = f"python -m store rm-teacher {self._location} {name} and extract it again"
                message = spec or "there are receipts, but no spec that says what the features are of"
                step = f"restore the spec from a copy, or {again}"
                self._note(Kind.SPEC, spec_key(name), message, step, teacher=name)
                self.units += [UnitCheck(teacher=name, range=k, state="damaged") for k in ranges]
            return
        problem, metadata = check_arrays(self._location, spec, info=self._info)
        beside = next_folder(spec.hash)
        if problem and f"{beside}/{metadata_keys(name)[0]}" in self._inventory.sizes:
            # A new model has taken the place of another, and its arrays are about to.
            problem, metadata = check_arrays(self._location.below(beside), spec, info=self._info)
        if problem:
            self._arrays_damage(name, metadata_keys(name)[0], problem)
        self._other_side(spec)
        with progress(self._info.ranges, label=f"receipts of {name}", noun="receipts") as advance:
            look = partial(self._unit, spec, listed=listed, size=self._inventory.sizes.get)
            units = list(_on_threads(look, range(self._info.ranges), advance))
        if deep and not problem:
            whole = [unit for unit in units if unit.state in ("verified", "outgrown")]
            with progress(len(whole), label=f"features of {name}", noun="units") as advance:
                read = partial(self._read_unit, spec, metadata=metadata)
                for _ in _on_threads(read, whole, advance):
                    pass
        self.units += units

    def _other_side(self, spec: Spec) -> None:
        """Name arrays of a side that the teacher does not encode."""
        for array in (name for name in ARRAY_NAMES if name not in array_names(spec)):
            folder = f"{ZARR_FOLDER}/{spec.teacher}/{array}"
            if any(key.startswith(f"{folder}/") for key in self._inventory.sizes):
                message = f"an array of a side that {spec.teacher} does not encode; no program reads it"
                self._note(Kind.STRAY, folder, message, "leave it: it does no harm", teacher=spec.teacher)

    def _arrays_damage(self, teacher: str | None, key: str, message: str) -> None:
        step = f"python -m store repair {self._location} writes the metadata anew and leaves the shards alone"
        self._note(Kind.ARRAYS, key, message, step, teacher=teacher)

    def _unit(
        self, spec: Spec, range_id: int, *, listed: Container[str] | None, size: Callable[[str], int | None]
    ) -> UnitCheck:
        """Look at a unit's receipt and at the sizes of its objects.

        Args:
            listed: keys of the receipts that there are; None to look.
            size: of an object by its key.
        """
        unit = UnitCheck(teacher=spec.teacher, range=range_id, state="missing")
        key = receipt_key(spec.teacher, range_id)
        receipt: Receipt | str | None = None
        for prefix in ("", next_folder(spec.hash)):
            if listed is not None and below(prefix, key) not in listed:
                continue
            found = read_or_say(self._location, below(prefix, key), Receipt)
            present = isinstance(found, Receipt) and found.spec_hash == spec.hash
            if present or receipt is None:
                receipt = found
            if isinstance(found, Receipt) and present:
                places = (*([below(prefix, found.at)] if found.at else []), prefix, "")
                unit.prefixes = tuple(dict.fromkeys(places))
                break
        if receipt is None:
            return unit
        if isinstance(receipt, str):
            self._add(unit, [(Kind.RECEIPT_UNREADABLE, key, receipt)])
        else:
            unit.receipt, unit.state = receipt, "verified"
            found_problems = check_record(
                receipt,
                key=key,
                range_id=range_id,
                info=self._info,
                spec=spec,
                digest=self.digest,
                prefixes=unit.prefixes,
                size=size,
            )
            self._add(unit, found_problems)
        if unit.state == "damaged" and listed is not None:
            # A writer may have moved it since it was listed.
            return self._unit(spec, range_id, listed=None, size=self._location.size)
        return unit

    def _read_unit(self, spec: Spec, unit: UnitCheck, *, metadata: Mapping[ArrayName, bytes]) -> None:
        """Read a unit's objects; once more if a writer has replaced it meanwhile."""
        while unit.receipt is not None:
            found = check_bytes(
                self._location,
                unit.receipt,
                prefixes=unit.prefixes,
                metadata=metadata,
                spec=spec,
                info=self._info,
            )
            again = self._unit(spec, unit.range, listed=None, size=self._location.size) if found else unit
            if again.receipt == unit.receipt:
                self._add(unit, found)
                return
            unit.receipt, unit.state, unit.problems = again.receipt, again.state, again.problems
            unit.prefixes = again.prefixes
            if unit.state == "damaged":
                return

    def _add(self, unit: UnitCheck, found: Iterable[Found]) -> None:
        for kind, key, message in found:
            unit.state = "outgrown" if kind == Kind.OUTGROWN else "damaged"
            step = "python -m extract run" if kind == Kind.OUTGROWN else _repair(self._location, kind)
            unit.problems.append(
                Problem(
                    kind=kind,
                    teacher=unit.teacher,
                    range=unit.range,
                    rows=self._info.bounds(unit.range),
                    key=key,
                    message=message,
                    next=step,
                )
            )

    def belongings(self, teacher: str | None) -> None:
        """Name what lies in the store and belongs to no unit; of one teacher, if one is given."""
        repair = _repair(self._location, Kind.ORPHAN)
        for key, name, range_id in self._inventory.misplaced_receipts():
            if teacher in (None, name):
                message = "a receipt of a range beyond the store's last"
                self._note(Kind.RECEIPT_WRONG, key, message, repair, teacher=name, range_id=range_id)
        for key, name, range_id in self._inventory.orphans():
            if teacher in (None, name):
                message = "no receipt commits this object, so it reads as missing; a running extraction may yet do so"
                self._note(Kind.ORPHAN, key, message, repair, teacher=name, range_id=range_id)
        for prefix, keys in self._inventory.attempts().items():
            if teacher is None or teacher in map(teacher_of, keys):
                self._attempt(prefix, keys)
        if teacher is not None:
            return
        for prefix in self._inventory.coming():
            message = "units that are to replace others once all are there; nobody reads them until then"
            finish = "finish it by the same command: python -m extract run, or python -m extract pixels, with --replace"
            self._note(Kind.STRAY, prefix, message, finish)
        for key in unfinished_writes(self._location):
            self._note(Kind.UNFINISHED, key, "an unfinished write of a program that runs or was killed", repair)
        for key in self._inventory.strays():
            message = "nothing in a store has this name; no program reads it"
            self._note(Kind.STRAY, key, message, "leave it: it does no harm")

    def _attempt(self, prefix: str, keys: Iterable[str]) -> None:
        """Name an attempt that no receipt names; one that was killed while it was moved is ended by the next writer."""
        for receipt_at in {split_prefix(key)[1] for key in keys if "receipts/" in key}:
            model = Receipt if receipt_at.startswith("receipts/") else RangeReceipt
            switched = read_or_say(self._location, receipt_at, model)
            if isinstance(switched, RangeReceipt) and switched.at == prefix:
                return
        message = "an attempt at a unit, which no receipt names; a running extraction may yet do so"
        self._note(
            Kind.ATTEMPT,
            prefix,
            message,
            _repair(self._location, Kind.ATTEMPT),
            teacher=next(map(teacher_of, keys), None),
        )


def _repair(location: Location, kind: Kind) -> str:
    return f"{repair_command(location, kind)} && python -m extract run --pipeline NAME"


def _on_threads(
    function: Callable[[Item], Result], items: Sequence[Item], advance: Callable[[int], None]
) -> Iterator[Result]:
    """Yield a function's results in the order of its arguments; an error ends it without the rest being run."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        for result in pool.map(function, items):
            advance(1)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
