"""A run: own the store, plan, have every range with something missing done, report."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from extract.config import ExtractPipeline, ExtractSection, TeacherEntry
from extract.teacher_files.specs import teacher_spec
from store.config.pipeline_file import dump_resolved
from store.corpus.image_source import ImageSource
from store.errors import ConfigError, ExtractionError, LocationError, MMKDError
from store.files import sweep_temporary
from store.format.arrays import ZARR_FOLDER
from store.format.commit import register_teacher
from store.format.pairs import PairTable
from store.format.records import Receipt, Spec, read_store_info, readable_receipt, receipt_key
from store.io.folder import Folder
from store.io.location import Location, locate
from store.io.lock import exclusive

from .plan import Plan, RangeWork, plan
from .schedule import Failure, Limits, Schedule, Task
from .tracker import Outcome, Tracker, write_report

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger(__name__)

RAY_PACKAGE = "/_ray_pkg_"
"""Part of the path of what ``ray job submit --working-dir`` uploads."""

BROKEN_DEVICE = "CUDA error"
"""So torch begins to speak of a device that a process can use no more: whatever it were given next would fail too. That
memory ran out, which it survives, it says in other words."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Job:
    """Everything a worker process needs to begin; it crosses process borders.

    Attributes:
        store: where the store lies.
        entries, specs: of the teachers, by id.
        settings: the pipeline's extract section.
        max_pixels: width times height that is decoded.
        corpus_root: where the images lie.
        run_id: of this run.
    """

    store: Location
    entries: Mapping[str, TeacherEntry]
    specs: Mapping[str, Spec]
    settings: ExtractSection
    max_pixels: int
    corpus_root: str
    run_id: str


Execute = Callable[[Job, Sequence[RangeWork], Tracker], None]
"""Has every range done and tells the tracker of each range's receipts; here in this process, or on Ray."""


def run(
    pipeline: ExtractPipeline,
    *,
    execute: Execute,
    replace: Collection[str] = (),
    corpus_root: Path | None = None,
) -> Outcome:
    """Complete a store.

    Args:
        pipeline: which teachers over which store.
        execute: how ranges are done.
        replace: teachers whose stored features may be dropped if they are of another spec.
        corpus_root: where the images lie, if the corpus moved since it was indexed.

    Raises:
        ExtractionError: too large a share of the rows is bad.
        SpecMismatchError: the store holds features of other teachers.
    """
    began = time.monotonic()
    store = locate(pipeline.store.path)
    _refuse_copies(pipeline, store)
    info = read_store_info(store)
    specs = {
        name: teacher_spec(name, entry, stored_dtype=pipeline.store.dtype) for name, entry in pipeline.teachers.items()
    }
    with exclusive(store):
        if isinstance(store, Folder):
            for folder in (ZARR_FOLDER, "receipts", "specs", "runs"):
                sweep_temporary(store.path / folder)
        for name, spec in specs.items():
            register_teacher(store, spec, info=info, replace=name in replace)
        planned = plan(store, info=info, pairs=PairTable(store, rows=info.rows), specs=specs)
        planned.known.write(store)
        outcome = Outcome(units=planned.units, found=planned.committed)
        if planned.work:
            job = Job(
                store=store,
                entries=pipeline.teachers,
                specs=specs,
                settings=pipeline.extract,
                max_pixels=pipeline.max_pixels,
                corpus_root=str(corpus_root or info.corpus_root),
                run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            )
            try:
                _perform(job, planned, outcome, execute)
            finally:
                planned.known.write(store)
                outcome.seconds = time.monotonic() - began
                _leave_report(job, outcome, dump_resolved(pipeline))
    outcome.seconds = time.monotonic() - began
    return outcome


def _refuse_copies(pipeline: ExtractPipeline, store: Location) -> None:
    """See that nothing is looked for in the copy of a folder that a Ray job runs in.

    Raises:
        ConfigError: the store lies there, or a teacher that is not there.
    """
    places = {"store.path": store.uri} if RAY_PACKAGE in store.uri else {}
    places |= {
        f"teachers.{name}.folder": entry.folder
        for name, entry in pipeline.teachers.items()
        if RAY_PACKAGE in entry.folder and not Path(entry.folder).is_dir()
    }
    for key, place in places.items():
        raise ConfigError(
            f"{key}: {place} lies inside the copy of the working directory that Ray made, which goes with the job",
            hint='give the file by its full name, --config "$PWD/pipelines.yaml": relative paths start at its folder',
        )


