"""One writer per store: a lock that the operating system releases, or an object where there is no operating system."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator

from store.errors import StoreError

from .folder import Folder
from .location import Location

log = logging.getLogger(__name__)

LOCK_KEY = "writer.lock"

LOOKS, LOOK_S = 10, 0.02
"""Tries of a writer, and the seconds between them: `holder` takes a folder's lock for a moment."""


class Held:
    def check(self) -> None:
        pass


@contextlib.contextmanager
def exclusive(location: Location) -> Iterator[Held]:
    """Hold a store for writing.

    In a folder the operating system releases the lock when its holder ends, in whatever way. On object storage the lock
    is an object that is created on the condition that there is none. A holder that is killed leaves it behind, and
    ``python -m store unlock`` removes it. If the storage ignores the condition, which is tried, a warning says that
    nothing keeps a second writer out.

    Raises:
        StoreError: another program holds it; the message names it.
    """
    with _folder_lock(location) if isinstance(location, Folder) else _object_lock(location):
        yield Held()


def unlock(location: Location) -> str | None:
    """Remove the lock that a killed writer left on object storage. Returns its holder, None if there is no lock."""
    found = holder(location)
    if found:
        location.delete([LOCK_KEY])
    return found


def holder(location: Location) -> str | None:
    """Return who writes to a store now, None if nobody does; on object storage, who left a lock."""
    if not isinstance(location, Folder):
        try:
            return _written(location)
        except FileNotFoundError:
            return None
    try:
        with (location.path / LOCK_KEY).open() as file:
            # Shared, so that two calls of this function do not take each other for a writer.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _written(location)
    return None


def _written(location: Location) -> str:
    return location.read(LOCK_KEY).decode(errors="replace").strip() or "unknown"


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _refused(location: Location, holder: str, hint: str) -> StoreError:
    return StoreError(f"{location}: another program is writing to this store ({holder})", hint=hint)


@contextlib.contextmanager
def _folder_lock(folder: Folder) -> Iterator[None]:
    with (folder.path / LOCK_KEY).open("a+") as file:
        for look in range(LOOKS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if look < LOOKS - 1:
                    time.sleep(LOOK_S)
                    continue
                hint = "wait for it or stop it; what it has committed stays"
                raise _refused(folder, _written(folder), hint) from error
        file.truncate(0)
        file.write(_holder())
        file.flush()
        yield


@contextlib.contextmanager
def _object_lock(location: Location) -> Iterator[None]:
    mine = f"{_holder()}, {secrets.token_hex(8)}".encode()
    try:
        location.create(LOCK_KEY, mine)
    except FileExistsError as error:
        hint = f"wait for it; if it was killed, python -m store unlock {location}"
        raise _refused(location, _written(location), hint) from error
    try:
        _try_condition(location, mine)
        yield
    finally:
        # Another's lock is left alone: it may be there if this one was removed by hand meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if location.read(LOCK_KEY) == mine:
                location.delete([LOCK_KEY])


def _try_condition(location: Location, mine: bytes) -> None:
    """Create the lock a second time, which has to fail."""
    try:
        location.create(LOCK_KEY, mine)
    except FileExistsError:
        return
    log.warning(
        "%s: this storage has no conditional writes, so nothing keeps a second writer out; do not start one", location
    )
