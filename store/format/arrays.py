"""The Zarr side of the store: the arrays of a teacher, and the bytes of one store shard.

A shard has its chunks, then an index of where each chunk lies, then the index's CRC-32C. This is Zarr's
``sharding_indexed`` codec as docs/store-format.md narrows it down.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal, TypeAlias, get_args

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.checksum32 import CRC32C
from zarr.storage import MemoryStore

from store.errors import StoreError
from store.io.location import Location

from .records import SIDES, Spec, StoredDtype, StoreInfo

ArrayName: TypeAlias = Literal["image", "text", "similarity", "status"]
ARRAY_NAMES: tuple[ArrayName, ...] = get_args(ArrayName)
"""The arrays of a teacher that encodes both sides; `array_names` gives those of any."""

ZARR_FOLDER = "features.zarr"

CHECKSUM_BYTES = 4

_ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that is not stored: all of it is 0, or lies beyond the array's rows."""

_CODEC = CRC32C(location="end")


def array_names(spec: Spec) -> tuple[ArrayName, ...]:
    """Return the names of a teacher's arrays: features of each side, the similarity of both sides, the status."""
    return tuple(name for name in ARRAY_NAMES if name in (*spec.sides, "status") or spec.sides == SIDES)


def tail_of(name: ArrayName, spec: Spec) -> tuple[int, ...]:
    """Return the shape of one row of an array: (D,) for features, () for one number."""
    return (spec.embed_dim,) if name in SIDES else ()


def dtype_of(name: ArrayName, stored_dtype: StoredDtype) -> str:
    """Return the dtype of an array of a teacher whose features are stored as ``stored_dtype``."""
    return {"similarity": "float32", "status": "uint8"}.get(name, stored_dtype)


def create_arrays(location: Location, spec: Spec, *, info: StoreInfo) -> None:
    """Create a teacher's arrays (metadata only), or let them grow to the store's rows.

    Raises:
        StoreError: arrays of another shape are there.
    """
    for key, data in _metadata(spec, info).items():
        name, expected = key.split("/")[-2], json.loads(data).get("shape")
        try:
            stored = json.loads(location.read(key))
        except FileNotFoundError:
            stored = {}
        shape = stored.get("shape")
        if expected is None and location.exists(key):
            continue
        if shape is not None and (shape[1:] != expected[1:] or shape[0] > info.rows):
            raise StoreError(
                f"{location}: {spec.teacher}/{name} has shape {tuple(shape)}, expected {tuple(expected)}",
                hint="python -m extract run --replace TEACHER drops a teacher's features and makes them anew",
            )
        if shape != expected or shape is None or "dimension_names" not in stored:
            # New, of format 1, or rows were appended: growing changes the metadata alone, the partial last shard is
            # made anew.
            location.write(key, data)


def write_root(location: Location) -> None:
    """Write the metadata of the group that holds the teachers."""
    objects: dict[str, zarr.core.buffer.Buffer] = {}
    zarr.create_group(MemoryStore(objects))
    location.write(f"{ZARR_FOLDER}/zarr.json", bytes(objects["zarr.json"].to_bytes()))


def _metadata(spec: Spec, info: StoreInfo) -> dict[str, bytes]:
    """Return Zarr's metadata objects by key, made in memory: Zarr would also write groups above the store."""
    objects: dict[str, zarr.core.buffer.Buffer] = {}
    group = zarr.create_group(MemoryStore(objects)).create_group(spec.teacher)
    for name in array_names(spec):
        tail = tail_of(name, spec)
        # No compressor: CLIP features in float16 hardly compress, and a reader may take a chunk's bytes as they lie.
        group.create_array(
            name,
            shape=(info.rows, *tail),
            shards=(info.range_rows, *tail),
            chunks=(info.chunk_rows, *tail),
            dtype=dtype_of(name, spec.stored_dtype),
            compressors=None,
            fill_value=0,
            dimension_names=("row", *("feature" for _ in tail)),
            config={"write_empty_chunks": True},
        )
    return {f"{ZARR_FOLDER}/{key}": bytes(value.to_bytes()) for key, value in objects.items()}


