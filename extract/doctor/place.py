"""Judges the place of a store: room, objects, the lock of a folder, the conditional writes of an object storage."""

from __future__ import annotations

import tempfile
from pathlib import Path

from store.errors import StoreError
from store.io.folder import Folder
from store.io.lease import NO_CONDITIONS, has_conditional_writes
from store.io.location import Location
from store.io.lock import LEASE_KEY, exclusive, holder

from .finding import Finding, gb, within

ANSWER_S = 20.0
"""Seconds that an object storage has for its answers, in place of the three minutes of a run."""


def room(folder: Path, *, free: int, nbytes: int | None) -> Finding:
    """Compare the free bytes of a disk with those that a run writes.

    Args:
        nbytes: None where that is not known.
    """
    said = f"{gb(free)} are free at {folder}"
    if nbytes is None:
        return Finding("disk", "ok" if free else "fail", f"{said}; what a run writes is not known yet")
    said = f"{said}, the run writes {gb(nbytes)}"
    if nbytes > free:
        return Finding("disk", "fail", said, "make room, or --store names a place on another disk")
    return Finding("disk", "ok", said)


def inodes(folder: Path, *, free: int | None, objects: int | None) -> Finding:
    """Compare the files that a file system still takes with those that a run writes.

    Args:
        free: None where the file system has no limit.
        objects: None where that is not known.
    """
    if free is None:
        return Finding("inodes", "ok", f"the file system of {folder} has no limit of files")
    said = f"{free:,} more files have room at {folder}"
    if objects is None:
        return Finding("inodes", "ok" if free else "fail", f"{said}; what a run writes is not known yet")
    said = f"{said}, the run writes {objects:,}"
    if objects > free:
        hint = "remove small files there, or --store names a place on another disk; larger store.range_rows make fewer"
        return Finding("inodes", "fail", said, hint)
    return Finding("inodes", "ok", said)


def locks(store: Folder) -> Finding:
    """Take the lock of a store in a temporary folder beside the store, and see that it keeps others out."""
    beside = existing(store.path)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=beside) as name:
            trial = Folder(Path(name))
            with exclusive(trial):
                leased, held = trial.exists(LEASE_KEY), holder(trial)
    except (OSError, StoreError) as error:
        text = f"{beside} cannot be written: {getattr(error, 'strerror', None) or error}"
        return Finding("locks", "fail", text, "mend its permissions, or --store names another place")
    if not held:
        text = f"{beside}: the file system grants locks and does not keep them"
        return Finding("locks", "warn", text, "start no second writer; or --store names another place")
    if leased:
        text = f"{beside}: the file system has no locks (flock); a lease is kept instead, which takes seconds longer"
        return Finding("locks", "warn", text, "on Lustre: mount it with -o flock")
    return Finding("locks", "ok", f"{beside} can be written, and its locks keep a second writer out")


def conditions(store: Location) -> Finding:
    """Try whether an object storage answers, can be written, and writes on conditions."""
    name = "storage"
    try:
        kept_out = within(ANSWER_S, lambda: has_conditional_writes(store))
    except (TimeoutError, StoreError) as error:
        hint = "see its address, and the credentials in the environment (AWS_*, GOOGLE_*, AZURE_*)"
        return Finding(name, "fail", f"{store} cannot be written: {error}", hint)
    if kept_out:
        return Finding(name, "ok", f"{store} can be written, and conditional writes keep a second writer out")
    return Finding(name, "warn", f"{store}: {NO_CONDITIONS}", "start no second writer of this store")


def existing(path: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
