"""Trains a model on pairs and leaves its folder: the part that both stages share."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from store.config.pipeline_file import Section, dump_resolved
from store.errors import CorpusError
from store.images.depth import Window
from train.config import ModelSection, Optimization, ValidationSection
from train.data.batch_order import BatchOrder, StepOrder, lanes_of
from train.data.batches import BATCHES, Stream
from train.data.captions import Captions
from train.data.feeds import Epochs, FixedFeed, GrowingFeed
from train.data.image_loader import ImageLoader, View
from train.data.pair_source import PairSource
from train.data.store_rows import in_split, to_train_on, usable
from train.data.target_reader import TargetReader
from train.models.model_folder import Student, begin_model, save_weights
from train.recipes.choose import ObjectiveMaker
from train.runtime.checkpoint import Checkpoints, State
from train.runtime.ranks import ALONE, Ranks
from train.runtime.run_folder import CHECKPOINTS, appearing

from .trainer import Feed, RunFiles, fit
from .validation import CHUNK_ROWS, Validation, evenly, held_out, require_pairs

log = logging.getLogger(__name__)

OPERATION = ("checkpoint_every", "checkpoints_kept", "image_workers", "tensorboard")
"""Settings of ``optimization`` that do not affect the result and are left out of a run's identity."""


@dataclass(kw_only=True, frozen=True, slots=True)
class TrainingRun:
    """One training, without its pairs.

    Attributes:
        out: folder of the result.
        identity: everything that decides the result, as JSON values.
        max_pixels: largest width times height that is decoded.
        window: the pipeline's ``image.window``.
    """

    name: str
    out: Path
    identity: dict[str, Any]
    model: ModelSection
    optimization: Optimization
    validation: ValidationSection
    max_pixels: int
    window: Window | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class Circumstances:
    """Arguments of a command that do not affect the result.

    Attributes:
        overwrite: replace another run's result.
        resume: go on from the checkpoints of an interrupted run.
        corpus_root: where the corpus lies now, if it moved.
    """

    overwrite: bool = False
    resume: bool = True
    corpus_root: Path | None = None
    ranks: Ranks = ALONE


HERE = Circumstances()
"""A run of one process, with the defaults of the command line."""


def settings_identity(run: Section) -> dict[str, Any]:
    """Return a run's settings as JSON values, without those that do not affect its result."""
    settings: dict[str, Any] = json.loads(dump_resolved(run))
    for name in OPERATION:
        del settings["optimization"][name]
    return settings


def train_model(run: TrainingRun, pairs: PairSource, objective: ObjectiveMaker, how: Circumstances) -> None:
    """Train a model, or resume an interrupted run; the result's folder appears when it is complete.

    Raises:
        CorpusError: there are too few pairs.
        SpecMismatchError: the store's features are not those that the interrupted run was trained on.
    """
    settings, ranks = run.optimization, how.ranks
    torch.set_num_threads(settings.threads)
    # torch allows it for convolutions unless told otherwise, so that float32 would be something else on a card.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    captions = Captions(pairs.table["caption"])
    held_N = _held_out(run, pairs)
    rows = pairs.rows()
    rows = rows[~held_N[rows]]
    _require_a_batch(run, rows)
    # Rank 0 writes the result; the others work in a temporary folder.
    working = (
        appearing(run.out, run.identity, overwrite=how.overwrite, resume=how.resume)
        if ranks.is_first
        else tempfile.TemporaryDirectory()
    )
    with working as name:
        folder = Path(name)
        shared = ranks.from_first(lambda: folder)
        checkpoints = Checkpoints(shared / CHECKPOINTS, kept=settings.checkpoints_kept)
        saved = checkpoints.latest()
        # Not `rows`: a growing store has more of them when the run resumes, which would give another vocabulary.
        learned_from = np.flatnonzero(to_train_on(pairs.table) & ~held_N)
        student = begin_model(folder, run.model, captions.of(learned_from), seed=settings.seed)
        with _loader(run, pairs, student, ranks) as loader:

            def stream(share: StepOrder, targets: TargetReader | None) -> Stream:
                return Stream(
                    share,
                    loader,
                    captions,
                    tokenizer=student.tokenizer,
                    targets=targets,
                    span_steps=_span_steps(run, pairs),
                    device=ranks.device(settings.device),
                )

            feed = _feed(run, pairs, held_N, stream, state=saved["data"] if saved else None, ranks=ranks)
            _report(run, rows, saved, ranks)
            with _validation(run, pairs, held_N, student, ranks) as validate:
                fit(
                    student,
                    feed,
                    objective(folder, student.embed_dim),
                    settings,
                    files=RunFiles(folder=folder, label=run.name, checkpoints=checkpoints, identity=run.identity),
                    ranks=ranks,
                    saved=saved,
                    validate=validate,
                )
        if ranks.is_first:
            save_weights(student, folder)
    log.info("%s: saved as %s", run.name, run.out)
    ranks.wait()