def encode_shard(
    name: ArrayName, values: npt.NDArray[np.generic], *, stored_dtype: StoredDtype, info: StoreInfo
) -> bytes:
    """Return the bytes that Zarr stores for one whole shard.

    The caller writes them: Zarr would read the old shard first, and fail for ever on a torn one.

    Args:
        values: (rows of the range, D) or (rows of the range,); the last range may be short.
        stored_dtype: one of StoredDtype; features are rounded to it.
    """
    stored = quantised(values) if dtype_of(name, stored_dtype) == "int8" else values
    little = np.dtype(dtype_of(name, stored_dtype)).newbyteorder("<")
    chunks = -(-len(values) // info.chunk_rows)
    chunk_bytes = info.chunk_rows * math.prod(values.shape[1:]) * little.itemsize
    index = encode_index(chunks, chunk_bytes=chunk_bytes, info=info)
    # Zarr takes twice as long as the write itself; tests check that the bytes are the same. The interpreter's lock is
    # not held while large arrays are converted and joined.
    rows = np.ascontiguousarray(stored, little)
    padding = bytes(chunks * chunk_bytes - rows.nbytes)
    return b"".join([rows.data, padding, index])


def checksum(data: bytes | memoryview | npt.NDArray[np.uint8]) -> str:
    """Return the CRC-32C of some bytes, as receipts have it; a buffer must be read-only."""
    return f"{google_crc32c.value(data):08x}"


def chunk_checksums(shard: bytes, spec: Spec, *, rows: int, info: StoreInfo) -> list[str]:
    """Return the CRC-32C of each chunk of a shard of features that holds some of its rows."""
    chunk_bytes = info.chunk_rows * spec.embed_dim * np.dtype(spec.stored_dtype).itemsize
    return [checksum(shard[k * chunk_bytes : (k + 1) * chunk_bytes]) for k in range(-(-rows // info.chunk_rows))]


def quantised(features_ND: npt.NDArray[np.generic]) -> npt.NDArray[np.int8]:
    """Round features to 8 bits with a scale per row, so that each row's largest entry becomes 127 or -127.

    The scale need not be stored: features have unit norm, and `restored` gives them unit norm again.
    """
    values_ND = features_ND.astype(np.float32)
    largest_N1 = np.abs(values_ND).max(axis=1, keepdims=True, initial=0)
    return np.rint(values_ND * (127 / np.where(largest_N1 > 0, largest_N1, 1))).astype(np.int8)


def restored(stored_ND: npt.NDArray[np.generic]) -> npt.NDArray[np.floating[Any]]:
    """Return stored features as numbers of unit norm: float16 and float32 as they are, int8 as float32."""
    if stored_ND.dtype != np.int8:
        return stored_ND  # type: ignore[return-value]
    values_ND = stored_ND.astype(np.float32)
    norm_N1 = np.linalg.norm(values_ND, axis=1, keepdims=True)
    return values_ND / np.where(norm_N1 > 0, norm_N1, 1)


def shard_key(teacher: str, name: ArrayName, range_id: int) -> str:
    """Return the key of a store shard, relative to the store."""
    return f"{ZARR_FOLDER}/{teacher}/{name}/c/{range_id}" + ("/0" if name in SIDES else "")


def chunks_of(info: StoreInfo) -> int:
    """Return how many chunks a shard has a place for."""
    return info.range_rows // info.chunk_rows


def index_bytes(info: StoreInfo) -> int:
    """Return the length of an index with its checksum."""
    return 16 * chunks_of(info) + CHECKSUM_BYTES


def encode_index(chunks: int, *, chunk_bytes: int, info: StoreInfo) -> bytes:
    """Return the index of a shard whose first chunks are stored one after the other, and no others."""
    index_K2 = np.full((chunks_of(info), 2), _ABSENT, "<u8")
    index_K2[:chunks, 0] = np.arange(chunks) * chunk_bytes
    index_K2[:chunks, 1] = chunk_bytes
    return bytes(_CODEC.encode(index_K2))


def decode_index(data: npt.NDArray[np.uint8], *, chunk_bytes: int, end: int) -> npt.NDArray[np.int64]:
    """Return where each chunk of a shard begins, -1 where it is not stored.

    Args:
        data: the index with its checksum.
        end: the byte at which the index begins, and all chunks end.

    Raises:
        ValueError: the index is damaged, or names places that the shard does not have; the message says which.
    """
    try:
        index_K2 = np.asarray(_CODEC.decode(data)).view("<u8").reshape(-1, 2)
    except RuntimeError as error:
        raise ValueError("the index of its chunks does not match its checksum") from error
    there = (index_K2 != _ABSENT).any(axis=1)
    wrong = there & ((index_K2[:, 1] != chunk_bytes) | (index_K2[:, 0] > max(end - chunk_bytes, 0)))
    if wrong.any():
        chunk = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"chunk {chunk} lies at byte {index_K2[chunk, 0]} with {index_K2[chunk, 1]} bytes; expected {chunk_bytes} "
            f"bytes before byte {end}"
        )
    return np.where(there, index_K2[:, 0], _ABSENT).astype(np.int64)


def in_order(shard: bytes, dtype: str, *, width: int, rows: int, info: StoreInfo) -> bytes:
    """Return a shard whose chunks lie one after the other, as format 2 asks for; format 1 allowed any order.

    Raises:
        ValueError: it is no shard of that many rows.
    """
    chunks, chunk_bytes = -(-rows // info.chunk_rows), info.chunk_rows * width * np.dtype(dtype).itemsize
    index, end = encode_index(chunks, chunk_bytes=chunk_bytes, info=info), len(shard) - index_bytes(info)
    if end < 0:
        raise ValueError(f"it has {len(shard)} bytes, too few for an index of {chunks_of(info)} chunks")
    offsets_K = decode_index(np.frombuffer(shard, np.uint8)[end:], chunk_bytes=chunk_bytes, end=end)[:chunks]
    found = (shard[offset : offset + chunk_bytes] if offset >= 0 else bytes(chunk_bytes) for offset in offsets_K)
    return b"".join([*found, index])


def rows_in_order(
    data: bytes, *, dtype: np.dtype[np.generic], rows: int, info: StoreInfo
) -> npt.NDArray[np.generic] | None:
    """Return the values of a shard of one number per row; None where its chunks do not lie in order."""
    chunks, chunk_bytes = -(-rows // info.chunk_rows), info.chunk_rows * dtype.itemsize
    expected = encode_index(chunks, chunk_bytes=chunk_bytes, info=info)
    # The checksum guards against another index than this one, so it need not be looked at.
    if data[chunks * chunk_bytes : -CHECKSUM_BYTES] != expected[:-CHECKSUM_BYTES]:
        return None
    return np.frombuffer(data, dtype.newbyteorder("<"), count=rows)
