"""A run: own the store, plan, have every range with something missing done, report."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from store.arrays import ZARR_FOLDER
from store.commit import register_teacher
from store.config import dump_resolved
from store.console import progress
from store.errors import ConfigError, ExtractionError, MMKDError
from store.files import sweep_temporary
from store.image_source import ImageSource
from store.location import Folder, Location, locate
from store.lock import exclusive
from store.pairs import PairTable
from store.records import Receipt, Spec, Status, read_store_info

from .config import ExtractPipeline, ExtractSection, TeacherEntry
from .plan import RangeWork, plan
from .specs import teacher_spec

if TYPE_CHECKING:
    from .worker import Worker

log = logging.getLogger(__name__)

RAY_PACKAGE = "/_ray_pkg_"
"""Part of the path of what ``ray job submit --working-dir`` uploads."""

MIN_ROWS_FOR_BAD_FRACTION = 100
"""Rows seen before the share of bad ones can end a run: the first few rows of a good corpus may be its bad ones."""


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


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a run did.

    Attributes:
        units: (range, teacher) pairs of the whole store.
        found: units that were committed before.
        done: units committed by this run.
        failed: ranges given up, with the last error.
        bad_rows: rows without feature in what this run did, by reason.
        seconds: wall time.
    """

    units: int
    found: int
    done: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    bad_rows: Counter[str] = field(default_factory=Counter)
    rows_seen: int = 0
    seconds: float = 0.0


Execute = Callable[[Job, Sequence[RangeWork], Outcome, Callable[[list[Receipt]], None]], None]
"""Has every range done, and tells of each range's receipts; here in this process, or on Ray."""


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
    if RAY_PACKAGE in store.uri:
        raise ConfigError(
            f"store.path: {store} lies inside the copy of the working directory that Ray made, which goes with the job",
            hint='give the file by its full name, --config "$PWD/pipelines.yaml": relative paths start at its folder',
        )
    info = read_store_info(store)
    specs = {
        name: teacher_spec(name, entry, stored_dtype=pipeline.store.dtype) for name, entry in pipeline.teachers.items()
    }
    with exclusive(store):
        if isinstance(store, Folder):
            for folder in (ZARR_FOLDER, "receipts", "specs"):
                sweep_temporary(store.path / folder)
        for name, spec in specs.items():
            register_teacher(store, spec, info=info, replace=name in replace)
        planned = plan(store, info=info, pairs=PairTable(store, rows=info.rows), specs=specs)
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
            _perform(job, planned.work, outcome, execute)
            outcome.seconds = time.monotonic() - began
            _write_report(job, outcome, dump_resolved(pipeline))
    outcome.seconds = time.monotonic() - began
    return outcome


def _perform(job: Job, work: Sequence[RangeWork], outcome: Outcome, execute: Execute) -> None:
    units = outcome.units - outcome.found
    log.info("extract: %d of %d units to do, %d ranges", units, outcome.units, len(work))
    with progress(units, label="extract", noun="units") as advance:

        def note(receipts: list[Receipt]) -> None:
            advance(len(receipts))
            _count(receipts, outcome)
            _check_bad_fraction(outcome, limit=job.settings.max_bad_fraction)

        execute(job, work, outcome, note)


def _count(receipts: list[Receipt], outcome: Outcome) -> None:
    outcome.done += len(receipts)
    for receipt in receipts:
        outcome.rows_seen += receipt.stop - receipt.start - receipt.status_counts.get("not_applicable", 0)
        for bad in receipt.bad_rows:
            outcome.bad_rows[f"{Status(bad.status).name.lower()}: {bad.reason}"] += 1


def _check_bad_fraction(outcome: Outcome, *, limit: float) -> None:
    bad, seen = outcome.bad_rows.total(), outcome.rows_seen
    if seen >= MIN_ROWS_FOR_BAD_FRACTION and bad > limit * seen:
        reasons = "\n".join(f"  {count} x {reason}" for reason, count in outcome.bad_rows.most_common(3))
        raise ExtractionError(
            f"{bad} of {seen} feature pairs are bad, more than extract.max_bad_fraction = {limit} allows; "
            f"most often:\n{reasons}",
            hint="what is committed stays; index a mended corpus into a new store, or raise the bound with "
            "--set extract.max_bad_fraction=...",
        )


def _write_report(job: Job, outcome: Outcome, resolved: str) -> None:
    # asdict() would count a Counter's items instead of copying it, and JSON has no pairs as keys.
    report = asdict(outcome) | {"bad_rows": dict(outcome.bad_rows)}
    report |= {"run_id": job.run_id, "pipeline": json.loads(resolved)}
    job.store.write(f"runs/{job.run_id}/report.json", json.dumps(report, indent=1).encode())


def build_worker(job: Job) -> Worker:
    """Load the teachers of a job into this process."""
    import torch

    from .teacher import load_teacher
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


def execute_here(job: Job, work: Sequence[RangeWork], outcome: Outcome, note: Callable[[list[Receipt]], None]) -> None:
    """Do every range in this process, one after the other."""
    worker = build_worker(job)
    for item in work:
        for attempt in range(1, job.settings.attempts + 1):
            try:
                receipts = worker.run(item.range_id, item.teachers, attempt=attempt)
            except MMKDError:
                raise
            except Exception as error:  # noqa: BLE001 - one range must not end the run; it is retried, then reported
                record_failure(outcome, item, error, attempt=attempt, attempts=job.settings.attempts)
            else:
                note(receipts)
                break


def record_failure(outcome: Outcome, item: RangeWork, error: Exception, *, attempt: int, attempts: int) -> bool:
    """Log that a range failed; give it up after the last attempt. Returns whether to try again."""
    log.warning(
        "range %d failed, attempt %d of %d: %s: %s", item.range_id, attempt, attempts, type(error).__name__, error
    )
    if attempt < attempts:
        return True
    outcome.failed[item.range_id] = f"{type(error).__name__}: {error}"
    return False
