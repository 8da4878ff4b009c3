"""Checks the Zarr metadata of a store. They are read first and opened in memory, so that Zarr meets no disk's error."""

from __future__ import annotations

from collections.abc import Iterable

import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from store.errors import LocationError
from store.format.arrays import ArrayName, array_names, dtype_of, tail_of
from store.format.records import Spec, StoreInfo
from store.io.location import Location

from .inventory import ROOT_METADATA, metadata_keys


def check_root(location: Location) -> str | None:
    """Return what is wrong with the group of all teachers, where any Zarr reader begins."""
    try:
        _open([location.read(ROOT_METADATA)], ["zarr.json"])
    except LocationError:
        raise
    # Zarr raises nearly anything on damaged metadata.
    except Exception as error:  # noqa: BLE001
        return f"the Zarr group cannot be opened: {_reason(error)}"
    return None


def check_arrays(location: Location, spec: Spec, *, info: StoreInfo) -> tuple[str | None, dict[ArrayName, bytes]]:
    """Compare a teacher's Zarr metadata with the shape that store and spec give them.

    Returns:
        The faults in one text, or None, and the ``zarr.json`` of each array.
    """
    names = array_names(spec)
    keys = metadata_keys(spec.teacher, names)
    try:
        objects = [location.read(key) for key in keys]
        group = _open(objects, [key.removeprefix(keys[0].removesuffix("zarr.json")) for key in keys])
        wrong = [text for name in names if (text := _misshapen(name, group[name], spec, info))]
    except LocationError:
        raise
    except Exception as error:  # noqa: BLE001
        return f"the arrays cannot be opened: {_reason(error)}", {}
    return "; ".join(wrong) or None, dict(zip(names, objects[1:], strict=True))


def _open(objects: Iterable[bytes], names: Iterable[str]) -> zarr.Group:
    buffers = {name: cpu.Buffer.from_bytes(data) for name, data in zip(names, objects, strict=True)}
    return zarr.open_group(MemoryStore(buffers), mode="r")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _misshapen(name: ArrayName, array: object, spec: Spec, info: StoreInfo) -> str | None:
    tail = tail_of(name, spec)
    expected = ((info.range_rows, *tail), (info.chunk_rows, *tail), dtype_of(name, spec.stored_dtype), tail)
    shape = tuple(getattr(array, "shape", ()))
    found = (getattr(array, "shards", None), getattr(array, "chunks", None), str(getattr(array, "dtype", "")))
    # Fewer rows than the store has: some were appended, and the next extraction lets the arrays grow.
    if (*found, shape[1:]) == expected and shape[0] <= info.rows:
        return None
    return f"{name} has shape {shape}, shards {found[0]}, chunks {found[1]}, dtype {found[2]}; expected {expected}"
