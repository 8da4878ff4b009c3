"""One writer per store: a lock of the operating system in a folder, a lease where there is none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from typing import TextIO

from store.errors import LocationError
from store.faults import reached

from .folder import Folder
from .lease import Held, holding, new_holder, read_holder, refused, wait_until_free
from .location import Location

log = logging.getLogger(__name__)

LOCK_KEY = "writer.lock"
"""The locked file of a folder; on object storage the lease."""

LEASE_KEY = "writer.lease"
"""The lease of a folder whose file system has no locks."""

LOOKS, LOOK_S = 10, 0.02
"""Tries of a writer, and the seconds between them: `holder` takes a folder's lock for a moment."""

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
"""Error numbers of a file system without locks, such as Lustre mounted without ``-o flock``."""


@contextlib.contextmanager
def exclusive(location: Location) -> Iterator[Held]:
    """Hold a store for writing; what was read of it before may be stale.

    In a folder the operating system releases the lock when its holder ends, in whatever way. On object storage, and in
    a folder whose file system has no locks, it is a lease that its holder renews. A lease that is not renewed is waited
    out and taken over. If the storage ignores conditions, which is tried, a warning says that nothing keeps a second
    writer out.

    Raises:
        StoreError: another program holds it; the message names it.
    """
    reached("lock.wanted")
    with _folder_lock(location) if isinstance(location, Folder) else holding(location, LOCK_KEY) as held:
        yield held


def unlock(location: Location) -> str | None:
    """Remove a lease at once instead of waiting until it runs out. Returns its holder, None if there is none."""
    key = lease_key(location)
    found = read_holder(location, key)
    if found is None:
        return None
    location.delete([key])
    return found.name


def lease_key(location: Location) -> str:
    """Return where a lease lies."""
    return LEASE_KEY if isinstance(location, Folder) else LOCK_KEY


def holder(location: Location) -> str | None:
    """Return who writes to a store now, None if nobody does; of a lease, who has it or left it."""
    lease = read_holder(location, lease_key(location))
    if lease or not isinstance(location, Folder):
        return lease.name if lease else None
    try:
        with _opened(location, "r") as file:
            # Shared, so that two calls of this function do not take each other for a writer.
            if not _flock(file, fcntl.LOCK_SH):
                return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        found = read_holder(location, LOCK_KEY)
        return found.name if found else None
    return None


def _opened(folder: Folder, mode: str) -> TextIO:
    try:
        return (folder.path / LOCK_KEY).open(mode)  # type: ignore[return-value]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LocationError(f"{folder.show(LOCK_KEY)}: {error.strerror or error}") from error


def _flock(file: TextIO, kind: int) -> bool:
    """Lock a file without waiting. Returns False where the file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise LocationError(f"{file.name}: cannot be locked: {error.strerror or error}") from error
    return True


class _HeldFile(Held):
    """The lock of a folder, in the process that took it."""

    def __init__(self, folder: Folder, file: TextIO, token: str) -> None:
        super().__init__(folder, LOCK_KEY, token)
        self._file = file

    def check(self) -> None:
        """Compare the open file with the one at its path, and the token in it."""
        if self._file.closed:
            raise self.lost("it was given back")
        opened, there = os.fstat(self._file.fileno()), self.location.stat(LOCK_KEY)
        if there is None or not there.stamp.startswith(f"{opened.st_ino}-"):
            raise self.lost("its file was removed or replaced")
        super().check()


@contextlib.contextmanager
def _folder_lock(folder: Folder) -> Iterator[Held]:
    with _opened(folder, "a+") as file:
        if not _locked(folder, file):
            log.warning("%s: this file system has no locks (flock); a lease is kept instead", folder)
            with holding(folder, LEASE_KEY) as held:
                yield held
            return
        # Another machine may use the file system without locks.
        if wait_until_free(folder, LEASE_KEY):
            folder.delete([LEASE_KEY])
        mine = new_holder()
        file.truncate(0)
        file.write(mine.as_json())
        file.flush()
        try:
            yield _HeldFile(folder, file, mine.token)
        finally:
            # Workers that outlive this program find that its token no longer counts.
            file.truncate(0)


def _locked(folder: Folder, file: TextIO) -> bool:
    for look in range(LOOKS):
        try:
            return _flock(file, fcntl.LOCK_EX)
        except BlockingIOError as error:
            if look == LOOKS - 1:
                raise refused(folder, read_holder(folder, LOCK_KEY)) from error
            time.sleep(LOOK_S)
    raise AssertionError
