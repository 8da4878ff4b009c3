"""One listing of a store, sorted into units, their objects, and objects that belong to nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from store.errors import StoreError
from store.files import TEMPORARY_SUFFIX
from store.format.arrays import ARRAY_NAMES, ZARR_FOLDER, shard_key
from store.format.key_index import KEY_INDEX
from store.format.records import (
    REPORT_KEY,
    STORE_KEY,
    StoreInfo,
    parse_receipt_key,
    read_store_info,
    receipt_key,
    spec_key,
)
from store.io.folder import Folder
from store.io.location import Location
from store.io.lock import LEASE_KEY, LOCK_KEY

OTHER_FOLDERS = ("index/", "pairs/", "pixels/", "retry/", "runs/")
"""Folders of a store that hold no features."""

ROOT_METADATA = f"{ZARR_FOLDER}/zarr.json"

OTHER_FILES = (STORE_KEY, LOCK_KEY, LEASE_KEY, KEY_INDEX, REPORT_KEY, ROOT_METADATA)

_SHARD = re.compile(rf"{re.escape(ZARR_FOLDER)}/([^/]+)/[^/]+/c/(\d+)(?:/0)?")


@dataclass(kw_only=True, frozen=True, slots=True)
class Inventory:
    """Every object of a store at one moment.

    Attributes:
        receipts: keys of everything below ``receipts/``.
        sizes: bytes of every object, by key.
        teachers: ids that have a spec, receipts or arrays, sorted.
    """

    location: Location
    info: StoreInfo
    receipts: tuple[str, ...]
    sizes: dict[str, int]
    teachers: tuple[str, ...]

    def check_name(self, teacher: str) -> None:
        """Refuse, with a StoreError, a teacher of which the store holds nothing."""
        if teacher not in self.teachers:
            close = difflib.get_close_matches(teacher, self.teachers, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            known = ", ".join(self.teachers) or "none yet"
            raise StoreError(f"{self.location}: no teacher {teacher!r} in this store; it has {known}{meant}")

    def misplaced_receipts(self) -> list[tuple[str, str, int]]:
        """Return key, teacher and range of receipts of ranges that the store does not have."""
        units = ((key, parse_receipt_key(key)) for key in self.receipts)
        return [(key, *unit) for key, unit in units if unit and unit[1] >= self.info.ranges]

    def orphans(self, *, without: Iterable[str] = ()) -> list[tuple[str, str, int]]:
        """Return key, teacher and range of shards that no receipt commits.

        Args:
            without: keys of receipts that are not to count.
        """
        receipts = {*self.receipts} - {*without}
        shards = ((key, _unit_of(key)) for key in self.sizes)
        return [(key, *unit) for key, unit in shards if unit and receipt_key(*unit) not in receipts]

    def strays(self) -> list[str]:
        """Return keys that a store of this version has no place for."""
        known = {*OTHER_FILES}
        for teacher in self.teachers:
            known |= {spec_key(teacher), *metadata_keys(teacher)}
        return [
            key
            for key in self.sizes
            if key not in known
            and not key.startswith(OTHER_FOLDERS)
            and not parse_receipt_key(key)
            and not _unit_of(key)
        ]


def take_inventory(location: Location) -> Inventory:
    """List a store.

    Raises:
        StoreNotFoundError: no store is there.
        FormatVersionError: it is of another version.
    """
    info = read_store_info(location)
    # Receipts first: a receipt that is listed was written after its objects, so the second listing has them all, even
    # while an extraction is running.
    receipts = tuple(key for key, _ in location.list("receipts"))
    sizes = dict(location.list())
    named = [key.split("/") for key in (*receipts, *sizes)]
    teachers = {parts[1] for parts in named if parts[0] in ("receipts", ZARR_FOLDER) and len(parts) > 2}
    teachers |= {parts[1].removesuffix(".json") for parts in named if parts[0] == "specs" and parts[1:] != []}
    return Inventory(
        location=location, info=info, receipts=receipts, sizes=sizes, teachers=tuple(sorted(teachers - {""}))
    )


def metadata_keys(teacher: str) -> list[str]:
    """Return the keys of a teacher's Zarr metadata: of its group, then of its arrays."""
    folder = f"{ZARR_FOLDER}/{teacher}"
    return [f"{folder}/zarr.json", *(f"{folder}/{name}/zarr.json" for name in ARRAY_NAMES)]


def unit_keys(teacher: str, range_id: int) -> list[str]:
    """Return the keys of the objects that a unit writes."""
    return [shard_key(teacher, name, range_id) for name in ARRAY_NAMES]


def unfinished_writes(location: Location) -> list[str]:
    """Return the keys of unfinished writes of killed writers; object storage keeps none."""
    if not isinstance(location, Folder):
        return []
    found = (path for path in location.path.rglob(f".*{TEMPORARY_SUFFIX}") if path.is_file())
    return sorted(path.relative_to(location.path).as_posix() for path in found)


def _unit_of(key: str) -> tuple[str, int] | None:
    match = _SHARD.fullmatch(key)
    if match is None:
        return None
    teacher, range_id = match[1], int(match[2])
    return (teacher, range_id) if key in unit_keys(teacher, range_id) else None
