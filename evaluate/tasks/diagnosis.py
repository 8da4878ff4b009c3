"""Cancer diagnosis from slides: bags of patch features, by ABMIL and by logistic regression on their mean.

Axes: N slides, P patches of a bag, D feature width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax

from evaluate.results.task_result import TaskResult
from evaluate.tasks.fitting.abmil import Abmil, GatedAttention, outputs_of, train_abmil
from evaluate.tasks.fitting.thresholds import Deciding
from store.errors import EvaluationError

from .classified import check_splits, classified
from .inputs import LabelledFeatures, check_bags
from .linear_probe import Probe, linear_probe

DIAGNOSIS_ABMIL = Abmil(
    hidden=128,
    attention=128,
    dropout=0.0,
    lr=1e-3,
    weight_decay=1e-2,
    batch=32,
    epochs=100,
    patience=10,
    seeds=tuple(range(20)),
)
"""Width, learning rate and batch are those of kaiko's eva; it counts steps (12,500), here they are epochs."""


def diagnose_by_mean(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    classes: Sequence[str],
    val: LabelledFeatures | None = None,
    probe: Probe | None = None,
    primary: str = "auroc",
) -> TaskResult:
    """Classify slides by logistic regression on the mean of their patches' features.

    Args:
        train: features are bags, as in val and test.
        val: chooses C.
        probe: all training slides if left out.

    Raises:
        EvaluationError: what ``linear_probe`` refuses, and bags that are empty or not finite.
    """
    _check_widths(train, test, val)
    found = linear_probe(
        _means(train),
        _means(test),
        classes=classes,
        val=None if val is None else _means(val),
        probe=probe,
        primary=primary,
    )
    return replace(
        found, task=found.task.replace("linear_probe", "diagnosis_mean"), details=found.details | _sizes(train, test)
    )


def diagnose_by_abmil(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    classes: Sequence[str],
    val: LabelledFeatures | None = None,
    settings: Abmil = DIAGNOSIS_ABMIL,
    positive: str | None = None,
    allow_shared_groups: bool = False,
    primary: str = "auroc",
    deciding: Deciding | None = None,
) -> TaskResult:
    """Classify slides by ABMIL; of the epochs the one with the smallest validation loss is kept.

    Args:
        train: features are bags, as in val and test.
        test: scored with all patches of every slide.
        val: decides when to stop, and the threshold of two classes; without it all epochs are run.
        deciding: how the decisions of two classes are made and judged.

    Raises:
        EvaluationError: a split is empty or of one class, labels are outside the list, bags are empty or not finite, a
            patient is in two splits.
    """
    splits = {"train": train, "test": test} | ({"val": val} if val else {})
    details = check_splits(splits, classes, allow_shared_groups=allow_shared_groups)
    _check_widths(train, test, val)
    outputs = [_logits(train, test, val, classes=len(classes), settings=settings, seed=seed) for seed in settings.seeds]
    details |= _sizes(train, test) | {
        "training_seeds": [int(seed) for seed in settings.seeds],
        "best_epochs": [one.epoch for one in outputs],
        "settings": asdict(settings),
    }
    return classified(
        "diagnosis_abmil",
        test,
        [(softmax(one.test, axis=1), one.test) for one in outputs],
        classes=classes,
        positive=positive,
        primary=primary,
        details=details,
        validation=[(val.target, one.val) for one in outputs if val is not None and one.val is not None],
        deciding=deciding,
    )


@dataclass(kw_only=True, frozen=True, slots=True)
class _Outputs:
    """Logits of one network, (N, C) each, and the number of the epoch that was kept."""

    test: npt.NDArray[np.float64]
    val: npt.NDArray[np.float64] | None
    epoch: int


def _logits(
    train: LabelledFeatures,
    test: LabelledFeatures,
    val: LabelledFeatures | None,
    *,
    classes: int,
    settings: Abmil,
    seed: int,
) -> _Outputs:
    """Train one network; return its outputs for the test and validation slides, and the epoch that was kept."""
    target_N = torch.from_numpy(train.target.astype(np.int64))

    def loss(logits_BC: torch.Tensor, rows_B: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits_BC, target_N[rows_B].to(logits_BC.device))

    model, stopped = train_abmil(
        list(train.features),
        loss,
        outputs=classes,
        settings=settings,
        seed=seed,
        validate=None if val is None else partial(_minus_loss, val=val, device=settings.device),
    )
    score = partial(outputs_of, model, device=settings.device)
    held = None if val is None else score(list(val.features))
    return _Outputs(test=score(list(test.features)), val=held, epoch=stopped.best_epoch)


def _minus_loss(model: GatedAttention, *, val: LabelledFeatures, device: str) -> float:
    """Return minus the mean cross-entropy of a split."""
    logits_NC = torch.from_numpy(outputs_of(model, list(val.features), device=device))
    return -float(torch.nn.functional.cross_entropy(logits_NC, torch.from_numpy(val.target.astype(np.int64))))


def _means(split: LabelledFeatures) -> LabelledFeatures:
    """Return a split with the mean feature of every slide, (N, D)."""
    return replace(split, features=np.stack([bag.mean(axis=0, dtype=np.float64) for bag in split.features]))


def _check_widths(train: LabelledFeatures, test: LabelledFeatures, val: LabelledFeatures | None) -> None:
    """Check that all bags can be used, and that those of all splits have the same width."""
    splits = {"train": train, "test": test} | ({"val": val} if val else {})
    widths = {name: check_bags(list(split.features), what=name) for name, split in splits.items()}
    if len(set(widths.values())) > 1:
        raise EvaluationError(f"the splits' features differ in width: {widths}")


def _sizes(train: LabelledFeatures, test: LabelledFeatures) -> dict[str, Any]:
    """Return how many slides there are, and how many patches they have."""
    patches = [len(bag) for bag in test.features]
    return {
        "num_train": len(train.ids),
        "patches_of_a_test_slide": {
            "smallest": min(patches),
            "median": float(np.median(patches)),
            "largest": max(patches),
        },
    }
