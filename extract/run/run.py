"""A run: lock the store, plan, have every range done that lacks something, write the report."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from extract.config import ExtractPipeline
from extract.teacher_files.specs import teacher_spec
from store.config.pipeline_file import dump_resolved
from store.errors import ConfigError
from store.files import sweep_temporary
from store.format.arrays import ZARR_FOLDER
from store.format.commit import register_teacher, valid_receipt
from store.format.pairs import PairTable
from store.format.promote import Guard, recover, replace_units
from store.format.records import (
    Receipt,
    Spec,
    StoreInfo,
    read_store_info,
    receipt_key,
    require_present_format,
    spec_key,
)
from store.io.folder import Folder
from store.io.location import Location, locate
from store.io.lock import exclusive

from .plan import RangeWork, plan
from .run_spec import Job, RunSpec
from .tracker import Outcome, Tracker, write_report

log = logging.getLogger(__name__)

RAY_PACKAGE = "/_ray_pkg_"
"""Part of the path of what ``ray job submit --working-dir`` uploads."""

Execute = Callable[[Job, Sequence[RangeWork], Tracker], None]
"""Has every range done and gives the tracker each range's receipts: in this process, or on Ray."""


def run(
    pipeline: ExtractPipeline, *, execute: Execute, replace: Collection[str] = (), corpus_root: Path | None = None
) -> Outcome:
    """Complete a store.

    Args:
        replace: teachers whose stored features are replaced if they have another spec, once all new ones are there.

    Raises:
        ExtractionError: too large a share of the rows is bad.
        SpecMismatchError: the store holds features of other teachers.
    """
    began = time.monotonic()
    store = locate(pipeline.store.path)
    refuse_copy(store)
    _refuse_copied_teachers(pipeline)
    info = read_store_info(store)
    specs = {
        name: teacher_spec(name, entry, stored_dtype=pipeline.store.dtype, window=pipeline.image.bounds)
        for name, entry in pipeline.teachers.items()
    }
    with exclusive(store) as lock:
        # Read again: another writer may have appended rows before this one had the lock.
        info = read_store_info(store)
        require_present_format(store, info)
        if isinstance(store, Folder):
            for folder in (ZARR_FOLDER, "receipts", "specs", "runs"):
                sweep_temporary(store.path / folder)
        recover(store, guard=lock.check)
        prefixes = {
            name: register_teacher(store, spec, info=info, replace=name in replace) for name, spec in specs.items()
        }
        pairs = PairTable(store, info)
        planned = plan(store, info=info, pairs=pairs, specs=specs, prefixes=prefixes)
        planned.known.write(store)
        outcome = Outcome(units=planned.units, found=planned.committed)
        if planned.work:
            run_spec = RunSpec(
                store=store,
                entries=pipeline.teachers,
                specs=specs,
                settings=pipeline.extract,
                max_pixels=pipeline.max_pixels,
                corpus_root=str(corpus_root or info.corpus_root),
                allow=pipeline.readable(),
                prefixes=prefixes,
                lock=lock,
                run_id=new_run_id(),
            )
            counts = (outcome.units - outcome.found, outcome.units, len(planned.work))
            log.info("extract: run %s, %d of %d units to do, %d ranges", run_spec.run_id, *counts)
            limit = pipeline.extract.max_bad_fraction
            tracker = Tracker(outcome, run_id=run_spec.run_id, max_bad_fraction=limit, on_receipt=planned.known.add)
            try:
                with published(run_spec, tracker, resolved=dump_resolved(pipeline), began=began):
                    execute(run_spec, planned.work, tracker)
            finally:
                planned.known.write(store)
        for name, at in prefixes.items():
            if at:
                _replace(store, specs[name], at, info=info, pairs=pairs, guard=lock.check)
    outcome.seconds = time.monotonic() - began
    return outcome


def new_run_id() -> str:
    """Return an id that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@contextlib.contextmanager
def published(job: Job, tracker: Tracker, *, resolved: str, began: float) -> Iterator[None]:
    """Show and write a run's progress, and its report at the end.

    Args:
        resolved: the whole configuration, as JSON.
        began: when the run began, by the monotonic clock.
    """
    try:
        with tracker.published(job.store, interval_s=job.settings.progress_interval_s):
            yield
    finally:
        tracker.outcome.seconds = time.monotonic() - began
        write_report(job.store, tracker.outcome, run_id=job.run_id, resolved=resolved)


def _replace(store: Location, spec: Spec, at: str, *, info: StoreInfo, pairs: PairTable, guard: Guard) -> None:
    """Let a teacher's new model take the place of the old one if all its ranges are there."""
    place, missing = store.below(at), 0
    for range_id in range(info.ranges):
        key, digest = receipt_key(spec.teacher, range_id), pairs.digest(*info.bounds(range_id))
        missing += valid_receipt(place, key, Receipt, spec_hash=spec.hash, digest=digest) is None
    if missing:
        counts = (spec.teacher, info.ranges - missing, info.ranges)
        log.warning("%s: %d of %d ranges of the new model are there; readers see the old one until all are", *counts)
        return
    replace_units(store, at, spec_key(spec.teacher), guard=guard)
    log.info("%s: the new model has replaced the old one", spec.teacher)


def refuse_copy(store: Location) -> None:
    """Refuse a store in the copy of a folder that a Ray job runs in."""
    if RAY_PACKAGE in store.uri:
        raise _copied("store.path", store.uri)


def _refuse_copied_teachers(pipeline: ExtractPipeline) -> None:
    for name, entry in pipeline.teachers.items():
        if RAY_PACKAGE in entry.folder and not Path(entry.folder).is_dir():
            raise _copied(f"teachers.{name}.folder", entry.folder)


def _copied(key: str, place: str) -> ConfigError:
    return ConfigError(
        f"{key}: {place} lies inside the copy of the working directory that Ray made, which goes with the job",
        hint='give the file by its full name, --config "$PWD/pipelines.yaml": relative paths start at its folder',
    )
