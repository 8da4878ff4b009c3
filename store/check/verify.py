"""Checks a store against its receipts: committed objects must be there unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from store.console import progress
from store.errors import CorruptChunkError, FormatVersionError, LocationError, StoreError
from store.format.arrays import ARRAY_NAMES, ZARR_FOLDER, ArrayName, dtype_of, open_arrays
from store.format.pairs import PairTable, pairs_digest
from store.format.records import R, Receipt, Spec, read_record, receipt_key, spec_key
from store.io.location import Location

from .inventory import ROOT_METADATA, Inventory, metadata_keys, take_inventory, unfinished_writes
from .problems import Kind, Problem, Report, UnitCheck
from .unit_check import Found, check_bytes, check_record

THREADS = 8
"""Units read at once; each holds its four shards, decoded (about 60 MB at 8192 rows of width 768)."""

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
    check = _Check(inventory)
    check.root()
    for name in [teacher] if teacher is not None else inventory.teachers:
        check.teacher(name, deep=deep)
    check.belongings(teacher)
    return Report(
        store=location.uri,
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
        self._digest = cache(self._read_digest)
        self._pairs = self._open_pairs()

    def _open_pairs(self) -> PairTable | None:
        try:
            pairs = PairTable(self._location, self._info)
            pairs.check()
        except LocationError:
            raise
        except (StoreError, pa.ArrowException, OSError) as error:
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

    def _read_digest(self, start: int, stop: int) -> str | None:
        if self._pairs is None:
            return None
        try:
            table = self._pairs.read(start, stop, ["row", "key", "caption", "image_sha256"])
        except LocationError:
            raise
        except (pa.ArrowException, OSError, CorruptChunkError) as error:
            self._table_damage(f"the pair table cannot be read: {error}", (start, stop))
            return None
        if not np.array_equal(table["row"].to_numpy(), np.arange(start, stop)):
            self._table_damage(f"the column row does not count from {start} to {stop - 1}", (start, stop))
            return None
        return pairs_digest(table)

    def root(self) -> None:
        """Check the Zarr group that holds the teachers; any Zarr reader begins there."""
        if not self._inventory.teachers:
            return
        try:
            self._location.zarr_group(ZARR_FOLDER)
        except LocationError:
            raise
        except Exception as error:  # noqa: BLE001
            self._arrays_damage(None, ROOT_METADATA, f"the Zarr group cannot be opened: {error}")

    def teacher(self, name: str, *, deep: bool) -> None:
        """Check everything that belongs to one teacher."""
        spec = self._read(spec_key(name), Spec)
        listed = set(self._inventory.receipts)
        ranges = [k for k in range(self._info.ranges) if receipt_key(name, k) in listed]
        if not isinstance(spec, Spec):
            if ranges or spec:
                again = f"python -m store rm-teacher {self._location} {name} and extract it again"
                message = spec or "there are receipts, but no spec that says what the features are of"
                step = f"restore the spec from a copy, or {again}"
                self._note(Kind.SPEC, spec_key(name), message, step, teacher=name)
                self.units += [UnitCheck(teacher=name, range=k, state="damaged") for k in ranges]
            return
        problem = self._arrays(name, spec)
        if problem:
            self._arrays_damage(name, metadata_keys(name)[0], problem)
        with progress(len(ranges), label=f"receipts of {name}", noun="receipts") as advance:
            keys = [receipt_key(name, k) for k in ranges]
            receipts = list(_on_threads(lambda key: self._read(key, Receipt), keys, advance))
        committed = dict(zip(ranges, receipts, strict=True))
        units = [self._unit(spec, k, committed.get(k)) for k in range(self._info.ranges)]
        if deep and not problem:
            whole = [unit for unit in units if unit.state in ("verified", "outgrown")]
            self._read_units(name, [(unit, unit.receipt) for unit in whole if unit.receipt])
        self.units += units

    def _read(self, key: str, model: type[R]) -> R | str | None:
        """Return a record, or what is wrong with it; None where there is none."""
        try:
            return read_record(self._location, key, model)
        except FileNotFoundError:
            return None
        except (FormatVersionError, LocationError):
            raise
        except StoreError as error:
            return str(error)

    def _arrays(self, name: str, spec: Spec) -> str:
        """Compare a teacher's Zarr metadata with the shape that store and spec give them."""
        try:
            arrays = open_arrays(self._location, name)
            wrong = [text for array in ARRAY_NAMES if (text := self._misshapen(array, arrays[array], spec))]
            return "; ".join(wrong)
        except LocationError:
            raise
        # Zarr raises nearly anything on damaged metadata.
        except Exception as error:  # noqa: BLE001
            return f"the arrays cannot be opened: {type(error).__name__}: {error}"

    def _arrays_damage(self, teacher: str | None, key: str, message: str) -> None:
        step = f"python -m store repair {self._location} writes the metadata anew and leaves the shards alone"
        self._note(Kind.ARRAYS, key, message, step, teacher=teacher)

    def _misshapen(self, name: ArrayName, array: object, spec: Spec) -> str | None:
        tail = (spec.embed_dim,) if name in ("image", "text") else ()
        expected = (
            (self._info.range_rows, *tail),
            (self._info.chunk_rows, *tail),
            dtype_of(name, spec.stored_dtype),
            tail,
        )
        shape = tuple(getattr(array, "shape", ()))
        found = (getattr(array, "shards", None), getattr(array, "chunks", None), str(getattr(array, "dtype", "")))
        # Fewer rows than the store has: some were appended, and the next extraction lets the arrays grow.
        if (*found, shape[1:]) == expected and shape[0] <= self._info.rows:
            return None
        return f"{name} has shape {shape}, shards {found[0]}, chunks {found[1]}, dtype {found[2]}; expected {expected}"

    def _unit(self, spec: Spec, range_id: int, receipt: Receipt | str | None) -> UnitCheck:
        unit = UnitCheck(teacher=spec.teacher, range=range_id, state="missing")
        if receipt is None:
            return unit
        key = receipt_key(spec.teacher, range_id)
        if isinstance(receipt, str):
            self._add(unit, [(Kind.RECEIPT_UNREADABLE, key, receipt)])
            return unit
        unit.receipt, unit.state = receipt, "verified"
        found = check_record(
            receipt,
            key=key,
            teacher=spec.teacher,
            range_id=range_id,
            info=self._info,
            spec_hash=spec.hash,
            digest=self._digest,
            sizes=self._inventory.sizes,
        )
        self._add(unit, found)
        return unit

    def _add(self, unit: UnitCheck, found: Iterable[Found]) -> None:
        for kind, key, message in found:
            unit.state = "outgrown" if kind == Kind.OUTGROWN else "damaged"
            step = "python -m extract run" if kind == Kind.OUTGROWN else _repair(self._location)
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

    def _read_units(self, name: str, units: list[tuple[UnitCheck, Receipt]]) -> None:
        metadata = dict(zip(ARRAY_NAMES, map(self._location.read, metadata_keys(name)[1:]), strict=True))
        read = partial(check_bytes, self._location, metadata=metadata)
        with progress(len(units), label=f"features of {name}", noun="units") as advance:
            results = _on_threads(read, [receipt for _, receipt in units], advance)
            for (unit, _), found in zip(units, results, strict=True):
                self._add(unit, found)

    def belongings(self, teacher: str | None) -> None:
        """Name what lies in the store and belongs to no unit; of one teacher, if one is given."""
        repair = _repair(self._location)
        for key, name, range_id in self._inventory.misplaced_receipts():
            if teacher in (None, name):
                message = "a receipt of a range beyond the store's last"
                self._note(Kind.RECEIPT_WRONG, key, message, repair, teacher=name, range_id=range_id)
        for key, name, range_id in self._inventory.orphans():
            if teacher in (None, name):
                message = "no receipt commits this object, so it reads as missing; a running extraction may yet do so"
                self._note(Kind.ORPHAN, key, message, repair, teacher=name, range_id=range_id)
        if teacher is not None:
            return
        for key in unfinished_writes(self._location):
            self._note(Kind.UNFINISHED, key, "an unfinished write of a program that runs or was killed", repair)
        for key in self._inventory.strays():
            message = "nothing in a store has this name; no program reads it"
            self._note(Kind.STRAY, key, message, "leave it: it does no harm")


def _repair(location: Location) -> str:
    return f"python -m store repair {location}, then python -m extract run"


def _on_threads(
    function: Callable[[Item], Result], items: list[Item], advance: Callable[[int], None]
) -> Iterator[Result]:
    """Yield a function's results in the order of its arguments; an error ends it without the rest being run."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        for result in pool.map(function, items):
            advance(1)
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
