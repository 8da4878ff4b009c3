"""The record of one result, and of one that could not be had: what it says. How it is kept, ``records`` knows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from evaluate.metrics.registry import IN_GROUP, METRICS, metrics_named
from evaluate.metrics.statistics import Interval, Mode, Resampling
from store.errors import EvaluationError

from .examples import examples_in

FORMAT: Literal[1] = 1
"""Of the records that this program writes and reads."""
DIGEST_SHOWN = 8
"""Characters of a digest that are printed; the record has all."""

Role = Literal["teacher", "student", "task_only", "oracle", "other"]
ORACLE: Literal["oracle"] = "oracle"
"""Name and role of the result that takes the best teacher of each group; no model may have this name."""
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    # Strict: a number in quotes in a record that someone edited is a mistake, and NaN is no JSON.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelFacts(_Part):
    """What was evaluated.

    Attributes:
        name: short, unique within a folder of results.
        address: where it came from, e.g. ``teacher:biomedclip``.
        digest: of everything that decides its outputs.
    """

    name: str = Field(min_length=1)
    address: str
    role: Role
    digest: str = Field(min_length=1)


class DatasetFacts(_Part):
    """On what.

    Attributes:
        provenance: ``official``, ``inferred`` or ``ours``: whose split, classes and prompts.
        digest: of the data; None only if they are missing.
        split_digest: of the assignment of items to splits.
        caveats: what a reader of results should know, e.g. that train and test share images.
    """

    name: str = Field(min_length=1)
    title: str
    modality: str
    provenance: Literal["official", "inferred", "ours"]
    licence: str
    digest: str | None
    split_digest: str | None
    # Records of earlier versions call them findings.
    caveats: tuple[str, ...] = Field(default=(), validation_alias=AliasChoices("caveats", "findings"))


class MetricValue(_Part):
    """A number and its interval; see ``statistics.Interval``."""

    value: float | None
    low: float | None
    high: float | None
    resamples: int = Field(gt=0)
    failed: Count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.low is None) != (self.high is None) or (self.low is None) != (self.failed >= self.resamples):
            raise ValueError("an interval has both ends, or none where every resample failed")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval's low end {self.low} is above its high end {self.high}")
        return self

    @classmethod
    def of(cls, found: Interval) -> Self:
        """Return the record of an interval."""
        names = ("value", "low", "high", "resamples", "failed")
        return cls(**{name: getattr(found, name) for name in names})

    def __str__(self) -> str:
        """Return the number, never without its interval."""
        value = "undefined" if self.value is None else f"{self.value:.3f}"
        if self.low is None or self.high is None:
            return f"{value} [no interval: all {self.resamples:,} resamples failed]"
        return f"{value} [{self.low:.3f}, {self.high:.3f}]"


class SeedValues(_Part):
    """A metric with each training seed: how much training varies, which is not how sure the test set makes a number.

    Attributes:
        sd: sample standard deviation (n - 1); None for a single seed.
    """

    values: list[float] = Field(min_length=1)
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the record of some values."""
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(values=list(values), mean=statistics.fmean(values), sd=sd)


class Bootstrap(_Part):
    """Which resamples the intervals come from."""

    mode: Mode
    seed: Count
    resamples: int = Field(gt=0)

    @property
    def resampling(self) -> Resampling:
        """The same as the statistics take it."""
        return Resampling(mode=self.mode, seed=self.seed, resamples=self.resamples)


class Overlap(_Part):
    """How many test images occur in a training corpus."""

    exact: Count
    near: Count
    store: str


class RunFacts(_Part):
    """What is known of a result beside its numbers, its model and its dataset.

    Attributes:
        prompts_digest: SHA-256 of all prompts; None for tasks without prompts.
        logit_scale: what the cosines were multiplied by; None for tasks that do not scale them.
        seconds: how long the evaluation took, without the intervals.
        excluded: how many items were left out, by reason.
        overlap: with a training corpus; None if it was not looked for.
        request_digest: of prompts, metric and resamples, see ``suite.up_to_date.request_digest``.
    """

    prompts_digest: str | None
    logit_scale: float | None
    versions: dict[str, str]
    seconds: float = Field(ge=0)
    excluded: dict[str, Count]
    overlap: Overlap | None
    request_digest: str | None = None


class _Record(_Part):
    format: Literal[1] = FORMAT
    model: ModelFacts
    task: str = Field(min_length=1)
    dataset: DatasetFacts


class SkippedRecord(_Record):
    """A result that is not there: its reason, and no number."""

    skipped: str = Field(min_length=1)


class ResultRecord(RunFacts, _Record):
    """A result.

    Attributes:
        predictions_digest: SHA-256 of the Parquet file beside the record.
    """

    n: int = Field(gt=0)
    primary: str
    metrics: dict[str, MetricValue]
    bootstrap: Bootstrap
    seeds: dict[str, SeedValues]
    details: dict[str, Any]
    predictions_digest: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.primary not in self.metrics:
            raise ValueError(f"the primary metric {self.primary!r} is not among {', '.join(self.metrics)}")
        if self.metrics[self.primary].value is None:
            raise ValueError(f"the primary metric {self.primary!r} has no value; that is a skipped result")
        unknown = sorted(name for name in {*self.metrics, *self.seeds} - set(METRICS) if not name.startswith(IN_GROUP))
        if unknown:
            raise ValueError(f"no such metric: {', '.join(unknown)}")
        if self.dataset.digest is None or self.dataset.split_digest is None:
            raise ValueError("a result names the digests of its data and of its split")
        try:
            examples_in(self.details)
        except EvaluationError as error:  # as a problem of this record, whose reader knows the file
            raise ValueError(str(error)) from None
        return self

    @property
    def value(self) -> float:
        """The primary metric."""
        value = self.metrics[self.primary].value
        assert value is not None  # noqa: S101 - the validator has seen to it
        return value

    @property
    def split_digest(self) -> str:
        """Which test set; two results with the same one can be compared item by item."""
        assert self.dataset.split_digest is not None  # noqa: S101 - the validator has seen to it
        return self.dataset.split_digest

    @property
    def protocol(self) -> tuple[str, ...]:
        """What was asked of every item, in words with digests: results that differ in it cannot be compared."""
        said = [f"data {self.dataset.digest}"]
        said += [f"prompts {self.prompts_digest}"] if self.prompts_digest else []
        return (*said, "official scores") if self.details.get("official") else tuple(said)

    def cite(self, name: str) -> str:
        """Return a metric as it may be quoted: with all that a reader needs to judge it."""
        metric, seeds = self.metrics[name], self.seeds.get(name)
        parts = [
            f"{metrics_named([name])[name].title} {metric}",
            f"95 % of {metric.resamples:,} {self.bootstrap.mode} resamples",
            f"n = {self.n:,}",
            seeds_in_words(seeds),
            f"split {self.split_digest[:DIGEST_SHOWN]}",
            f"model {self.model.digest[:DIGEST_SHOWN]}",
        ]
        if 0 < metric.failed < metric.resamples:
            parts.insert(2, f"{metric.failed:,} failed")
        return ", ".join(parts)


Result = ResultRecord | SkippedRecord


def seeds_in_words(seeds: SeedValues | None) -> str:
    """Return how a metric varies over training seeds, in a few words."""
    if seeds is None:
        return "no training seeds"
    if seeds.sd is None:
        return "one training seed"
    return f"sd {seeds.sd:.3f} over {len(seeds.values)} training seeds"
