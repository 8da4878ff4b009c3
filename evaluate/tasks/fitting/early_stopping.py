"""Trains a small head until validation no longer improves. This is the only place that seeds torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from store.errors import TrainingDivergedError


@dataclass(kw_only=True, frozen=True, slots=True)
class Stopped:
    """The end of a training.

    Attributes:
        best_epoch: from 1; its weights are kept.
        best: best validation score; None without validation.
    """

    best_epoch: int
    epochs: int
    best: float | None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's weights and dropout within this context, and restore its generator afterwards."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield


def train_until_no_better(
    model: torch.nn.Module,
    *,
    epoch: Callable[[int], float],
    validate: Callable[[], float] | None,
    epochs: int,
    patience: int,
) -> Stopped:
    """Train, and keep the weights of the epoch with the highest score.

    Args:
        epoch: runs one epoch and returns its mean loss.
        validate: returns the score, higher is better; without it all epochs are run and the last weights are kept.
        patience: stop after this number of epochs without a better score.

    Raises:
        TrainingDivergedError: a loss is not finite.
    """
    best, best_epoch, kept, number = -np.inf, 0, None, 0
    for number in range(1, epochs + 1):
        model.train()
        loss = epoch(number)
        if not np.isfinite(loss):
            raise TrainingDivergedError(f"the loss of epoch {number} is {loss}", hint="use a lower learning rate")
        if validate is None:
            continue
        model.eval()
        score = validate()
        if score > best:
            best, best_epoch, kept = score, number, copy.deepcopy(model.state_dict())
        elif number - best_epoch >= patience:
            break
    if kept is not None:
        model.load_state_dict(kept)
    model.eval()
    return Stopped(best_epoch=best_epoch or number, epochs=number, best=None if kept is None else float(best))
