"""Checks one unit against its receipt: first by a listing, then by the stored bytes. Knows nothing of other units."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from store.format.arrays import ArrayName, array_names, checksum, chunk_checksums, shard_key
from store.format.records import SIDES, Receipt, Side, Spec, Status, StoreInfo
from store.io.location import Location

from .inventory import below, unit_keys
from .problems import Kind

NORM_TOLERANCE = 1e-3
"""Largest difference of a stored feature's length from 1; float16 rounds a number by a relative 2**-11 (4.9e-4)."""

SIMILARITY_TOLERANCE = 2e-3
"""Largest difference of the stored cosine from that of the stored features, which are off by 4.9e-4 at most."""

BLOCK_ROWS = 1024

Found = tuple[Kind, str, str]
"""The kind of problem, the key of the object, and what is wrong."""


def check_record(
    receipt: Receipt,
    *,
    key: str,
    range_id: int,
    info: StoreInfo,
    spec: Spec,
    digest: Callable[[int, int], str | None],
    prefixes: Sequence[str],
    size: Callable[[str], int | None],
) -> list[Found]:
    """Return what is wrong with a unit according to its receipt and the sizes of its objects.

    Args:
        digest: of the pairs from one row to another; None where the pair table cannot be read.
        prefixes: where its objects may lie, in this order.
        size: bytes of the object at a key, None where there is none.
    """
    start, stop = info.bounds(range_id)
    named = (receipt.teacher, receipt.range, receipt.start)
    if named != (spec.teacher, range_id, start) or not start < receipt.stop <= stop:
        is_of = f"{receipt.teacher}, range {receipt.range}, rows {receipt.start} to {receipt.stop - 1}"
        return [(Kind.RECEIPT_WRONG, key, f"the receipt is of {is_of}")]
    if receipt.spec_hash != spec.hash:
        hashes = f"{receipt.spec_hash[:8]}, the teacher's spec has {spec.hash[:8]}"
        return [(Kind.OTHER_SPEC, key, f"the receipt is of a spec with hash {hashes}")]
    if sorted(receipt.objects) != sorted(unit_keys(spec.teacher, range_id, array_names(spec))):
        return [(Kind.RECEIPT_WRONG, key, f"the receipt names other objects: {', '.join(sorted(receipt.objects))}")]
    if digest(start, receipt.stop) not in (None, receipt.pairs_digest):
        return [(Kind.OTHER_PAIRS, key, "the receipt is of other keys, captions or images than the pair table's")]
    found: list[Found] = []
    for name, stored in receipt.objects.items():
        places = ((at, size(at)) for at in (below(prefix, name) for prefix in prefixes))
        at, nbytes = next((place for place in places if place[1] is not None), (name, None))
        if nbytes is None:
            found.append((Kind.OBJECT_MISSING, name, f"the object is missing; the receipt has {stored.nbytes:,} bytes"))
        elif nbytes != stored.nbytes:
            problem = f"the object has {nbytes:,} bytes, the receipt {stored.nbytes:,}"
            found.append((Kind.OBJECT_SIZE, at, problem))
    if not found and receipt.stop < stop:
        problem = f"committed up to row {receipt.stop - 1}, before rows were appended; what is there is valid"
        return [(Kind.OUTGROWN, key, problem)]
    return found


def check_bytes(
    location: Location,
    receipt: Receipt,
    *,
    prefixes: Sequence[str],
    metadata: Mapping[ArrayName, bytes],
    spec: Spec,
    info: StoreInfo,
) -> list[Found]:
    """Read a unit's objects and return what is wrong with them.

    Args:
        prefixes: where its objects may lie, in this order.
        metadata: the ``zarr.json`` of the teacher's arrays, with which the shards are decoded.
    """
    objects: dict[ArrayName, bytes] = {}
    found: list[Found] = []
    for name in array_names(spec):
        key = shard_key(receipt.teacher, name, receipt.range)
        for at in (below(prefix, key) for prefix in prefixes):
            with contextlib.suppress(FileNotFoundError):
                objects[name] = location.read(at)
                break
        else:
            found.append((Kind.OBJECT_MISSING, key, "the object is missing"))
            continue
        stored, digest = receipt.objects[key], hashlib.sha256(objects[name]).hexdigest()
        if digest != stored.sha256:
            problem = f"the bytes are not those that were committed: SHA-256 {digest[:8]}, the receipt has "
            found.append((Kind.OBJECT_BYTES, at, problem + stored.sha256[:8]))
        elif stored.crc32c not in (None, checksum(objects[name])):
            problem = f"CRC-32C is {checksum(objects[name])}, the receipt has {stored.crc32c}; SHA-256 agrees"
            found.append((Kind.OBJECT_BYTES, at, problem))
        elif stored.chunk_crc32c is not None:
            chunks = chunk_checksums(objects[name], spec, rows=receipt.stop - receipt.start, info=info)
            if stored.chunk_crc32c != chunks:
                problem = f"CRC-32C of the chunks: {chunks}, the receipt has {stored.chunk_crc32c}"
                found.append((Kind.OBJECT_BYTES, at, problem))
    if found:
        return found
    values: dict[ArrayName, npt.NDArray[np.generic]] = {}
    for name, data in objects.items():
        key = shard_key(receipt.teacher, name, receipt.range)
        try:
            values[name] = _decode(key, data, metadata[name], slice(receipt.start, receipt.stop))
        # Codecs raise nearly anything on bytes that are not theirs.
        except Exception as error:  # noqa: BLE001
            found.append((Kind.UNDECODABLE, key, f"the shard cannot be decoded: {type(error).__name__}: {error}"))
    return found or check_values(receipt, values, sides=spec.sides)


