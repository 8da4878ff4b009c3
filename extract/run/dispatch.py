"""Does a run's ranges in this process, and handles the end of a task for this driver and the one on Ray.

The schedule decides; `Dispatch` reads receipts, logs, and counts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from extract.worker.task import Made, Task, TaskDroppedError
from store.errors import ExtractionError, LocationError
from store.format.commit import promoted
from store.format.records import read_store_info

from .plan import RangeWork
from .run_spec import Job
from .schedule import Failure, Schedule, failure_of
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
        job: Job,
        work: Sequence[RangeWork],
        tracker: Tracker,
        *,
        on_receipts: Callable[[Sequence[Made]], object] = lambda _receipts: None,
    ) -> None:
        self._job, self._tracker, self._on_receipts = job, tracker, on_receipts
        info = read_store_info(job.store)
        rows = {item.range_id: range(*info.bounds(item.range_id)) for item in work}
        self.schedule = Schedule(work, rows=rows, settings=job.settings)

    def done(self, task: Task, receipts: Sequence[Made], *, now: float) -> None:
        """Put a task's units where readers find them, and count it."""
        try:
            receipts = [self._promoted(receipt) for receipt in receipts]
        except LocationError as error:
            self._failed(task, str(error), now=now)
            return
        self.schedule.done(task, now=now)
        self._tracker.outcome.failed.update(self.schedule.given_up)
        self._on_receipts(receipts)
        self._tracker.note(receipts)

    def failed(self, task: Task, error: BaseException, *, now: float) -> None:
        """Have a task tried again or given up, unless all of it was committed; one that was dropped waits again.

        Raises:
            MMKDError: the error is the user's mistake.
        """
        if isinstance(error, TaskDroppedError):
            self.schedule.give_back(task, now=now)
            return
        _, why = failure_of(error)
        if not self._done_anyhow(task, why, now=now):
            self._failed(task, why, now=now)

    def lost(self, worker: str, failure: Failure, why: str, *, now: float) -> None:
        """Have the tasks of a worker that is gone tried again, searched, or given up, unless they were committed."""
        for task in self.schedule.tasks_of(worker):
            self._done_anyhow(task, why, now=now)
        tasks = self.schedule.tasks_of(worker)
        self.schedule.lost(worker, failure, why)
        self._tell(tasks, why)

    def _promoted(self, receipt: Made) -> Made:
        key = self._job.key(receipt.subject, receipt.range)
        return promoted(self._job.place(receipt.subject), receipt, key, guard=self._job.guard)

    def _done_anyhow(self, task: Task, why: str, *, now: float) -> bool:
        receipts = committed_by_run(self._job, task)
        if receipts:
            log.info("range %d: all of it was committed, then: %s", task.range_id, why)
            self.done(task, receipts, now=now)
        return bool(receipts)

    def _failed(self, task: Task, why: str, *, now: float) -> None:
        self.schedule.failed(task, why, now=now)
        self._tell([task], why)

    def _tell(self, tasks: Sequence[Task], why: str) -> None:
        self._tracker.outcome.failed.update(self.schedule.given_up)
        for task in tasks:
            if task.probe is None:
                log.warning("range %d failed, attempt %d: %s", task.range_id, task.attempt, why)
            else:
                rows = f"rows {task.probe.start} to {task.probe.stop - 1}"
                log.warning(
                    "range %d: in search of the row that kills, a worker died of %s: %s", task.range_id, rows, why
                )

    def look_for_stop(self) -> None:
        """Begin nothing more if the run was asked to stop."""
        if self._tracker.stop_requested:
            self.schedule.stop()
        self._tracker.outcome.stopped = self.schedule.stopped


def committed_by_run(job: Job, task: Task) -> list[Made]:
    """Return the receipts of a task's units if this run committed all of them; none if not, or if the store is away.

    A worker may be lost after its last commit and before its answer.
    """
    if task.probe is not None:
        return []
    try:
        found = [job.committed(name, task.range_id) for name in task.teachers]
    except LocationError:
        return []
    receipts = [receipt for receipt in found if receipt]
    return receipts if len(receipts) == len(task.teachers) else []


ME = "this process"

LOOK_S = 0.5
"""Time between two looks for a request to stop."""


def execute_here(job: Job, work: Sequence[RangeWork], tracker: Tracker) -> None:
    """Do every range in this process.

    No other process watches this one: a row that kills or hangs it ends the run.

    Raises:
        ExtractionError: this process can no longer use the device.
    """
    dispatch = Dispatch(job, work, tracker)
    at_work: dict[Future[list[Made]], Task] = {}
    with job.build() as worker:
        tracker.workers(ready=1, starting=0, busy=1)
        while not dispatch.schedule.over:
            dispatch.look_for_stop()
            if dispatch.schedule.stopping:
                worker.drop()
            while (task := dispatch.schedule.take(ME, now=time.monotonic())) is not None:
                at_work[worker.submit(task)] = task
            ended = wait(at_work, timeout=LOOK_S, return_when=FIRST_COMPLETED).done
            for future in [future for future in at_work if future in ended]:  # in order: the first error is the cause
                task = at_work.pop(future)
                if (error := future.exception()) is None:
                    dispatch.done(task, future.result(), now=time.monotonic())
                elif isinstance(error, TaskDroppedError) or failure_of(error)[0] is not Failure.CRASH:
                    dispatch.failed(task, error, now=time.monotonic())
                else:
                    _finish(dispatch, at_work)
                    raise _broken_device(task, error)
        dispatch.look_for_stop()


def _finish(dispatch: Dispatch, at_work: dict[Future[list[Made]], Task]) -> None:
    """Count what was on its way to a commit when the device broke."""
    for future, task in at_work.items():
        if future.exception() is None:
            dispatch.done(task, future.result(), now=time.monotonic())


def _broken_device(task: Task, error: BaseException) -> ExtractionError:
    failed = ExtractionError(
        f"range {task.range_id}: this process can no longer use the device: {failure_of(error)[1]}",
        hint="run it again; if that ends here too, run it without --local: the row is found and left out",
    )
    failed.__cause__ = error
    return failed
