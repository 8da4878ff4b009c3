"""The Zarr side of the store: four arrays per teacher, and the bytes of one store shard."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore, MemoryStore

from .errors import StoreError
from .records import StoreInfo

Side: TypeAlias = Literal["image", "text"]
ArrayName: TypeAlias = Literal["image", "text", "similarity", "status"]
ARRAY_NAMES: tuple[ArrayName, ...] = get_args(ArrayName)
DTYPES: dict[ArrayName, str] = {"image": "float16", "text": "float16", "similarity": "float32", "status": "uint8"}

ZARR_FOLDER = "features.zarr"


def create_arrays(store: Path, teacher: str, *, width: int, info: StoreInfo) -> None:
    """Create a teacher's arrays (metadata only) if they are not there.

    Args:
        store: the store's folder.
        teacher: its id.
        width: D of its features.
        info: the store's shape.

    Raises:
        StoreError: arrays of another shape are there.
    """
    root = zarr.open_group(LocalStore(store / ZARR_FOLDER), mode="a")
    group = root.require_group(teacher)
    for name in ARRAY_NAMES:
        if name not in group:
            _create(group, name, rows=info.rows, width=width, info=info)
        elif group[name].shape != _shape(name, info.rows, width):
            raise StoreError(
                f"{store}: {teacher}/{name} has shape {group[name].shape}, expected {_shape(name, info.rows, width)}",
                hint="python -m extract run --replace TEACHER drops a teacher's features and makes them anew",
            )


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
    """Return the key of a store shard, relative to the store's folder."""
    return f"{ZARR_FOLDER}/{teacher}/{name}/c/{range_id}" + ("/0" if name in ("image", "text") else "")


def open_arrays(store: Path, teacher: str) -> dict[ArrayName, zarr.Array]:
    """Open a teacher's arrays for reading.

    Raises:
        StoreError: they are not there.
    """
    try:
        group = zarr.open_group(LocalStore(store / ZARR_FOLDER, read_only=True), path=teacher, mode="r")
        return {name: group[name] for name in ARRAY_NAMES}
    except (FileNotFoundError, KeyError) as error:
        raise StoreError(f"{store}: there are no arrays of teacher {teacher!r}") from error
