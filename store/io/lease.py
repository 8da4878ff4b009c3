"""A lease: an object with a token that its holder renews, and that anybody takes over once it is no longer renewed.

No two clocks are compared. Who waits measures on a clock of its own for how long the lease has not changed; its holder
gives up earlier, measured on its own from before it asked for the last renewal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from store.errors import LocationError, LockLostError, ObjectChangedError, StoreError

from .folder import Folder
from .location import Location

log = logging.getLogger(__name__)

LEASE_S, RENEW_S = 60.0, 15.0
"""A holder goes on for so long without a renewal, and renews its lease so often, in seconds."""

PATIENCE = 1.25
"""Others wait so many times longer: meanwhile a request ends that the holder began in its last moment."""

LOOK_S = 1.0
"""Seconds between two looks of who waits; also after a takeover, before the first thing is written."""


NO_CONDITIONS = "this storage has no conditional writes, so nothing keeps a second writer out"


@dataclass(frozen=True, slots=True)
class Holder:
    """The content of a lock's object.

    Attributes:
        token: of this time of holding; empty where another program wrote the object.
        lease_s: after so many seconds without renewal it runs out; 0 if it does not.
        until: when that is by its holder's clock, for people.
        renewals: how often it was renewed.
    """

    name: str
    token: str = ""
    lease_s: float = 0
    until: str = ""
    renewals: int = 0

    def as_json(self) -> str:
        """Return the object's content."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})


def new_holder(lease_s: float = 0) -> Holder:
    """Return this program with a new token."""
    return Holder(f"process {os.getpid()} on {socket.gethostname()}", secrets.token_hex(8), lease_s, _until(lease_s))


def read_holder(location: Location, key: str) -> Holder | None:
    """Return what a lock's object says, None where there is none."""
    try:
        text = location.read(key).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    try:
        found: dict[str, Any] = json.loads(text)
        return Holder(**found)
    except (ValueError, TypeError):
        # A file system without hard links may keep an empty one of a writer that was killed while it took it.
        return Holder(text or "unknown", lease_s=0 if text else LEASE_S)


def refused(location: Location, holder: Holder | None) -> StoreError:
    """Return the error for a store that another program holds."""
    who = holder.name if holder else "unknown"
    left = f"; if it was killed, python -m store unlock {location}" if holder and not holder.token else ""
    return StoreError(
        f"{location}: another program is writing to this store ({who})",
        hint=f"wait for it or stop it; what it has committed stays{left}",
    )


class Held:
    """A lock that this program holds. In another process, to which it may be sent, the token alone is looked at."""

    def __init__(self, location: Location, key: str, token: str) -> None:
        self.location, self.key, self.token = location, key, token

    def check(self) -> None:
        """Make sure that the lock is still held; to be called before anything counts as committed.

        Raises:
            LockLostError: it was taken over or removed, or could not be renewed in time.
        """
        there = read_holder(self.location, self.key)
        if there is None or there.token != self.token:
            raise self.lost(f"{there.name} has it" if there else "it was removed")

    def lost(self, why: str) -> LockLostError:
        """Return the error for a lock that is no longer held."""
        return LockLostError(
            f"{self.location}: lost the lock of this store: {why}; nothing more is written",
            hint="what was committed stays; see that no other program writes to it, then run the same command again",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (self.location, self.key, self.token)


class _Lease(Held):
    """A lease with the thread that renews it."""

    here: set[str] = set()
    """Tokens of this process, so that it does not wait for itself."""

    def __init__(self, location: Location, key: str, mine: Holder, *, began: float, conditional: bool) -> None:
        super().__init__(location, key, mine.token)
        self._mine, self._renewed, self._conditional = mine, began, conditional
        self._ended, self._renewing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def in_time(self) -> bool:
        return time.monotonic() - self._renewed < self._mine.lease_s

    def check(self) -> None:
        if not self.in_time:
            self.renew()
        super().check()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S):
            try:
                self.renew()
            except LockLostError as error:
                log.error("%s", error)  # noqa: TRY400 - what it says is all there is
                return
            except StoreError as error:
                log.warning("the lock could not be renewed: %s", error)

    def renew(self) -> None:
        """Write the lease anew if it is still there.

        Raises:
            LockLostError: it is not, or it ran out and the storage cannot tell whether it is still the same.
        """
        with self._renewing:
            began, stat = time.monotonic(), self.location.stat(self.key)
            super().check()
            if stat is None or not (self.in_time or self._conditional):
                raise self.lost(f"it could not be renewed for {self._mine.lease_s:g} seconds")
            self._mine = replace(self._mine, renewals=self._mine.renewals + 1, until=_until(self._mine.lease_s))
            data = self._mine.as_json().encode()
            if self._conditional:
                try:
                    self.location.replace(self.key, data, stamp=stat.stamp)
                except ObjectChangedError:
                    super().check()  # it may be this one, if the answer to a first request was lost
                except LocationError:
                    # What is refused at once, while the rest is answered, is the condition.
                    self._conditional = time.monotonic() - began > RENEW_S
                    raise
            else:
                self.location.write(self.key, data)
            self._renewed = began

    def end(self) -> None:
        """Stop renewing, and remove the lease if it is still there; else it runs out."""
        self._ended.set()
        self._thread.join(RENEW_S)
        with contextlib.suppress(StoreError):
            super().check()
            if self.in_time:
                self.location.delete([self.key])


