"""Doing a run's ranges in this process, without Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence

from store.errors import ExtractionError

from .dispatch import Dispatch
from .plan import RangeWork
from .run_spec import RunSpec, build_worker
from .schedule import Failure, failure_of
from .tracker import Tracker

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
