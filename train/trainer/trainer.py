"""The training loop of both stages; they differ in the objective and in whether batches have targets."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from store.console import progress
from store.faults import reached
from train.config import Optimization
from train.data.batches import Batch
from train.losses.objective import Objective
from train.models.ema import Ema
from train.models.flops import encoder_flops
from train.models.model_folder import Student, save_weights
from train.models.towers import Towers, prepare_towers
from train.runtime.checkpoint import Checkpoints, State
from train.runtime.interrupt import stopping
from train.runtime.metrics_log import logging_to
from train.runtime.ranks import ALONE, Agreement, Ranks

from .train_step import Updater, learning_rate

log = logging.getLogger(__name__)

WITHOUT_EMA = "without_ema.safetensors"
"""The last weights, beside their moving average in the model's own file."""

SAVED = "%s: captions take %.0f %% of their padded columns, which leaves %.0f %% of a step's FLOPs"
"""Told once, with the first line of the metrics."""

Validate = Callable[[Towers], dict[str, float]]
"""Returns metrics of held-out pairs by name; all processes call it."""


class Feed(Protocol):
    """The source of a run's batches."""

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield this process's part of the batches from a step on, without end."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep beside the step."""


class Training:
    """A run in memory: everything that a checkpoint holds. The student is trained in place."""

    def __init__(self, student: Student, objective: Objective, settings: Optimization, ranks: Ranks) -> None:
        self.student, self.objective, self._settings = student, objective, settings
        self.towers = prepare_towers(student, settings, ranks)
        objective.to(ranks.device(settings.device)).train()
        if settings.logit_scale_init:
            with torch.no_grad():
                student.model.logit_scale.fill_(math.log(settings.logit_scale_init))
        self.updater = Updater(self.towers, objective, settings, ranks)
        self.ema = Ema(student.model, decay=settings.ema) if settings.ema else None
        self.flops: tuple[int, int] | None = None
        with contextlib.suppress(RuntimeError):  # an encoder that cannot be counted can be trained all the same
            self.flops = encoder_flops(student.model, size_px=student.size_px, context=student.tokenizer.columns)

    def state(self, step: int) -> State:
        """Return the content of a checkpoint from which ``step`` is the next step."""
        return {
            "step": step,
            "seed": self._settings.seed,
            "model": self.student.model.state_dict(),
            "optimizer": self.updater.optimizer.state_dict(),
            "scaler": self.updater.scaler.state_dict(),
            "objective": self.objective.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
        }

    def restore(self, state: State) -> int:
        """Load a checkpoint and return the next step; what is loaded is taken out of it, so that its memory is free."""
        self.student.model.load_state_dict(state.pop("model"))
        self.updater.optimizer.load_state_dict(state.pop("optimizer"))
        self.updater.scaler.load_state_dict(state.pop("scaler"))
        self.objective.load_state_dict(state.pop("objective"))
        average = state.pop("ema")
        if self.ema:
            self.ema.load_state_dict(average)
        return int(state["step"])

    def finish(self, folder: Path | None) -> None:
        """Put the student into evaluation mode, with the averaged weights if there are any.

        Args:
            folder: the last weights are kept here beside their average; None in processes that write nothing.
        """
        if self.ema:
            if folder:
                save_weights(self.student, folder, name=WITHOUT_EMA)
            self.student.model.load_state_dict(self.ema.state_dict())
        self.student.model.eval()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Towers]:
        """Yield the towers in evaluation mode, with the averaged weights if there are any."""
        self.towers.eval()
        try:
            with self.ema.applied() if self.ema else contextlib.nullcontext():
                yield self.towers
        finally:
            self.towers.train()


@dataclass(kw_only=True, frozen=True, slots=True)
class RunFiles:
    """The files that a run writes.

    Attributes:
        folder: of ``metrics.jsonl`` and TensorBoard's files.
        label: for the progress display.
        checkpoints: None writes no checkpoint.
        identity: of the run; kept in each checkpoint.
    """

    folder: Path
    label: str
    checkpoints: Checkpoints | None = None
    identity: Mapping[str, Any] | None = None


