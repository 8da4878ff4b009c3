"""Completes a store's pixel cache by a run: the same execution, progress and stop as with teachers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from extract.config import ExtractSection
from extract.worker.task import Made, RangeWorker
from store.corpus.image_source import ImageSource
from store.corpus.read_ahead import ReadAhead
from store.files import sweep_temporary
from store.format.commit import valid_receipt
from store.format.pairs import PairTable
from store.format.pixels import (
    PIXEL_SPEC_KEY,
    PIXELS,
    PixelReceipt,
    PixelSpec,
    pixel_receipt_key,
    register_pixels,
)
from store.format.promote import recover, replace_units
from store.format.records import read_store_info, require_present_format
from store.images.decode import MAX_PIXELS
from store.io.folder import Folder
from store.io.location import Location, locate
from store.io.lock import exclusive

from .dispatch import execute_here
from .plan import RangeWork
from .run import Execute, new_run_id, published, refuse_copy
from .run_spec import Job
from .tracker import Outcome, Tracker


@dataclass(kw_only=True, frozen=True, slots=True)
class PixelJob(Job):
    """Makes the small images of ranges."""

    spec: PixelSpec

    def build(self, *, on_step: Callable[[], object] = lambda: None) -> RangeWorker:
        """Return a worker that needs no teacher and no device."""
        from extract.worker.pixels import PixelWorker

        info = read_store_info(self.store)
        return PixelWorker(
            self.place(PIXELS),
            self.spec,
            info=info,
            pairs=PairTable(self.store, info),
            images=ReadAhead(ImageSource(self.corpus_root, allow=self.allow)),
            threads=self.settings.decode_threads,
            max_pixels=self.max_pixels,
            guard=self.guard,
            on_step=on_step,
        )

    def key(self, subject: str, range_id: int) -> str:  # noqa: ARG002 - there is one
        """Return the key of a range's receipt."""
        return pixel_receipt_key(range_id)

    def committed(self, subject: str, range_id: int) -> Made | None:
        """Return a range's receipt if its images are those of the spec and the present pairs."""
        info = read_store_info(self.store)
        digest = PairTable(self.store, info).digest(*info.bounds(range_id))
        return _committed(self.place(subject), range_id, self.spec, digest)


def _committed(place: Location, range_id: int, spec: PixelSpec, digest: str) -> PixelReceipt | None:
    key = pixel_receipt_key(range_id)
    return valid_receipt(place, key, PixelReceipt, spec_hash=spec.hash, digest=digest)


def make_pixels(
    store: str | os.PathLike[str] | Location,
    spec: PixelSpec,
    *,
    settings: ExtractSection | None = None,
    execute: Execute = execute_here,
    corpus_root: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    replace: bool = False,
) -> Outcome:
    """Complete a store's pixel cache. Kill it at any moment and run it again: committed ranges stay.

    Args:
        settings: the pipeline's ``extract``; the defaults if left out.
        corpus_root: where the images lie, if the corpus moved since it was indexed.
        allow: places beside it that single images may be read from.
        threads: threads of each worker that decode and encode; one per core of this machine if left out.
        max_pixels: largest width times height that is decoded.
        replace: replace images of another spec, once all new ones are there.

    Raises:
        SpecMismatchError: the store holds images of another spec, and ``replace`` is not given.
        CorpusError: the corpus is not where the store says, or was changed since it was indexed.
    """
    began, location = time.monotonic(), locate(store)
    refuse_copy(location)
    read_store_info(location)
    with exclusive(location) as lock:
        info = read_store_info(location)
        require_present_format(location, info)
        if isinstance(location, Folder):
            sweep_temporary(location.path / "pixels")
        recover(location, guard=lock.check)
        at = register_pixels(location, spec, replace=replace)
        pairs, place = PairTable(location, info), location.below(at)

        work = [
            RangeWork(range_id=one, teachers=(PIXELS,))
            for one in range(info.ranges)
            if _committed(place, one, spec, pairs.digest(*info.bounds(one))) is None
        ]
        outcome = Outcome(units=info.ranges, found=info.ranges - len(work))
        # One thread reads the table and commits, as one of torch's would; no card is needed.
        changes = {"device": "cpu", "threads_per_worker": 1, "decode_threads": threads or os.cpu_count() or 1}
        job = PixelJob(
            store=location,
            settings=(settings or ExtractSection()).model_copy(update=changes),
            max_pixels=max_pixels,
            corpus_root=str(corpus_root or info.corpus_root),
            allow=tuple(allow),
            run_id=new_run_id(),
            prefixes={PIXELS: at},
            lock=lock,
            spec=spec,
        )
        if work:
            # An image that cannot be kept is one that no teacher could read either; it ends nothing.
            tracker = Tracker(outcome, run_id=job.run_id, max_bad_fraction=1.0)
            with published(job, tracker, resolved=spec.model_dump_json(), began=began):
                execute(job, work, tracker)
        if at and outcome.found + outcome.done == outcome.units:
            replace_units(location, at, PIXEL_SPEC_KEY, guard=lock.check)
    outcome.seconds = time.monotonic() - began
    return outcome