def _perform(job: Job, planned: Plan, outcome: Outcome, execute: Execute) -> None:
    units = outcome.units - outcome.found
    log.info("extract: run %s, %d of %d units to do, %d ranges", job.run_id, units, outcome.units, len(planned.work))
    tracker = Tracker(
        outcome, run_id=job.run_id, max_bad_fraction=job.settings.max_bad_fraction, on_receipt=planned.known.add
    )
    with tracker.published(job.store, interval_s=job.settings.progress_interval_s):
        execute(job, planned.work, tracker)


def _leave_report(job: Job, outcome: Outcome, resolved: str) -> None:
    try:
        write_report(job.store, outcome, run_id=job.run_id, resolved=resolved)
    except MMKDError as error:  # units that are committed need no report
        log.warning("the run's report cannot be written: %s", error)


def build_worker(job: Job) -> Worker:
    """Load the teachers of a job into this process."""
    import torch

    from extract.teachers.loading import load_teacher

    from .worker import Worker

    # Pinned, because the number of threads decides the order of sums and with it the last bits of a feature.
    torch.set_num_threads(job.settings.threads_per_worker)
    info = read_store_info(job.store)
    return Worker(
        store=job.store,
        info=info,
        pairs=PairTable(job.store, rows=info.rows),
        images=ImageSource(job.corpus_root),
        teachers={
            name: load_teacher(spec, job.entries[name], device=job.settings.device) for name, spec in job.specs.items()
        },
        batch_size=job.settings.batch_size,
        decode_threads=job.settings.decode_threads,
        max_pixels=job.max_pixels,
        device=job.settings.device,
        run_id=job.run_id,
    )


def schedule_of(job: Job, work: Sequence[RangeWork]) -> Schedule:
    """Return the queue of a run."""
    settings, info = job.settings, read_store_info(job.store)
    limits = Limits(
        attempts=settings.attempts,
        stall_s=settings.stall_timeout_s,
        range_s=settings.range_timeout_s,
        max_killers=settings.max_killer_rows,
    )
    rows = {item.range_id: range(*info.bounds(item.range_id)) for item in work}
    return Schedule(work, rows=rows, limits=limits)


def execute_here(job: Job, work: Sequence[RangeWork], tracker: Tracker) -> None:
    """Do every range in this process, one after the other.

    There is no other process to watch this one: a row that kills or hangs it ends the run.

    Raises:
        ExtractionError: the device can be used no more.
    """
    worker, schedule, outcome = build_worker(job), schedule_of(job, work), tracker.outcome
    me = "this process"
    while not schedule.over:
        tracker.workers(ready=1, starting=0, busy=1)
        task = schedule.take(me, now=time.monotonic())
        if task is None:
            break
        try:
            receipts = worker.run(task.range_id, task.teachers, attempt=task.attempt)
        except MMKDError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            if BROKEN_DEVICE in why:
                raise ExtractionError(
                    f"range {task.range_id}: the device can be used no more by this process: {why}",
                    hint="run it again; if that ends here too, run it without --local: the row is found and left out",
                ) from error
            log_failure(schedule.failed(me, Failure.ERROR, why), why, attempts=job.settings.attempts)
            outcome.failed.update(schedule.given_up)
        else:
            schedule.done(me, now=time.monotonic())
            tracker.note(receipts)
        if tracker.stop_requested:
            schedule.stop()
    outcome.stopped = schedule.stopped


def committed_by_run(job: Job, task: Task) -> list[Receipt]:
    """Return the receipts of a task's units if this run committed all of them; none if not, or if that cannot be seen.

    A worker may be lost after its last commit and before its answer.
    """
    if task.probe is not None:
        return []
    receipts = []
    for name in task.teachers:
        try:
            receipt = readable_receipt(job.store, receipt_key(name, task.range_id))
        except LocationError:
            return []
        if receipt is None or receipt.run_id != job.run_id:
            return []
        receipts.append(receipt)
    return receipts


def log_failure(task: Task, why: str, *, attempts: int) -> None:
    """Say that a task failed."""
    if task.probe is not None:
        rows = f"rows {task.probe.start} to {task.probe.stop - 1}"
        log.warning("range %d: in search of the row that kills, a worker died of %s: %s", task.range_id, rows, why)
    else:
        log.warning("range %d failed, attempt %d of %d: %s", task.range_id, task.attempt, attempts, why)
