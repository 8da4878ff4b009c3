"""The bytes of a store shard: its chunks, then an index of where each chunk lies, then the index's CRC-32C.

This is Zarr's ``sharding_indexed`` codec as docs/store-format.md narrows it down.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numcodecs.checksum32 import CRC32C

from .records import StoreInfo

CHECKSUM_BYTES = 4

_ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that is not stored: all of it is 0, or lies beyond the array's rows."""

_CODEC = CRC32C(location="end")


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
