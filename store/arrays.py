"""The Zarr side of the store: four arrays per teacher, and the bytes of one store shard."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import MemoryStore

from .errors import StoreError
from .location import Location
from .records import StoreInfo

Side: TypeAlias = Literal["image", "text"]
ArrayName: TypeAlias = Literal["image", "text", "similarity", "status"]
ARRAY_NAMES: tuple[ArrayName, ...] = get_args(ArrayName)
DTYPES: dict[ArrayName, str] = {"image": "float16", "text": "float16", "similarity": "float32", "status": "uint8"}

ZARR_FOLDER = "features.zarr"


def create_arrays(location: Location, teacher: str, *, width: int, info: StoreInfo) -> None:
    """Create a teacher's arrays (metadata only), or let them grow to the store's rows.

    Args:
        location: the store's.
        teacher: its id.
        width: D of its features.
        info: the store's shape.

    Raises:
        StoreError: arrays of another shape are there.
    """
    group = location.zarr_group(ZARR_FOLDER, writable=True).require_group(teacher)
    for name in ARRAY_NAMES:
        expected = _shape(name, info.rows, width)
        if name not in group:
            _create(group, name, rows=info.rows, width=width, info=info)
        elif group[name].shape[1:] != expected[1:] or group[name].shape[0] > info.rows:
            raise StoreError(
                f"{location}: {teacher}/{name} has shape {group[name].shape}, expected {expected}",
                hint="python -m extract run --replace TEACHER drops a teacher's features and makes them anew",
            )
        elif group[name].shape != expected:
            # Rows were appended. Growing changes the metadata alone; the partial last shard is made anew as a unit.
            group[name].resize(expected)


def _shape(name: ArrayName, rows: int, width: int) -> tuple[int, ...]:
    return (rows, width) if name in ("image", "text") else (rows,)


def _create(group: zarr.Group, name: ArrayName, *, rows: int, width: int, info: StoreInfo) -> zarr.Array:
    tail = _shape(name, rows, width)[1:]
    # No compressor: CLIP features in float16 hardly compress, and a reader may take a chunk's bytes as they lie.
    return group.create_array(
        name,
        shape=(rows, *tail),
        shards=(info.range_rows, *tail),
        chunks=(info.chunk_rows, *tail),
        dtype=DTYPES[name],
        compressors=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def encode_shard(name: ArrayName, values: npt.NDArray[np.generic], info: StoreInfo) -> bytes:
    """Return the bytes that Zarr stores for one whole shard.

    They are made in memory and put in place by the caller: writing through Zarr would read the old shard first, so that
    a torn one would fail for ever.

    Args:
        name: which array.
        values: (rows of the range, D) or (rows of the range,); the last range may be short.
        info: the store's shape.
    """
    objects: dict[str, zarr.core.buffer.Buffer] = {}
    group = zarr.create_group(MemoryStore(objects))
    width = values.shape[1] if values.ndim == 2 else 0
    array = _create(group, name, rows=len(values), width=width, info=info)
    array[...] = values.astype(DTYPES[name])
    shard = objects[f"{name}/c/0" + ("/0" if values.ndim == 2 else "")]
    return bytes(shard.to_bytes())


def shard_key(teacher: str, name: ArrayName, range_id: int) -> str:
    """Return the key of a store shard, relative to the store."""
    return f"{ZARR_FOLDER}/{teacher}/{name}/c/{range_id}" + ("/0" if name in ("image", "text") else "")


def open_arrays(location: Location, teacher: str) -> dict[ArrayName, zarr.Array]:
    """Open a teacher's arrays for reading.

    Raises:
        StoreError: they are not there.
    """
    try:
        group = location.zarr_group(f"{ZARR_FOLDER}/{teacher}", writable=False)
        return {name: group[name] for name in ARRAY_NAMES}
    except (FileNotFoundError, KeyError) as error:
        raise StoreError(f"{location}: there are no arrays of teacher {teacher!r}") from error
