"""From pairs to a folder with a trained model: what both stages have in common."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from store.config.pipeline_file import Section, dump_resolved
from store.errors import CorpusError
from store.read.reader import FeatureStore
from train.config import ModelSection, Optimization, ValidationSection
from train.data.batch_order import BatchOrder, lanes_of
from train.data.batches import Stream
from train.data.captions import Captions
from train.data.feeds import Epochs, FixedFeed, GrowingFeed, Ranges
from train.data.image_loader import ImageLoader, RowImages, View
from train.data.rank_share import StepOrder
from train.data.store_rows import committed_ranges, in_split, to_train_on, usable
from train.data.target_reader import TargetReader
from train.models.model_folder import Student, begin_model, save_weights
from train.recipes.choose import ObjectiveMaker
from train.runtime.checkpoint import Checkpoints, State
from train.runtime.ranks import Ranks
from train.runtime.run_folder import CHECKPOINTS, appearing

from .trainer import Feed, fit
from .validation import Validation, evenly, held_out, require_pairs

log = logging.getLogger(__name__)

COLUMNS = ["uri", "member", "caption", "split", "image_sha256"]
"""Of the pair table, what training reads."""

OPERATION = ("checkpoint_every", "checkpoints_kept", "image_workers", "tensorboard")
"""Settings of ``optimization`` that say how a run is gone about; the result is the same."""

RowsOf = Callable[[FeatureStore], npt.NDArray[np.int64]]
"""The rows to train on of a store as it is at some time."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Job:
    """What is trained, and on what.

    Attributes:
        name: of the run.
        out: its folder.
        identity: everything that decides its result, as JSON values.
        model: what is trained.
        settings: how.
        validation: which pairs are looked at.
        table: the pair table, with COLUMNS.
        images: of its rows.
        rows: to train on, by availability and split; held-out images are still among them.
        block_rows: rows of a chunk that is read at once.
        window_blocks: chunks whose rows are mixed.
        shuffle: whether pairs come in another order in each epoch.
        max_pixels: width times height that is decoded.
        objective: makes what is minimized.
        targets: makes the reader of what teachers say.
        store: None for a corpus.
        rows_of: rows to train on of the store as of some time; None for a corpus.
        grows: whether the store is not complete yet.
        can_validate: rows whose images are there, if not all.
    """

    name: str
    out: Path
    identity: dict[str, Any]
    model: ModelSection
    settings: Optimization
    validation: ValidationSection
    table: pa.Table
    images: RowImages
    rows: npt.NDArray[np.int64]
    block_rows: int
    window_blocks: int
    max_pixels: int
    objective: ObjectiveMaker
    shuffle: bool = True
    targets: Callable[[FeatureStore | None], TargetReader | None] = lambda _store: None
    store: FeatureStore | None = None
    rows_of: RowsOf | None = None
    grows: bool = False
    can_validate: npt.NDArray[np.bool_] | None = None


def settings_identity(run: Section) -> dict[str, Any]:
    """Return a run's settings as JSON values, without those that leave its result alone."""
    settings: dict[str, Any] = json.loads(dump_resolved(run))
    for name in OPERATION:
        del settings["optimization"][name]
    return settings


def train_model(job: Job, *, overwrite: bool, resume: bool, ranks: Ranks) -> None:
    """Train a model, or go on where this run was interrupted; its folder appears when it is complete.

    Raises:
        CorpusError: there are too few pairs.
        SpecMismatchError: the store's features are not those that the interrupted run was trained on.
    """
    torch.set_num_threads(job.settings.threads)
    captions = Captions(job.table["caption"])
    held_N = _held_out(job)
    rows = job.rows[~held_N[job.rows]]
    _require_a_batch(job, rows)
    with _working_folder(job, overwrite=overwrite, resume=resume, ranks=ranks) as folder:
        shared = ranks.from_first(lambda: folder)
        checkpoints = Checkpoints(shared / CHECKPOINTS, kept=job.settings.checkpoints_kept)
        saved = checkpoints.latest()
        # Not of `rows`: of a store that grows they are others when the run goes on, and would make another vocabulary.
        learned_from = np.flatnonzero(to_train_on(job.table) & ~held_N)
        student = begin_model(folder, job.model, captions.of(learned_from), seed=job.settings.seed)
        with _loader(job, student, ranks) as loader:
            state = saved["data"] if saved else None
            feed = _feed(job, rows=rows, held_N=held_N, loader=loader, captions=captions, state=state, ranks=ranks)
            _say(job, rows, saved, ranks)
            with _validation(job, student, captions, held_N, ranks) as validate:
                fit(
                    student,
                    feed,
                    job.objective(folder, student.embed_dim),
                    job.settings,
                    folder=folder,
                    label=job.name,
                    ranks=ranks,
                    checkpoints=checkpoints,
                    saved=saved,
                    run=job.identity,
                    validate=validate,
                )
        if ranks.is_first:
            save_weights(student, folder)
    log.info("%s: saved as %s", job.name, job.out)
    ranks.wait()


