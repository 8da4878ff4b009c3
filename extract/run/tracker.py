"""Counts a run's receipts, shows its progress, and writes it into the store, where other programs read it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from extract.worker.task import Made
from store.console import progress
from store.errors import ExtractionError, MMKDError, kind_of
from store.format.records import Receipt, Status
from store.format.stages import DEVICE_STAGES, WAITS, seconds_of_range
from store.io.location import Location

log = logging.getLogger(__name__)

State = Literal["running", "finished", "failed", "stopped"]

MIN_ROWS_FOR_BAD_FRACTION = 100
"""The share of bad rows can end a run only after so many rows; the first few rows of a good corpus may be bad."""

REASONS_TOLD = 20
"""Most reasons of bad rows in a run's progress; every bad row may have another reason."""

LAST_WRITE_S = 5.0
"""At its end a run waits at least so long for a write of its progress that is under way."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """The results of a run.

    Attributes:
        units: number of units in the complete store.
        found: units that were committed before the run.
        done: units committed by the run.
        failed: the last error of each range that was given up.
        bad_rows: number of rows without feature in the run's units, by reason.
        changed_images: rows of the run's ranges whose image has more than 8 bits, by what was done to it.
        rows_seen: rows of the run's units that could have features.
        workers: most workers that were ready at one time.
    """

    units: int
    found: int
    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    bad_rows: Counter[str] = field(default_factory=Counter)
    changed_images: Counter[str] = field(default_factory=Counter)
    rows_seen: int = 0
    seconds: float = 0.0
    workers: int = 0
    stopped: bool = False


class Tracker:
    """Counts committed units and reports progress.

    Args:
        max_bad_fraction: `note` ends the run if a larger share of rows is bad.
        on_receipt: called with every receipt of a teacher.
    """

    def __init__(
        self,
        outcome: Outcome,
        *,
        run_id: str,
        max_bad_fraction: float,
        on_receipt: Callable[[Receipt], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outcome, self.run_id = outcome, run_id
        self._max_bad_fraction, self._on_receipt, self._clock = max_bad_fraction, on_receipt, clock
        self._started, self._working_since = datetime.now(UTC), clock()
        self._rows: Counter[str] = Counter()
        self._stage_seconds: defaultdict[str, float] = defaultdict(float)
        self._actors = {"ready": 0, "starting": 0, "busy": 0, "waiting": 0}
        self._stop = threading.Event()
        self._shown = 0

    @property
    def stop_requested(self) -> bool:
        """Return whether no further range is to be begun."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Begin no other range, and drop those at work that are not being committed."""
        self._stop.set()

    def note(self, receipts: Sequence[Made]) -> None:
        """Count the receipts of one range.

        Raises:
            ExtractionError: too large a share of the rows is bad.
        """
        self.outcome.done += len(receipts)
        for receipt in receipts:
            if self._on_receipt and isinstance(receipt, Receipt):
                self._on_receipt(receipt)
            rows = receipt.stop - receipt.start - receipt.status_counts.get("not_applicable", 0)
            self.outcome.rows_seen += rows
            self._rows[receipt.subject] += rows
            for bad in receipt.bad_rows:
                self.outcome.bad_rows[f"{Status(bad.status).name.lower()}: {kind_of(bad.reason)}"] += 1
        # The teachers of a range see the same images.
        changed = (one.changed_images for one in receipts if isinstance(one, Receipt) and one.changed_images)
        self.outcome.changed_images.update(next(changed, {}))
        for stage, seconds in seconds_of_range(receipts).items():
            self._stage_seconds[stage] += seconds
        self._check_bad_fraction()

    def workers(self, *, ready: int, starting: int, busy: int, waiting: int = 0) -> None:
        """Note how many workers there are; ``ready`` includes ``busy``, and those that wait have no place yet."""
        if ready and not self.outcome.workers:
            self._working_since = self._clock()
        self.outcome.workers = max(self.outcome.workers, ready)
        self._actors = {"ready": ready, "starting": starting, "busy": busy, "waiting": waiting}

    def record(self, state: State) -> dict[str, Any]:
        """Return ``progress.json``; docs/cluster.md describes it."""
        outcome, now = self.outcome, datetime.now(UTC)
        seconds = max(self._clock() - self._working_since, 1e-9)
        left = outcome.units - outcome.found - outcome.done
        # Copies, here and below: the run counts while the publishing thread reads.
        bad_rows = outcome.bad_rows.copy()
        reasons = dict(bad_rows.most_common(REASONS_TOLD))
        untold = bad_rows.total() - sum(reasons.values())
        return {
            "run_id": self.run_id,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._started.isoformat(timespec="seconds"),
            "updated": now.isoformat(timespec="milliseconds"),
            "state": state,
            "units": outcome.units,
            "found": outcome.found,
            "done": outcome.done,
            "failed_ranges": {str(range_id): error for range_id, error in list(outcome.failed.items())},
            "bad_rows": reasons | ({"other reasons": untold} if untold else {}),
            "rows_per_s": {name: round(rows / seconds, 2) for name, rows in sorted(self._rows.copy().items())},
            "seconds_left": round(left * seconds / outcome.done, 1) if outcome.done else None,
            "actors": self._actors,
            "stage_seconds": {stage: round(value, 3) for stage, value in sorted(self._stage_seconds.copy().items())},
        }

    def details(self) -> str:
        """Return the part of a progress line after the number of units."""
        said = self.record("running")
        total = sum(self._stage_seconds.get(stage, 0.0) for stage in DEVICE_STAGES)
        rates = said["rows_per_s"]
        parts = ["rows/s: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())] if rates else []
        if total:
            teachers = sum(self._stage_seconds.get(stage, 0.0) for stage in ("forward_image", "forward_text"))
            waiting = sum(self._stage_seconds.get(stage, 0.0) for stage in WAITS)
            parts.append(f"the teachers work {teachers / total:.0%} and wait {waiting / total:.0%} of the time")
        parts.append(f"{self.outcome.bad_rows.total()} bad rows")
        parts.append("workers: " + ", ".join(f"{count} {name}" for name, count in self._actors.items()))
        return "; ".join(parts)

    @contextlib.contextmanager
    def published(self, store: Location, *, interval_s: float) -> Iterator[None]:
        """Show the run's progress, write it into the store, and look there for a request to stop, until the run ends.

        If the store cannot be written for a while, only the next commit fails.
        """
        ended = threading.Event()

        def write(state: State) -> None:
            try:
                store.write(progress_key(self.run_id), json.dumps(self.record(state), indent=1).encode())
            except MMKDError as error:
                log.warning("the run's progress cannot be written: %s", error)

        def publish(advance: Callable[[int], None]) -> None:
            while True:
                self._look_for_stop(store)
                write("running")
                if ended.wait(interval_s):
                    return
                self._show(advance)

        todo = self.outcome.units - self.outcome.found
        with progress(todo, label="extract", noun="units", details=self.details) as advance:
            thread = threading.Thread(target=publish, args=(advance,), daemon=True)
            thread.start()
            state: State = "failed"
            try:
                yield
                state = "stopped" if self.outcome.stopped else "finished"
            except KeyboardInterrupt:
                state = "stopped"
                raise
            finally:
                ended.set()
                # Bounded, because an unreachable storage blocks the thread for minutes. Without the wait the thread
                # could overwrite the last progress with an older one.
                thread.join(max(interval_s, LAST_WRITE_S))
                self._show(advance)
                write(state)

    def _show(self, advance: Callable[[int], None]) -> None:
        done = self.outcome.done
        advance(done - self._shown)
        self._shown = done

    def _look_for_stop(self, store: Location) -> None:
        with contextlib.suppress(MMKDError):
            if store.exists(stop_key(self.run_id)):
                self.stop()

    def _check_bad_fraction(self) -> None:
        bad, seen, limit = self.outcome.bad_rows.total(), self.outcome.rows_seen, self._max_bad_fraction
        if seen >= MIN_ROWS_FOR_BAD_FRACTION and bad > limit * seen:
            reasons = "\n".join(f"  {count} x {reason}" for reason, count in self.outcome.bad_rows.most_common(3))
            raise ExtractionError(
                f"{bad} of {seen} feature pairs are bad, more than extract.max_bad_fraction = {limit} allows; "
                f"most often:\n{reasons}",
                hint="what is committed stays; index a repaired corpus into a new store, or raise the bound with "
                "--set extract.max_bad_fraction=...",
            )


def write_report(store: Location, outcome: Outcome, *, run_id: str, resolved: str) -> None:
    """Write a run's outcome and its whole configuration into the store, if that can be written."""
    # asdict() would count a Counter's items instead of copying it.
    counts = {"bad_rows": dict(outcome.bad_rows), "changed_images": dict(outcome.changed_images)}
    report = asdict(outcome) | counts
    report |= {"run_id": run_id, "pipeline": json.loads(resolved)}
    try:
        store.write(f"runs/{run_id}/report.json", json.dumps(report, indent=1).encode())
    except MMKDError as error:  # committed units need no report
        log.warning("the run's report cannot be written: %s", error)


def progress_key(run_id: str) -> str:
    """Return the key of a run's progress."""
    return f"runs/{run_id}/progress.json"


def stop_key(run_id: str) -> str:
    """Return the key of the object that asks a run to stop."""
    return f"runs/{run_id}/stop"
