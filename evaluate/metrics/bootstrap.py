"""Resamples of the test items, and percentile intervals over them; ``intervals`` has those of metrics.

Pure functions of arrays and seeds. docs/statistics.md has the formulas and their sources.

Axes: N test items, G clusters, R resamples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.errors import EvaluationError

from .predictions import Predictions, Samples, Weights
from .registry import Metric

Mode = Literal["official", "stratified", "cluster", "plain"]
Method = Literal["percentile", "agresti_coull", "effective_agresti_coull"]

RESAMPLES = 1000
LEVEL = 0.95
"""Confidence level of all intervals; alpha of the tests is 1 - LEVEL."""
OFFICIAL_SEED = 42
"""Seed of MMKD-CLIP's released evaluation, for every dataset and model."""
BLOCK_ENTRIES = 1 << 22
"""Weights per block: 32 MiB, of which a metric makes a few copies. Larger blocks are no faster."""


class RecordPart(BaseModel):
    """A part of a result's record."""

    # Strict: a number in quotes in a record that someone edited is a mistake, and NaN is no JSON.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Resampling(RecordPart):
    """Everything that decides the resamples of a test set; nothing in it depends on the model.

    Attributes:
        conditioned_on: the column whose counts every resample keeps (``stratified``): intervals take them as given.
    """

    mode: Mode
    seed: int = Field(ge=0)
    resamples: int = Field(default=RESAMPLES, gt=0)
    conditioned_on: str | None = None


class Interval(RecordPart):
    """A number with its interval.

    Attributes:
        value: on the test set itself; None if it is not defined there.
        low, high: ends of the 95 % interval; None if no resample defines the metric.
        failed: number of resamples for which the metric is undefined; the interval leaves them out.
        method: how the ends were computed; records of earlier versions have percentiles.
        caution: why the interval is not to be trusted; None if it is, or in records of earlier versions.
    """

    value: float | None
    low: float | None
    high: float | None
    resamples: int = Field(gt=0)
    failed: int = Field(ge=0)
    method: Method = "percentile"
    caution: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low is None) != (self.failed >= self.resamples):
            raise ValueError("an interval has both ends, or none where every resample failed")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval's low end {self.low} is above its high end {self.high}")
        return self

    def __str__(self) -> str:
        """Return the number, never without its interval."""
        value = "undefined" if self.value is None else f"{self.value:.3f}"
        if self.low is None or self.high is None:
            return f"{value} [no interval: all {self.resamples:,} resamples failed]"
        return f"{value} [{self.low:.3f}, {self.high:.3f}]{' (not to be trusted)' if self.caution else ''}"


def resampling_for(mode: Mode, *, split_digest: str, resamples: int = RESAMPLES) -> Resampling:
    """Return the resampling of a test set: the same for every model, another one for every split."""
    seed = OFFICIAL_SEED if mode == "official" else int(hashlib.sha256(split_digest.encode()).hexdigest()[:8], 16)
    return Resampling(mode=mode, seed=seed, resamples=resamples)


def natural_mode(predictions: Predictions) -> Mode:
    """Return the mode that varies what varies in reality: clusters if items share one, else items."""
    shared = predictions.clusters is not None and len(set(predictions.clusters)) < len(predictions.ids)
    return "cluster" if shared else "plain"


