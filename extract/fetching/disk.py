"""Says beforehand which files a fetch gets, and whether the disk has room for them and for what is made from them."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.teacher_files.entry import TeacherEntry, Wanted
from store.errors import TeacherError

from .http import Found


@dataclass(kw_only=True, frozen=True, slots=True)
class Missing:
    """A file that is to be fetched.

    Attributes:
        found: what its server says of it, or of the archive that holds it.
    """

    file: Wanted
    found: Found


@dataclass(kw_only=True, frozen=True, slots=True)
class FetchPlan:
    """A teacher's part of a fetch.

    Attributes:
        download_bytes: the files that are to be fetched, archives among them.
        archive_bytes: the archives, which are removed once they are unpacked; their members are taken to be as large.
        source_bytes: the authors' weights that are to be converted, also those that are there already.
        unknown: files whose size their server does not say.
    """

    name: str
    entry: TeacherEntry
    missing: tuple[Missing, ...]
    download_bytes: int
    archive_bytes: int
    source_bytes: int
    unknown: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Need:
    """Room that fetches need on a disk, in bytes.

    Attributes:
        folder: lies on the disk.
        peak: the largest amount at any time; a conversion is taken to be as large as its source.
        stays: the amount at the end.
        is_least: whether sizes are unknown, so that it may be more.
    """

    folder: Path
    peak: int
    stays: int
    free: int
    is_least: bool


def needs(plans: Sequence[FetchPlan], *, keep_source: bool) -> list[Need]:
    """Return the room that fetches need, one after the other, by disk."""
    by_disk: dict[int, list[FetchPlan]] = defaultdict(list)
    for plan in plans:
        by_disk[_existing(Path(plan.entry.folder)).stat().st_dev].append(plan)
    found = []
    for group in by_disk.values():
        now = peak = 0
        for plan in group:
            unpacking = plan.download_bytes + plan.archive_bytes
            converting = plan.download_bytes + plan.source_bytes
            peak = max(peak, now + unpacking, now + converting)
            now += converting - (0 if keep_source else plan.source_bytes)
        folder = _existing(Path(group[0].entry.folder))
        free, is_least = shutil.disk_usage(folder).free, any(plan.unknown for plan in group)
        found.append(Need(folder=folder, peak=peak, stays=now, free=free, is_least=is_least))
    return found


def require_room(plans: Sequence[FetchPlan], *, keep_source: bool) -> None:
    """Refuse fetches for which a disk is too small.

    Raises:
        TeacherError: the message says how much is needed and how much is free.
    """
    for number, need in enumerate(needs(plans, keep_source=keep_source)):
        if need.peak <= need.free:
            continue
        less = needs(plans, keep_source=False)[number].peak
        drop = f"--no-keep-source needs {less / 1e6:,.1f} MB; " if keep_source and less < need.peak else ""
        raise TeacherError(
            f"{need.folder}: {need.free / 1e6:,.1f} MB are free on this disk, {need.peak / 1e6:,.1f} MB are needed for "
            f"the teachers {', '.join(plan.name for plan in plans)}",
            hint=f"{drop}make room, fetch fewer teachers at once, or put teachers.NAME.folder on another disk",
        )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())
