"""The feature store: its format, and how to make, read, check and inspect one.

These names are the public interface (docs/api.md); every other module may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.errors import (
        ConfigError,
        CorpusError,
        FormatVersionError,
        IncompleteStoreError,
        LocationError,
        MMKDError,
        PairDecodeError,
        StoreError,
        StoreNotFoundError,
    )
    from store.format.records import Status
    from store.images.decode import decode_image
    from store.read.reader import FeatureStore
    from store.read.selection import TeacherSelection

__all__ = [
    "ConfigError",
    "CorpusError",
    "FeatureStore",
    "FormatVersionError",
    "IncompleteStoreError",
    "LocationError",
    "MMKDError",
    "PairDecodeError",
    "Status",
    "StoreError",
    "StoreNotFoundError",
    "TeacherSelection",
    "decode_image",
]

_MODULES = {
    "FeatureStore": "store.read.reader",
    "Status": "store.format.records",
    "TeacherSelection": "store.read.selection",
    "decode_image": "store.images.decode",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: ``--help`` must not wait for pyarrow and zarr."""
    if name not in __all__:
        raise AttributeError(f"module 'store' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "store.errors")), name)