def weight_blocks(
    resampling: Resampling, predictions: Predictions, *, entries: int = BLOCK_ENTRIES
) -> Iterator[Weights]:
    """Yield the multiplicity of each test item in each resample, some resamples at a time.

    Neither the block size nor R changes a resample: the first thousand of ten thousand are those of a thousand.

    Args:
        predictions: only ids, clusters and strata are used.
        entries: about how many weights a block has.

    Yields:
        Arrays (r, N) whose rows add up to N (with ``cluster``: whose clusters' multiplicities add up to G).

    Raises:
        EvaluationError: the test set lacks the clusters or classes that the mode needs.
    """
    count = len(predictions.ids)
    generator = np.random.default_rng(resampling.seed)
    draw = _Draw.of(resampling.mode, predictions)
    step = max(1, entries // count)
    for start in range(0, resampling.resamples, step):
        rows = min(step, resampling.resamples - start)
        drawn = draw.official(generator, rows) if resampling.mode == "official" else draw.even(generator, rows)
        offsets = np.arange(rows)[:, None] * draw.things
        counts = np.bincount((drawn + offsets).ravel(), minlength=rows * draw.things)
        weights = counts.reshape(rows, draw.things).astype(np.float64)
        yield weights if draw.thing_of_N is None else weights[:, draw.thing_of_N]


@dataclass(kw_only=True, frozen=True, slots=True)
class _Draw:
    """The things to draw (items, or clusters of items) in groups; each is drawn from its group.

    Attributes:
        order: numbers of the things, group by group.
        starts: position in order where the group of each draw begins.
        sizes: size of that group.
        groups: begin of each group in order, and its size.
        thing_of_N: the cluster of each item; None where the things are the items.
    """

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    groups: list[tuple[int, int]]
    thing_of_N: npt.NDArray[np.int64] | None

    @property
    def things(self) -> int:
        return len(self.order)

    @classmethod
    def of(cls, mode: Mode, predictions: Predictions) -> _Draw:
        thing_of_N = None
        keys = np.zeros(len(predictions.ids), dtype=np.int64)
        if mode == "cluster":
            if predictions.clusters is None:
                raise EvaluationError(
                    "a resample by clusters needs the patient, slide or image of each test item, and there are none",
                    hint="use stratified or plain",
                )
            names, thing_of_N = np.unique(np.asarray(predictions.clusters), return_inverse=True)
            keys = np.zeros(len(names), dtype=np.int64)
        elif mode in ("official", "stratified"):
            if predictions.strata is None:
                raise EvaluationError(
                    f"a resample by class ({mode}) needs a class of each test item, and this task has none",
                    hint="use cluster or plain",
                )
            keys = np.unique(predictions.columns[predictions.strata], return_inverse=True)[1]
        order = np.argsort(keys, kind="stable")
        sizes = np.bincount(keys)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        groups = [(int(start), int(size)) for start, size in zip(starts, sizes, strict=True)]
        return cls(
            order=order,
            starts=np.repeat(starts, sizes),
            sizes=np.repeat(sizes, sizes),
            groups=groups,
            thing_of_N=thing_of_N,
        )

    def even(self, generator: np.random.Generator, rows: int) -> npt.NDArray[np.int64]:
        """Draw as many things from each group as it has, with replacement."""
        if len(self.groups) == 1:  # the same as below, several times as fast
            return generator.integers(0, self.things, size=(rows, self.things))
        places = generator.integers(0, self.sizes, size=(rows, self.things))
        drawn: npt.NDArray[np.int64] = self.order[self.starts + places]
        return drawn

    def official(self, generator: np.random.Generator, rows: int) -> npt.NDArray[np.int64]:
        """Draw one thing of each class, then the rest from all of them: the released evaluation's rule."""
        drawn = np.empty((rows, self.things), dtype=np.int64)
        for row in drawn:
            for place, (start, size) in enumerate(self.groups):
                row[place] = self.order[start + generator.integers(0, size)]
            row[len(self.groups) :] = generator.integers(0, self.things, size=self.things - len(self.groups))
        return drawn


def resampled(predictions: Predictions, metrics: Mapping[str, Metric], resampling: Resampling) -> dict[str, Samples]:
    """Return each metric's value on each resample, shape (R,); NaN where it is not defined."""
    found: dict[str, list[Samples]] = {name: [] for name in metrics}
    for weights in weight_blocks(resampling, predictions):
        for name, metric in metrics.items():
            found[name].append(metric(predictions.columns, weights))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def interval(value: float, samples: Samples) -> Interval:
    """Return a value with the percentile interval of its resamples; those that are not finite count as failed."""
    low, high = percentiles(samples)
    return Interval(
        value=value if math.isfinite(value) else None,
        low=low,
        high=high,
        resamples=len(samples),
        failed=int(np.sum(~np.isfinite(samples))),
    )


def percentiles(samples: Samples) -> tuple[float | None, float | None]:
    """Return the 2.5th and the 97.5th percentile of the values that are finite; None if none is."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return None, None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(kept, [tail, 100 - tail])
    return float(low), float(high)
