"""Does a run's ranges in this process, and handles the end of a task for this driver and the one on Ray.

The schedule decides; `Dispatch` reads receipts, logs, and counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from store.errors import ExtractionError, LocationError
from store.format.commit import promoted
from store.format.records import Receipt, read_store_info, readable_record, receipt_key

from .plan import RangeWork
from .run_spec import RunSpec, build_worker
from .schedule import Failure, Schedule, Task, failure_of
from .tracker import Tracker

log = logging.getLogger(__name__)


class Dispatch:
    """A run's ranges and their results.

    Args:
        on_receipts: also gets the receipts of each range.

    Attributes:
        schedule: tasks are taken from it.
    """

    def __init__(
        self,
        spec: RunSpec,
        work: Sequence[RangeWork],
        tracker: Tracker,
        *,
        on_receipts: Callable[[Sequence[Receipt]], object] = lambda _receipts: None,
    ) -> None:
        self._spec, self._tracker, self._on_receipts = spec, tracker, on_receipts
        info = read_store_info(spec.store)
        rows = {item.range_id: range(*info.bounds(item.range_id)) for item in work}
        self.schedule = Schedule(work, rows=rows, settings=spec.settings)

    def done(self, worker: str, receipts: Sequence[Receipt], *, now: float) -> None:
        """Put a task's units where readers find them, and count it."""
        try:
            receipts = [self._promoted(receipt) for receipt in receipts]
        except LocationError as error:
            self._fail(worker, Failure.ERROR, str(error))
            return
        self.schedule.done(worker, now=now)
        self._on_receipts(receipts)
        self._tracker.note(receipts)

    def failed(self, worker: str, failure: Failure, why: str, *, now: float) -> None:
        """Have a worker's task tried again, searched for killer rows, or given up, unless all of it was committed."""
        task = self.schedule.task_of(worker)
        if receipts := committed_by_run(self._spec, task):
            log.info("range %d: all of it was committed, then: %s", task.range_id, why)
            self.done(worker, receipts, now=now)
            return
        self._fail(worker, failure, why)

    def _promoted(self, receipt: Receipt) -> Receipt:
        key = receipt_key(receipt.teacher, receipt.range)
        return promoted(self._spec.place(receipt.teacher), receipt, key, guard=self._spec.guard)

    def _fail(self, worker: str, failure: Failure, why: str) -> None:
        task, attempts = self.schedule.task_of(worker), self._spec.settings.attempts
        self.schedule.failed(worker, failure, why)
        self._tracker.outcome.failed.update(self.schedule.given_up)
        if task.probe is None:
            log.warning("range %d failed, attempt %d of %d: %s", task.range_id, task.attempt, attempts, why)
        else:
            rows = f"rows {task.probe.start} to {task.probe.stop - 1}"
            log.warning("range %d: in search of the row that kills, a worker died of %s: %s", task.range_id, rows, why)

    def look_for_stop(self) -> None:
        """Begin nothing more if the run was asked to stop."""
        if self._tracker.stop_requested:
            self.schedule.stop()
        self._tracker.outcome.stopped = self.schedule.stopped


def committed_by_run(spec: RunSpec, task: Task) -> list[Receipt]:
    """Return the receipts of a task's units if this run committed all of them; none if not, or if the store is away.

    A worker may be lost after its last commit and before its answer.
    """
    if task.probe is not None:
        return []
    try:
        found = [readable_record(spec.place(name), receipt_key(name, task.range_id), Receipt) for name in task.teachers]
    except LocationError:
        return []
    receipts = [receipt for receipt in found if receipt and receipt.run_id == spec.run_id]
    return receipts if len(receipts) == len(task.teachers) else []


ME = "this process"


def execute_here(spec: RunSpec, work: Sequence[RangeWork], tracker: Tracker) -> None:
    """Do every range in this process, one after the other.

    No other process watches this one: a row that kills or hangs it ends the run.

    Raises:
        ExtractionError: this process can no longer use the device.
    """
    worker, dispatch = build_worker(spec), Dispatch(spec, work, tracker)
    tracker.workers(ready=1, starting=0, busy=1)
    while (task := dispatch.schedule.take(ME, now=time.monotonic())) is not None:
        try:
            receipts = worker.run(task.range_id, task.teachers, attempt=task.attempt)
        except Exception as error:
            failure, why = failure_of(error)
            if failure is Failure.CRASH:
                raise ExtractionError(
                    f"range {task.range_id}: this process can no longer use the device: {why}",
                    hint="run it again; if that ends here too, run it without --local: the row is found and left out",
                ) from error
            dispatch.failed(ME, failure, why, now=time.monotonic())
        else:
            dispatch.done(ME, receipts, now=time.monotonic())
        dispatch.look_for_stop()
