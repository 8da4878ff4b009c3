"""Brings a store of an older format to the present one, in place; no row and no feature changes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import partial

from store.console import progress
from store.errors import StoreError
from store.format.arrays import (
    array_names,
    checksum,
    chunk_checksums,
    create_arrays,
    dtype_of,
    in_order,
    shard_key,
    tail_of,
)
from store.format.commit import commit_objects, promoted
from store.format.key_index import KEY_INDEX, KEY_INDEX_1
from store.format.pair_writer import PairWriter
from store.format.pairs import PairTable, part_key, part_keys
from store.format.pixels import PIXEL_RECEIPTS, PixelReceipt
from store.format.promote import Guard, recover
from store.format.records import (
    KNOWN_UNITS_KEY,
    REPORT_KEY,
    STORE_KEY,
    VERSION,
    RangeReceipt,
    Receipt,
    Spec,
    StoredObject,
    StoreInfo,
    read_record,
    read_store_info,
    readable_record,
    record_bytes,
    spec_key,
    write_record,
)
from store.index.curation_report import REPORT_KEY_1
from store.io.location import Location
from store.io.lock import exclusive

from .inventory import SCRATCH

_FORMAT_1 = (KEY_INDEX_1, REPORT_KEY_1)
"""Objects that the present format keeps elsewhere."""


def upgrade(location: Location) -> bool:
    """Make a store of the present format; returns whether it was of an older one.

    Kill it at any moment and run it again: until store.json is replaced at the end, the store is of the old format, of
    which receipts of both formats can be read.

    Raises:
        StoreError: units are damaged, or another program writes to the store. The store then is of the old format.
    """
    with exclusive(location) as lock:
        info = read_store_info(location)
        if info.version == VERSION:
            location.delete(_FORMAT_1)  # of an upgrade that was killed
            return False
        recover(location, guard=lock.check)
        parts = _rewrite_parts(location, info)
        for old, new in ((KEY_INDEX_1, KEY_INDEX), (REPORT_KEY_1, REPORT_KEY)):
            if location.exists(old):
                location.write(new, location.read(old))
        problems = _upgrade_receipts(location, info, lock.check)
        if problems:
            raise StoreError(
                f"{location}: {len(problems)} receipts name objects that are missing or damaged, so the store stays of "
                f"the old format. The first is {problems[0]}",
                hint=f"python -m store repair {location} --deep puts these units aside; then run the upgrade again",
            )
        lock.check()
        write_record(location, STORE_KEY, info.model_copy(update={"version": VERSION, "parts": parts}))
        location.delete([*_FORMAT_1, KNOWN_UNITS_KEY])
    return True


def _rewrite_parts(location: Location, info: StoreInfo) -> list[int]:
    """Give each part of the pair table the digests of its ranges; returns the rows of each."""
    pairs, scratch = PairTable(location, info), location.below(SCRATCH)
    # More than any part has, so that each ends where the old one did.
    writer, start = PairWriter(scratch, range_rows=info.range_rows, part_rows=max(pairs.parts) + info.range_rows), 0
    for held in pairs.parts:
        stop = min(start + held, info.rows)
        if start < stop:  # else left by an append that was killed
            writer.add(pairs.read(start, stop))
            writer.end_part()
        start = stop
    # Each part has the rows that it had, so that the table is whole after each of these steps.
    for number, old in enumerate(part_keys(location, info)[: len(writer.parts)]):
        location.move(f"{SCRATCH}/{part_key(number)}", old)
    return writer.parts


def _upgrade_receipts(location: Location, info: StoreInfo, guard: Guard) -> list[str]:
    """Give each receipt the checksums of its objects; returns what is wrong with those that stay as they are."""
    tasks: list[tuple[str, Callable[[], str | None]]] = []
    for teacher in (key.removeprefix("specs/").removesuffix(".json") for key, _ in location.list("specs")):
        spec = read_record(location, spec_key(teacher), Spec)
        create_arrays(location, spec, info=info)
        for key, _ in location.list(f"receipts/{teacher}"):
            tasks.append((key, partial(_upgrade_unit, location, key, spec, info, guard)))
    tasks += [(key, partial(_upgrade_pixels, location, key, guard)) for key, _ in location.list(PIXEL_RECEIPTS)]
    problems = []
    with progress(len(tasks), label="upgrade", noun="receipts") as advance:
        for key, task in tasks:
            problem = task()
            problems += [f"{key}: {problem}"] if problem else []
            advance(1)
    return problems


def _upgrade_unit(location: Location, key: str, spec: Spec, info: StoreInfo, guard: Guard) -> str | None:
    receipt = readable_record(location, key, Receipt)
    # One of another spec is not read by anybody; one that cannot be read says nothing of its objects.
    if receipt is None or receipt.version == VERSION or receipt.spec_hash != spec.hash:
        return None
    objects, problem = _read_objects(location, receipt)
    if problem:
        return problem
    rows, ordered = receipt.stop - receipt.start, dict(objects)
    for name in array_names(spec):
        shard_at = shard_key(spec.teacher, name, receipt.range)
        width, dtype = math.prod(tail_of(name, spec)), dtype_of(name, spec.stored_dtype)
        try:
            ordered[shard_at] = in_order(objects[shard_at], dtype, width=width, rows=rows, info=info)
        except (KeyError, ValueError) as error:
            return f"{shard_at}: {error}"

    def describe(stored: dict[str, StoredObject]) -> Receipt:
        for shard_at in (shard_key(spec.teacher, side, receipt.range) for side in spec.sides):
            chunks = chunk_checksums(ordered[shard_at], spec, rows=rows, info=info)
            stored[shard_at] = stored[shard_at].model_copy(update={"chunk_crc32c": chunks})
        return receipt.model_copy(update={"version": VERSION, "objects": stored})

    if ordered == objects:
        guard()
        location.write(key, record_bytes(describe({at: _stored(data) for at, data in objects.items()})))
        return None
    promoted(location, commit_objects(location, key, ordered, describe, guard=guard), key, guard=guard)
    return None


def _upgrade_pixels(location: Location, key: str, guard: Guard) -> str | None:
    receipt = readable_record(location, key, PixelReceipt)
    if receipt is None or receipt.version == VERSION:
        return None
    objects, problem = _read_objects(location, receipt)
    if not problem:
        guard()
        stored = {at: _stored(data) for at, data in objects.items()}
        write_record(location, key, receipt.model_copy(update={"version": VERSION, "objects": stored}))
    return problem


def _read_objects(location: Location, receipt: RangeReceipt) -> tuple[dict[str, bytes], str | None]:
    """Return the objects of a receipt, and what is wrong with the first that is not as it was committed."""
    objects: dict[str, bytes] = {}
    for key, stored in receipt.objects.items():
        try:
            objects[key] = location.read(key)
        except FileNotFoundError:
            return {}, f"{key} is missing"
        if hashlib.sha256(objects[key]).hexdigest() != stored.sha256:
            return {}, f"{key} is not what was committed"
    return objects, None


def _stored(data: bytes) -> StoredObject:
    return StoredObject(nbytes=len(data), sha256=hashlib.sha256(data).hexdigest(), crc32c=checksum(data))