@contextlib.contextmanager
def holding(location: Location, key: str) -> Iterator[Held]:
    """Hold a lease.

    Raises:
        StoreError: another program holds it and renews it.
    """
    mine = new_holder(LEASE_S)
    began = _take(location, key, mine)
    conditional = _has_conditions(location, key, mine)
    if not conditional:
        log.warning("%s: %s; do not start one", location, NO_CONDITIONS)
    # A folder can create on a condition, but not replace.
    conditional = conditional and not isinstance(location, Folder)
    lease = _Lease(location, key, mine, began=began, conditional=conditional)
    _Lease.here.add(mine.token)
    try:
        yield lease
    finally:
        _Lease.here.discard(mine.token)
        lease.end()


def _take(location: Location, key: str, mine: Holder) -> float:
    """Write a lease where there is none or one that ran out. Returns when that began, on the monotonic clock."""
    while True:
        began = time.monotonic()
        try:
            # The same bytes there already are those of a request whose answer was lost.
            location.create(key, mine.as_json().encode())
        except FileExistsError:
            pass
        else:
            return began
        stamp = wait_until_free(location, key)
        if stamp is None:
            continue
        began = time.monotonic()
        with contextlib.suppress(ObjectChangedError):
            location.replace(key, mine.as_json().encode(), stamp=stamp)
            # In a folder, two who wait may write at once: the later one has it.
            time.sleep(LOOK_S)
        there = read_holder(location, key)
        if there is None or there.token != mine.token:
            raise refused(location, there)
        log.warning("%s: took over the lock, which its holder no longer renewed", location)
        return began


def wait_until_free(location: Location, key: str) -> str | None:
    """Wait until a lease has run out. Returns the stamp of its object, None if there is no lease.

    Raises:
        StoreError: its holder lives, or it is no lease.
    """
    first, since = None, time.monotonic()
    while True:
        stat, there = location.stat(key), read_holder(location, key)
        if stat is None or there is None:
            return None
        if (first is not None and there != first) or not there.lease_s or there.token in _Lease.here:
            raise refused(location, there)
        wait_s = PATIENCE * there.lease_s
        if first is None:
            first = there
            log.warning(
                "%s: locked by %s; waiting up to %g s for a sign of life, else the lock is taken over",
                location,
                there.name,
                wait_s,
            )
        if time.monotonic() - since > wait_s:
            return stat.stamp
        time.sleep(min(LOOK_S, wait_s / 10))


def _has_conditions(location: Location, key: str, mine: Holder) -> bool:
    """Return whether a storage can create on a condition; try to create the lease again, which has to fail."""
    try:
        location.create(key, replace(mine, renewals=1).as_json().encode())
    except FileExistsError:
        return True
    return False


def has_conditional_writes(location: Location) -> bool:
    """Return whether a storage keeps a second writer out, tried with an object of its own that is deleted again."""
    mine = new_holder(LEASE_S)
    key = f"{mine.token}.try"
    try:
        location.create(key, mine.as_json().encode())
        return _has_conditions(location, key, mine)
    finally:
        location.delete([key])


def _until(lease_s: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=lease_s)).isoformat(timespec="seconds") if lease_s else ""