def _held_out(run: TrainingRun, pairs: PairSource) -> npt.NDArray[np.bool_]:
    if run.validation.holdout is None:
        return np.zeros(pairs.table.num_rows, bool)
    return held_out(pairs.table["image_sha256"].to_pylist(), share=run.validation.holdout)


def _require_a_batch(run: TrainingRun, rows: npt.NDArray[np.int64]) -> None:
    if len(rows) < run.optimization.batch_size:
        holdout = run.validation.holdout
        more = "" if holdout is None else f", or validation.holdout to less than {holdout}"
        raise CorpusError(
            f"{run.name}: {len(rows)} pairs can be trained on, fewer than optimization.batch_size = "
            f"{run.optimization.batch_size}",
            hint=f"set optimization.batch_size to {max(2, len(rows))} or less{more}",
        )


def _report(run: TrainingRun, rows: npt.NDArray[np.int64], saved: State | None, ranks: Ranks) -> None:
    shared = f" by {ranks.world_size} processes" if ranks.world_size > 1 else ""
    settings = run.optimization
    log.info("%s: %d pairs, %d steps of %d%s", run.name, len(rows), settings.steps, settings.batch_size, shared)
    if saved:
        log.info("%s: goes on at step %d", run.name, saved["step"])


def _loader(run: TrainingRun, pairs: PairSource, student: Student, ranks: Ranks) -> ImageLoader:
    settings = run.optimization
    view = View(
        size_px=student.size_px,
        crop_scale=settings.crop_scale,
        seed=settings.seed,
        max_pixels=run.max_pixels,
        window=run.window,
    )
    return ImageLoader(
        pairs.images,
        view=view,
        threads=settings.threads,
        workers=settings.image_workers,
        batch_rows=settings.batch_size // ranks.world_size,
        batches=BATCHES,
        pinned=settings.device == "cuda",
    )


def _span_steps(run: TrainingRun, pairs: PairSource) -> int:
    """Return how many steps one window of blocks serves, so that each chunk is read about once an epoch."""
    steps = pairs.window_blocks * pairs.block_rows // run.optimization.batch_size
    return max(1, min(run.optimization.steps, steps))


def _feed(
    run: TrainingRun,
    pairs: PairSource,
    held_N: npt.NDArray[np.bool_],
    stream: Callable[[StepOrder, TargetReader | None], Stream],
    *,
    state: dict[str, Any] | None,
    ranks: Ranks,
) -> Feed:
    settings, block_rows = run.optimization, pairs.block_rows

    def epochs(pairs: PairSource) -> Epochs:
        rows = pairs.rows()
        rows = rows[~held_N[rows]]
        _require_a_batch(run, rows)
        lanes = 1
        if pairs.shuffle:
            lanes = lanes_of(
                rows, batch_size=settings.batch_size, block_rows=block_rows, window_blocks=pairs.window_blocks
            )
        order = BatchOrder(
            rows,
            seed=settings.seed,
            batch_size=settings.batch_size,
            block_rows=block_rows,
            window_blocks=pairs.window_blocks // lanes,
            lanes=lanes,
            shuffle=pairs.shuffle,
        )
        targets = pairs.targets()
        return Epochs(order=order, stream=lambda share: stream(share, targets))

    # A checkpoint decides: a run that began on a growing store ends as such, and the reverse.
    if state == {} or (state is None and not pairs.grows):
        return FixedFeed(epochs(pairs), ranks=ranks, parts=settings.accumulate)
    return GrowingFeed(
        committed=pairs.committed,
        epochs=lambda ranges: epochs(pairs.as_of(ranges)),
        state=state,
        ranks=ranks,
        parts=settings.accumulate,
    )


@contextlib.contextmanager
def _validation(
    run: TrainingRun, pairs: PairSource, held_N: npt.NDArray[np.bool_], student: Student, ranks: Ranks
) -> Iterator[Validation | None]:
    if run.optimization.validate_every is None:
        yield None
        return
    # Held-out images may have pairs in other splits, the test split among them: those stay unseen.
    split, table = run.validation.split, pairs.table
    chosen_N = held_N & to_train_on(table) if split is None else in_split(table, split) & usable(table)
    if pairs.has_image_N is not None:
        chosen_N &= pairs.has_image_N
    rows = evenly(np.flatnonzero(chosen_N), run.validation.max_rows)
    where = f"split {split}" if split else f"holdout {run.validation.holdout}"
    require_pairs(run.name, rows, where=where)
    chosen = table.select(["caption", "image_sha256"]).take(pa.array(rows))
    view = View(size_px=student.size_px, crop_scale=1, seed=0, max_pixels=run.max_pixels, window=run.window)
    threads = run.optimization.threads
    with ImageLoader(pairs.images, view=view, batch_rows=CHUNK_ROWS, threads=threads, keep_bytes=0) as loader:
        yield Validation(
            student.tokenizer,
            loader,
            rows=rows,
            captions=[caption or "" for caption in chosen["caption"].to_pylist()],
            digests=chosen["image_sha256"].to_pylist(),
            ranks=ranks,
        )
