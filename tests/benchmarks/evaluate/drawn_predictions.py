"""Predictions of models that do not exist, drawn from populations whose metrics are known.

A model is ``good``, ``excellent`` (nearly everything is right) or ``collapsed`` (it says one class for nearly all
items). Items are balanced or 9:1. Items of a cluster have the same label, and scores with a correlation of 0.5.

Axes: N items, C classes, L labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax
from scipy.stats import norm

from evaluate.metrics.clinical import calibration_bins
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS, metrics_named
from evaluate.metrics.survival import uno_weights

Columns = dict[str, npt.NDArray[Any]]

SKILL = {"good": 1.8, "excellent": 4.2, "collapsed": 0.5}
"""The distance between the scores of right and wrong, in standard deviations."""
PULL = 2.2
"""The distance by which a collapsed model's scores are moved towards its class."""
SHARES = {"balanced": (0.25,) * 4, "9:1": (0.45, 0.3, 0.2, 0.05)}
LABELS, SEEDS = 5, 3
POPULATION = 150_000
"""Items from which the true value of a metric is computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """A population from which test sets are drawn.

    Attributes:
        balance: ``balanced`` or ``9:1``.
        model: a key of SKILL.
        size: items of a cluster; 1 for independent items.
    """

    balance: str
    model: str
    size: int = 1

    @property
    def rare(self) -> float:
        """Share of the rarer of two kinds."""
        return 0.5 if self.balance == "balanced" else 0.1


def noise(rng: np.random.Generator, count: int, size: int, *, shared: float = 0.5) -> npt.NDArray[np.float64]:
    """Return standard normal numbers (N,), correlated within runs of ``size`` items."""
    own = rng.standard_normal(count)
    if size == 1:
        return own
    common = np.repeat(rng.standard_normal(-(-count // size)), size)[:count]
    return np.sqrt(shared) * common + np.sqrt(1 - shared) * own


def drawn(rng: np.random.Generator, count: int, size: int, shares: tuple[float, ...]) -> npt.NDArray[np.int64]:
    """Return kinds (N,) by their shares, the same within runs of ``size`` items."""
    return np.repeat(rng.choice(len(shares), -(-count // size), p=shares), size)[:count]


def two_classes(rng: np.random.Generator, count: int, of: Population) -> Columns:
    """Draw two classes, the second of which is the positive and the rarer one."""
    target = drawn(rng, count, of.size, (1 - of.rare, of.rare))
    move = PULL if of.model == "collapsed" else 0.0 if of.balance == "balanced" else 0.5
    margin = SKILL[of.model] * (target - 0.5) + noise(rng, count, of.size) - move
    positive = target == 1
    found = {"target": target, "score": np.stack([expit(-margin), expit(margin)], axis=1), "margin": margin}
    return {**found, "positive": positive, "flagged": margin >= 0, "bin": calibration_bins(expit(margin))}


def four_classes(rng: np.random.Generator, count: int, of: Population) -> Columns:
    """Draw four classes; the largest is nine times as frequent as the smallest, or all are equal."""
    target = drawn(rng, count, of.size, SHARES[of.balance])
    score = np.stack([noise(rng, count, of.size) for _ in range(4)], axis=1) + 0.8 * SKILL[of.model] * np.eye(4)[target]
    if of.model == "collapsed":
        score[:, 0] += 1 + PULL
    share = softmax(score, axis=1)
    return {"target": target, "score": share, "bin": calibration_bins(share.max(axis=1))}


def several_labels(rng: np.random.Generator, count: int, of: Population) -> Columns:
    """Draw five labels that go together."""
    common = noise(rng, count, of.size, shared=0.999)
    sign = [np.sqrt(0.3) * common + np.sqrt(0.7) * noise(rng, count, of.size, shared=0.9) for _ in range(LABELS)]
    target = (np.stack(sign, axis=1) > norm.ppf(1 - of.rare)).astype(np.int64)
    score = np.stack([noise(rng, count, of.size) for _ in range(LABELS)], axis=1) + SKILL[of.model] * (target - 0.5)
    return {"target": target, "score": norm.cdf(score - (PULL if of.model == "collapsed" else 0.0))}


def groups(rng: np.random.Generator, count: int, of: Population) -> Columns:
    """Draw classes within three groups."""
    shares = (1 / 3,) * 3 if of.balance == "balanced" else (0.6, 0.3, 0.1)
    group = np.array(["a", "b", "c"])[drawn(rng, count, of.size, shares)]
    even = Population(balance="balanced", model=of.model, size=of.size)
    return {**four_classes(rng, count, even), "group": group}


def ranks(rng: np.random.Generator, count: int, of: Population) -> Columns:
    """Draw ranks of N images and of their N texts, correlated within a pair."""
    middle = {"good": 1.0, "excellent": -1.2, "collapsed": 4.5}[of.model]
    pair = noise(rng, count, of.size)
    sides = [
        np.ceil(np.exp(middle + 1.3 * (np.sqrt(0.6) * pair + np.sqrt(0.4) * rng.standard_normal(count))))
        for _ in range(2)
    ]
    return {"rank": np.concatenate(sides).astype(np.int64), "side": np.repeat([0, 1], count)}


def questions(rng: np.random.Generator, count: int, of: Population) -> Columns:
    """Draw answers by heads of three training seeds, correlated within a question and an image."""
    right = {"good": 0.7, "excellent": 0.97, "collapsed": 0.03}[of.model]
    ease = noise(rng, count, of.size)
    found: Columns = {"closed": drawn(rng, count, 1, (of.rare, 1 - of.rare)) == 1}
    for seed in range(SEEDS):
        answer = np.sqrt(0.7) * ease + np.sqrt(0.3) * rng.standard_normal(count)
        found[f"correct.{seed}" if seed else "correct"] = answer < norm.ppf(right)
    return found


def patients(rng: np.random.Generator, count: int, of: Population) -> Columns:
    """Draw survival times of which a half, or nine tenths, are censored; patients are independent."""
    effect = {"good": 1.5, "excellent": 4.0, "collapsed": 0.2}[of.model]
    train = _times(np.random.default_rng(99), 400, of, effect)
    found = _times(rng, count, of, effect)
    weights = uno_weights(found["time"], train_time=train["time"], train_event=train["event"])
    return {**found, "uno_weight": weights}


def _times(rng: np.random.Generator, count: int, of: Population, effect: float) -> Columns:
    risk = rng.standard_normal(count)
    time = rng.exponential(1, count) * np.exp(-effect * risk)
    censored = rng.exponential(1, count) * of.rare / (1 - of.rare)
    return {"time": np.minimum(time, censored), "event": (time <= censored).astype(np.int64), "risk": risk}


Draw = Callable[[np.random.Generator, int, Population], Columns]
SIDES = (*(name for name in METRICS if name.startswith(("i2t", "t2i"))), "mean_recall")
SINGLE = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "brier", "ece")
DECISIONS = ("sensitivity", "specificity", "ppv", "npv")
KINDS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "two classes": (two_classes, (*SINGLE, *DECISIONS)),
    "four classes": (four_classes, SINGLE),
    "five labels": (several_labels, ("label_accuracy", "auroc", "average_precision")),
    "three groups": (groups, ("group_accuracy", "accuracy@c")),
    "retrieval": (ranks, SIDES),
    "questions": (questions, ("vqa_overall", "vqa_open", "vqa_closed")),
    "survival": (patients, ("harrell_c", "uno_c")),
}
"""By kind of task: the function that draws, and its metrics. Together they have every metric of the registry."""


def draw_test_set(rng: np.random.Generator, kind: str, count: int, of: Population) -> Predictions:
    """Draw a test set; images and texts of a pair, and items of a cluster, belong together."""
    columns = KINDS[kind][0](rng, count, of)
    items = len(next(iter(columns.values())))
    clusters = [f"c{item % count // of.size}" for item in range(items)] if of.size > 1 or items > count else None
    return Predictions(ids=[str(item) for item in range(items)], clusters=clusters, columns=columns)


@cache
def truth(kind: str, of: Population) -> dict[str, float]:
    """Return the metrics of the population; independent items have the same ones as clustered ones."""
    draw, names = KINDS[kind]
    rng = np.random.default_rng(1)
    if kind == "survival":
        # Concordance of drawn pairs: a matrix of all pairs of a population would be too large.
        one, other = (draw(rng, 6 * POPULATION, of) for _ in range(2))
        comparable = (one["event"] == 1) & (other["time"] > one["time"])
        concordant = comparable & (one["risk"] > other["risk"])
        weight = one["uno_weight"]
        return {
            "harrell_c": float(concordant.sum() / comparable.sum()),
            "uno_c": float((weight * concordant).sum() / (weight * comparable).sum()),
        }
    columns = draw(rng, POPULATION, of)
    ones = np.ones((1, len(next(iter(columns.values())))))
    return {name: float(metric(columns, ones)[0]) for name, metric in metrics_named(names).items()}