def _decode(key: str, data: bytes, metadata: bytes, rows: slice) -> npt.NDArray[np.generic]:
    # From memory, so that the bytes that are decoded are those that were digested.
    shard = key[key.index("/c/") + 1 :]
    objects = {"zarr.json": cpu.Buffer.from_bytes(metadata), shard: cpu.Buffer.from_bytes(data)}
    array = zarr.open_array(MemoryStore(objects), mode="r")
    return np.asarray(array[rows])


def check_values(
    receipt: Receipt, values: Mapping[ArrayName, npt.NDArray[np.generic]], *, sides: tuple[Side, ...] = SIDES
) -> list[Found]:
    """Return what is wrong with a unit's decoded values.

    Args:
        values: features of each side (rows, D), status and, of both sides, similarity (rows,).
    """
    keys = {name: shard_key(receipt.teacher, name, receipt.range) for name in values}
    status = values["status"].astype(np.uint8)
    codes, counts = np.unique(status, return_counts=True)
    names = {status_code.value: status_code.name.lower() for status_code in Status}
    counted = {names.get(int(code), f"code {code}"): int(count) for code, count in zip(codes, counts, strict=True)}
    found: list[Found] = []
    if counted != receipt.status_counts:
        found.append(
            (Kind.STATUS, keys["status"], f"rows by status: {counted}, the receipt has {receipt.status_counts}")
        )
    bad = np.flatnonzero(~np.isin(status, (Status.OK, Status.NOT_APPLICABLE))) + receipt.start
    if bad.tolist() != sorted(row.row for row in receipt.bad_rows):
        found.append((Kind.STATUS, keys["status"], "rows that have no feature are not those that the receipt names"))
    ok = status == Status.OK
    norms: dict[Side, npt.NDArray[np.float32]] = {}
    for side in sides:
        norms[side] = np.sqrt(_products(values[side], values[side]))
        wrong = ok & ~_has_right_length(values[side], norms[side])
        found += _rows(Kind.NORM, keys[side], wrong, receipt.start, "features are not of unit norm")
        wrong = ~ok & (norms[side] != 0)
        found += _rows(Kind.NOT_ZERO, keys[side], wrong, receipt.start, "no feature, but numbers other than 0")
    if "similarity" not in values:
        wrong = status == Status.BAD_TEXT
        return found + _rows(Kind.STATUS, keys["status"], wrong, receipt.start, "bad_text, but no text is encoded")
    stored = values["similarity"].astype(np.float32)
    wrong = ok & ~_is_cosine(stored, values["image"], values["text"], norms)
    found += _rows(Kind.SIMILARITY, keys["similarity"], wrong, receipt.start, "similarity is not the features' cosine")
    found += _rows(
        Kind.NOT_ZERO, keys["similarity"], ~ok & (stored != 0), receipt.start, "no feature, but a similarity"
    )
    return found


def _has_right_length(features: npt.NDArray[np.generic], norm: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    if features.dtype != np.int8:
        return np.abs(norm - 1) <= NORM_TOLERANCE
    # Scaled row by row so that the largest number is 127; a reader divides by the length.
    largest: npt.NDArray[np.bool_] = np.abs(features.astype(np.int16)).max(axis=1) == 127
    return largest


def _is_cosine(
    similarity: npt.NDArray[np.float32],
    image: npt.NDArray[np.generic],
    text: npt.NDArray[np.generic],
    norms: Mapping[Side, npt.NDArray[np.float32]],
) -> npt.NDArray[np.bool_]:
    cosine: npt.NDArray[np.floating[Any]] = _products(image, text)
    allowed: npt.NDArray[np.floating[Any]] = np.full(len(cosine), SIMILARITY_TOLERANCE, np.float32)
    if image.dtype == np.int8:
        # Each number was rounded by a half at most, each vector so by half the root of their count.
        rounding = np.float32(0.5 * image.shape[1] ** 0.5)
        for norm in norms.values():
            length = np.maximum(norm, np.float32(1))  # 0 where there is no feature, 127 and more elsewhere
            cosine, allowed = cosine / length, allowed + rounding / length
    close: npt.NDArray[np.bool_] = np.abs(similarity - cosine) <= allowed
    return close


def _products(left: npt.NDArray[np.generic], right: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return the dot product of each row, block by block: float32 copies of the whole would be the most memory."""
    products = np.empty(len(left), np.float32)
    for start in range(0, len(left), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        np.einsum("nd,nd->n", left[rows].astype(np.float32), right[rows].astype(np.float32), out=products[rows])
    return products


def _rows(kind: Kind, key: str, where: npt.NDArray[np.bool_], start: int, what: str) -> list[Found]:
    rows = np.flatnonzero(where) + start
    return [(kind, key, f"{what}: {len(rows)} rows, the first is row {rows[0]}")] if len(rows) else []
