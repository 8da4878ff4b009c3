"""One listing of a store, sorted into units, their objects, and objects that belong to nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from store.config.problems import it_has
from store.errors import StoreError
from store.format.arrays import ARRAY_NAMES, ZARR_FOLDER, ArrayName, shard_key
from store.format.key_index import KEY_INDEX
from store.format.promote import NEXT_FOLDER, STAGED_FOLDER
from store.format.records import (
    REPORT_KEY,
    RETRY_FOLDER,
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

SCRATCH = "upgrade"
"""Below it an upgrade of the format writes parts of the pair table before they replace the old ones."""

LOST_FOLDER = "lost+found"
"""`repair` moves objects below it; no other program looks there."""

OTHER_FOLDERS = ("index/", "pairs/", "pixels/", "retry/", "runs/", f"{LOST_FOLDER}/", f"{SCRATCH}/")
"""Folders of a store that hold no features."""

_BESIDE = (f"{STAGED_FOLDER}/", f"{NEXT_FOLDER}/")
"""Folders of units that lie beside those that they are to replace."""

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
            known = it_has(teacher, self.teachers)
            raise StoreError(f"{self.location}: no teacher {teacher!r} in this store{known}")

    def misplaced_receipts(self) -> list[tuple[str, str, int]]:
        """Return key, teacher and range of receipts of ranges that the store does not have."""
        units = ((key, parse_receipt_key(key)) for key in self.receipts)
        return [(key, *unit) for key, unit in units if unit and unit[1] >= self.info.ranges]

    def orphans(self, *, without: Iterable[str] = ()) -> list[tuple[str, str, int]]:
        """Return key, teacher and range of shards that no receipt commits, be it readable or not.

        Args:
            without: keys of receipts that are not to count.
        """
        receipts = {*self.receipts} - {*without}
        # A new model's objects are moved here one by one, and may come before their receipt.
        receipts |= {split_prefix(key)[1] for key in self.sizes if key.startswith(f"{NEXT_FOLDER}/")}
        shards = ((key, _unit_of(key)) for key in self.sizes)
        return [(key, *unit) for key, unit in shards if unit and receipt_key(*unit) not in receipts]

    def attempts(self) -> dict[str, list[str]]:
        """Return the keys of each attempt at a unit that is there already, by its prefix."""
        found: dict[str, list[str]] = {}
        for key in self.sizes:
            if key.startswith(f"{STAGED_FOLDER}/"):
                found.setdefault("/".join(key.split("/")[:2]), []).append(key)
        return found

    def coming(self) -> list[str]:
        """Return the prefixes of units that are to replace others when all of them are there."""
        found = {"/".join(key.split("/")[:2]) for key in self.sizes if key.startswith(f"{NEXT_FOLDER}/")}
        return sorted(found)

    def places(self, teacher: str, range_id: int, prefixes: Iterable[str]) -> list[str]:
        """Return the keys at which a unit's receipt and objects are, below some prefixes; receipts first."""
        bare = [receipt_key(teacher, range_id), *unit_keys(teacher, range_id)]
        keys = (below(prefix, key) for key in bare for prefix in dict.fromkeys((*prefixes, "")))
        return [key for key in keys if key in self.sizes]

    def strays(self) -> list[str]:
        """Return keys that a store of this version has no place for."""
        known = {*OTHER_FILES}
        for teacher in self.teachers:
            known |= {spec_key(teacher), *metadata_keys(teacher)}
        return [
            key
            for key in self.sizes
            if key not in known
            and not key.startswith((*OTHER_FOLDERS, *_BESIDE))
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


def below(prefix: str, key: str) -> str:
    """Return a key below a prefix, which may be empty."""
    return f"{prefix}/{key}" if prefix else key


def split_prefix(key: str) -> tuple[str, str]:
    """Return the prefix of an object that lies beside the one that it is to replace, and the key of that one."""
    rest = key
    while rest.startswith(_BESIDE) and rest.count("/") > 1:
        rest = rest.split("/", 2)[2]
    return key[: len(key) - len(rest)].rstrip("/"), rest


def teacher_of(key: str) -> str | None:
    """Return the teacher that an object belongs to, wherever it lies; None where it is no teacher's."""
    parts = split_prefix(key)[1].split("/")
    if parts[0] not in ("receipts", "specs", ZARR_FOLDER, RETRY_FOLDER) or len(parts) < 2 or parts[1] == "zarr.json":
        return None
    return parts[1].removesuffix(".json") if parts[0] == "specs" else parts[1]


def metadata_keys(teacher: str, names: Iterable[ArrayName] = ARRAY_NAMES) -> list[str]:
    """Return the keys of a teacher's Zarr metadata: of its group, then of its arrays."""
    folder = f"{ZARR_FOLDER}/{teacher}"
    return [f"{folder}/zarr.json", *(f"{folder}/{name}/zarr.json" for name in names)]


def unit_keys(teacher: str, range_id: int, names: Iterable[ArrayName] = ARRAY_NAMES) -> list[str]:
    """Return the keys of the objects that a unit writes."""
    return [shard_key(teacher, name, range_id) for name in names]


def unfinished_writes(location: Location) -> list[str]:
    """Return the keys of unfinished writes of killed writers; object storage keeps none."""
    return [*location.unfinished()] if isinstance(location, Folder) else []


def _unit_of(key: str) -> tuple[str, int] | None:
    match = _SHARD.fullmatch(key)
    if match is None:
        return None
    teacher, range_id = match[1], int(match[2])
    return (teacher, range_id) if key in unit_keys(teacher, range_id) else None