def fit(
    student: Student,
    feed: Feed,
    objective: Objective,
    settings: Optimization,
    *,
    files: RunFiles,
    ranks: Ranks = ALONE,
    saved: State | None = None,
    validate: Validate | None = None,
) -> None:
    """Train a student in place, and leave it in evaluation mode, with the averaged weights if ``settings.ema`` is set.

    Args:
        saved: the checkpoint to resume from.
        validate: called every ``settings.validate_every`` steps and at the end.

    Raises:
        TrainingDivergedError: a loss or a gradient is not finite; it is raised with the next line of the metrics,
            checkpoint or validation.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the step is done and a checkpoint is written.
    """
    folder, label, checkpoints = files.folder, files.label, files.checkpoints
    device = ranks.device(settings.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), stopping() as stop:
        training = Training(student, objective, settings, ranks)
        start = training.restore(saved) if saved else 0
        with contextlib.ExitStack() as stack:
            metrics = advance = None
            pace = _Pace(settings, step=start)
            if ranks.is_first:
                opened = logging_to(folder, start=start, tensorboard=settings.tensorboard, about=files.identity)
                metrics = stack.enter_context(opened)
                shown = progress(settings.steps, label=label, noun="steps", details=lambda: pace.text, done=start)
                advance = stack.enter_context(shown)
            agreed = Agreement(ranks)

            def write(step: int, values: dict[str, float]) -> dict[str, float]:
                found = ranks.mean(values)
                if metrics:
                    metrics.write(step, found)
                return found

            for batch in islice(feed.batches(start), settings.steps - start):
                terms, step = training.updater.update(batch), batch.step
                if training.ema:
                    training.ema.update(step)
                reached("train.step")
                last, stopped = step == settings.steps - 1, agreed(flag=stop.requested)
                keep = not last and (stopped or _due(step, settings.checkpoint_every))
                logs = last or step % settings.log_every == 0
                validates = last or _due(step, settings.validate_every)
                if logs or keep or validates:
                    # Only here the host waits for the device; before, a bad loss has left the weights as they were.
                    training.updater.divergence.require_finite()
                if logs:
                    numbers = _numbers(terms, training, step, seconds=pace.seconds)
                    if not pace.text and training.flops:
                        log.info(SAVED, label, 100 * numbers["text_columns"], 100 * numbers["step_flops"])
                    pace.tell(step, write(step, numbers))
                if validate and validates:
                    with training.evaluating() as towers:
                        write(step, validate(towers))
                if advance:
                    advance(1)
                if keep and checkpoints and ranks.is_first:
                    state = training.state(step + 1) | {"data": feed.state(), "run": json.dumps(files.identity)}
                    log.info("%s: %s", label, checkpoints.save(state))
                if stopped and not last:
                    # torchrun ends all processes when one is gone; the checkpoint must be written before.
                    ranks.wait()
                    raise KeyboardInterrupt
        training.finish(folder if ranks.is_first else None)


class _Pace:
    """Makes the progress line's text from the last line of metrics; nothing of it waits for a device."""

    def __init__(self, settings: Optimization, *, step: int) -> None:
        self._settings, self._began = settings, time.monotonic()
        self._since, self._next = self._began, step
        self.text = ""

    @property
    def seconds(self) -> float:
        """Seconds since the run began or went on."""
        return time.monotonic() - self._began

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step that is done."""
        now, pairs = time.monotonic(), (step + 1 - self._next) * self._settings.batch_size
        rate = pairs / max(now - self._since, 1e-9)
        self.text = f"loss {values['loss']:.4g}, lr {values['lr']:.3g}, {rate:,.0f} pairs/s"
        self._since, self._next = now, step + 1


def _due(step: int, every: int | None) -> bool:
    return every is not None and (step + 1) % every == 0


def _numbers(terms: dict[str, Tensor], training: Training, step: int, *, seconds: float) -> dict[str, float]:
    values = {name: term.item() for name, term in terms.items()}
    lr = learning_rate(step, training.updater.settings)
    scale = training.student.model.logit_scale.exp().item()
    columns, flops = training.towers.columns.share(), training.flops
    computed = {"text_columns": round(columns, 4)}
    if flops:
        computed["step_flops"] = round((flops[0] + flops[1] * columns) / sum(flops), 4)
    return {**values, "lr": lr, "logit_scale": scale, **computed, "seconds": round(seconds, 3)}