def _held_out(job: Job) -> npt.NDArray[np.bool_]:
    if job.validation.holdout is None:
        return np.zeros(job.table.num_rows, bool)
    return held_out(job.table["image_sha256"].to_pylist(), share=job.validation.holdout)


def _require_a_batch(job: Job, rows: npt.NDArray[np.int64]) -> None:
    if len(rows) < job.settings.batch_size:
        raise CorpusError(
            f"{job.name}: {len(rows)} pairs can be trained on, fewer than optimization.batch_size = "
            f"{job.settings.batch_size}"
        )


def _say(job: Job, rows: npt.NDArray[np.int64], saved: State | None, ranks: Ranks) -> None:
    shared = f" by {ranks.world_size} processes" if ranks.world_size > 1 else ""
    settings = job.settings
    log.info("%s: %d pairs, %d steps of %d%s", job.name, len(rows), settings.steps, settings.batch_size, shared)
    if saved:
        log.info("%s: goes on at step %d", job.name, saved["step"])


@contextlib.contextmanager
def _working_folder(job: Job, *, overwrite: bool, resume: bool, ranks: Ranks) -> Iterator[Path]:
    """Yield the run's working folder to rank 0, and to the others one that is thrown away."""
    if ranks.is_first:
        with appearing(job.out, job.identity, overwrite=overwrite, resume=resume) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _loader(job: Job, student: Student, ranks: Ranks) -> ImageLoader:
    settings = job.settings
    view = View(size_px=student.size_px, crop_scale=settings.crop_scale, seed=settings.seed, max_pixels=job.max_pixels)
    return ImageLoader(
        job.images,
        view=view,
        threads=settings.threads,
        workers=settings.image_workers,
        batch_rows=settings.batch_size // ranks.world_size,
        block_rows=job.block_rows,
    )


def _feed(
    job: Job,
    *,
    rows: npt.NDArray[np.int64],
    held_N: npt.NDArray[np.bool_],
    loader: ImageLoader,
    captions: Sequence[str],
    state: dict[str, Any] | None,
    ranks: Ranks,
) -> Feed:
    settings = job.settings
    # One read serves a window's worth of steps, so that each chunk is read about once an epoch.
    span_steps = max(1, min(settings.steps, job.window_blocks * job.block_rows // settings.batch_size))

    def epochs(rows: npt.NDArray[np.int64], store: FeatureStore | None) -> Epochs:
        _require_a_batch(job, rows)
        size = {"batch_size": settings.batch_size, "block_rows": job.block_rows}
        lanes = lanes_of(rows, window_blocks=job.window_blocks, **size) if job.shuffle else 1
        windows = {"window_blocks": job.window_blocks // lanes, "lanes": lanes}
        order = BatchOrder(rows, seed=settings.seed, shuffle=job.shuffle, **size, **windows)
        targets = job.targets(store)

        def stream(share: StepOrder) -> Stream:
            return Stream(share, loader, captions, targets=targets, span_steps=span_steps)

        return Epochs(order=order, stream=stream)

    store, rows_of = job.store, job.rows_of
    # What a checkpoint says counts: a run that began on a growing store ends as such, and the reverse.
    if store is None or rows_of is None or state == {} or (state is None and not job.grows):
        return FixedFeed(epochs(rows, store), ranks=ranks, parts=settings.accumulate)

    def of_ranges(ranges: Ranges) -> Epochs:
        earlier = store.as_of(ranges)
        rows = rows_of(earlier)
        return epochs(rows[~held_N[rows]], earlier)

    return GrowingFeed(
        committed=lambda: committed_ranges(store),
        epochs=of_ranges,
        state=state,
        ranks=ranks,
        parts=settings.accumulate,
    )


@contextlib.contextmanager
def _validation(
    job: Job, student: Student, captions: Sequence[str], held_N: npt.NDArray[np.bool_], ranks: Ranks
) -> Iterator[Validation | None]:
    if job.settings.validate_every is None:
        yield None
        return
    # Held-out images may have pairs of other splits too, the test split among them: those stay unseen.
    split = job.validation.split
    chosen_N = held_N & to_train_on(job.table) if split is None else in_split(job.table, split) & usable(job.table)
    if job.can_validate is not None:
        chosen_N &= job.can_validate
    rows = evenly(np.flatnonzero(chosen_N), job.validation.max_rows)
    where = f"split {split}" if split else f"holdout {job.validation.holdout}"
    require_pairs(job.name, rows, where=where)
    digests = job.table["image_sha256"].take(pa.array(rows)).to_pylist()
    view = View(size_px=student.size_px, crop_scale=1, seed=0, max_pixels=job.max_pixels)
    with ImageLoader(job.images, view=view, threads=job.settings.threads) as loader:
        yield Validation(
            student, loader, rows=rows, captions=[captions[row] for row in rows], digests=digests, ranks=ranks
        )
