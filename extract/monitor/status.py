"""Says how far a store is and whether a run works on it, and asks that run to stop, all by the store alone.

It lists receipts and reads the run's last progress. That needs neither torch nor Ray nor the run's machine.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from extract.run.plan import listed_receipts
from extract.run.tracker import progress_key, stop_key
from store.check.quarantine import marked
from store.errors import StoreError
from store.format.records import Receipt, StoreInfo, read_store_info, readable_record, receipt_key
from store.io.location import Location
from store.io.lock import holder

log = logging.getLogger(__name__)

OLD_S = 90.0
"""A run writes its progress every few seconds; after so long a silence it is dead or cut off."""

POLL_S = 0.5
"""Seconds between two looks at a run that was asked to stop."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Progress:
    """A run's last ``runs/RUN_ID/progress.json``.

    Attributes:
        state: ``running``, ``finished``, ``failed`` or ``stopped``.
        age_s: seconds since it was written.
    """

    run_id: str
    state: str
    age_s: float
    content: Mapping[str, Any]

    @property
    def silent(self) -> bool:
        """Return whether it is ``running`` and was not written for long."""
        return self.state == "running" and self.age_s > OLD_S

    def holds(self, lock: str | None) -> bool:
        """Return whether a store's lock belongs to this run, not to a program that came after the run was killed."""
        mine = f"process {self.content.get('pid')} on {self.content.get('host')}"
        return lock is not None and lock.partition(",")[0] == mine


@dataclass(kw_only=True, frozen=True, slots=True)
class StoreStatus:
    """The progress of a store.

    Attributes:
        teachers: number of committed units by teacher.
        retries: number of units marked to be done again, by teacher.
        lock: the process that writes to the store now, if any.
        progress: the latest run's last progress, if any can be read.
    """

    store: str
    rows: int
    ranges: int
    teachers: Mapping[str, int]
    retries: Mapping[str, int]
    lock: str | None
    progress: Progress | None

    @property
    def units(self) -> int:
        """Number of units when all teachers are complete."""
        return self.ranges * len(self.teachers)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; docs/extraction.md describes them."""
        run = self.progress
        content = asdict(self) | {"units": self.units, "done": sum(self.teachers.values())}
        del content["progress"]
        said = {**run.content, "age_s": round(run.age_s, 1), "silent": run.silent} if run else None
        return content | {"run": said}


def read_status(store: Location) -> StoreStatus:
    """Return the progress of a store.

    Raises:
        StoreNotFoundError: no store is there.
    """
    info = read_store_info(store)
    keys = [key for key, _ in store.list("specs") if key.endswith(".json")]
    names = [key.removeprefix("specs/").removesuffix(".json") for key in keys]
    committed = Counter(name for name, _ in listed_receipts(store, info, names))
    return StoreStatus(
        store=str(store),
        rows=info.rows,
        ranges=info.ranges,
        teachers={name: committed[name] - _short(store, name, info) for name in names},
        retries=dict(Counter(name for name, _ in marked(store))),
        lock=holder(store),
        progress=latest_progress(store),
    )


def _short(store: Location, teacher: str, info: StoreInfo) -> int:
    """Return 1 if the last range's receipt is older than rows that were appended to the range, else 0."""
    if not info.ranges:
        return 0
    receipt = readable_record(store, receipt_key(teacher, info.ranges - 1), Receipt)
    return int(receipt is not None and receipt.stop < info.rows)


class _Told(BaseModel):
    """The numbers of a run's progress; anyone who writes to the store may have written them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    units: int = 0
    found: int = 0
    done: int = 0
    seconds_left: float | None = None
    rows_per_s: dict[str, float] | None = None
    actors: dict[str, int] | None = None
    bad_rows: dict[str, int] | None = None
    failed_ranges: dict[str, Any] | None = None


def latest_progress(store: Location) -> Progress | None:
    """Return the latest run's progress; a run's id begins with its start time."""
    runs = sorted(key for key, _ in store.list("runs") if key.endswith("/progress.json"))
    return read_progress(store, runs[-1].split("/")[1]) if runs else None


def read_progress(store: Location, run_id: str) -> Progress | None:
    """Return a run's last progress; None if it cannot be read."""
    try:
        content = json.loads(store.read(progress_key(run_id)))
        _Told.model_validate(content)
        updated = datetime.fromisoformat(content["updated"])
        age_s = (datetime.now(UTC) - updated).total_seconds()
        return Progress(run_id=run_id, state=str(content["state"]), age_s=age_s, content=content)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s: cannot be read: %s", store.show(progress_key(run_id)), error)
        return None


@dataclass(kw_only=True, frozen=True, slots=True)
class Stopped:
    """The result of a request to stop.

    Attributes:
        run_id: the run's id; None if no run ever wrote its progress.
        outcome: ``nothing``: no run was at work; ``dead``: it had died before; ``stopped``: it stopped; ``ended``: it
            finished meanwhile; ``silent``: it has not answered within the time.
        lock: the process that writes to the store now, if any.
    """

    run_id: str | None
    outcome: str
    seconds: float
    progress: Progress | None
    lock: str | None


def stop(store: Location, *, wait_s: float) -> Stopped:
    """Ask the run that works on a store to stop, and wait until it has. The run may be on another machine.

    Args:
        wait_s: longest time to wait. The request stays, so that a run which answers later stops too.

    Raises:
        StoreNotFoundError: no store is there.
        StoreError: a program that is no run writes to the store.
    """
    read_store_info(store)
    began = time.monotonic()
    run, lock = latest_progress(store), holder(store)
    if run is None or run.state != "running" or (lock is not None and not run.holds(lock)):
        if lock is not None:
            raise StoreError(
                f"{store}: {lock} writes to this store, but no run there says that it is running",
                hint="it is starting, planning, or another command; wait, or end that process",
            )
        return Stopped(run_id=run.run_id if run else None, outcome="nothing", seconds=0.0, progress=run, lock=None)
    if lock is None:
        return Stopped(run_id=run.run_id, outcome="dead", seconds=0.0, progress=run, lock=None)
    store.write(stop_key(run.run_id), f"{datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
    while True:
        now, lock = read_progress(store, run.run_id) or run, holder(store)
        if not run.holds(lock):  # another program may have come already
            lock = None
        waited = time.monotonic() - began
        # A driver writes its last progress before it lets go of the store.
        if lock is None and now.state == "running":
            now = read_progress(store, run.run_id) or now
        if lock is None:
            outcome = {"stopped": "stopped", "running": "dead"}.get(now.state, "ended")
            store.delete([stop_key(run.run_id)])
            return Stopped(run_id=run.run_id, outcome=outcome, seconds=waited, progress=now, lock=None)
        if waited >= wait_s:
            return Stopped(run_id=run.run_id, outcome="silent", seconds=waited, progress=now, lock=lock)
        time.sleep(POLL_S)
