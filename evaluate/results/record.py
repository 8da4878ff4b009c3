"""The record of one result, or of the reason why there is none."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from evaluate.metrics.bootstrap import Interval, RecordPart, Resampling
from evaluate.metrics.registry import is_metric, metrics_named
from store.errors import EvaluationError
from store.format.records import SIDES, Side

from .examples import examples_in

FORMAT: Literal[1] = 1
"""Version of the records that this program writes and reads."""
DIGEST_SHOWN = 8
"""Number of characters of a digest that are printed; the record has all."""

Role = Literal["teacher", "student", "task_only", "oracle", "other"]
ORACLE: Literal["oracle"] = "oracle"
"""Name and role of the result that takes the best teacher of each group; no model may have this name."""
Count = Annotated[int, Field(ge=0)]


class ModelFacts(RecordPart):
    """The model that was evaluated.

    Attributes:
        name: short, unique within a folder of results.
        address: where it came from, e.g. ``teacher:biomedclip``.
        digest: of everything that decides its outputs.
        sides: that it encodes; left out of the file if it encodes both.
        teachers: of a student that says whose it is; left out of the file if there are none.
    """

    name: str = Field(min_length=1)
    address: str
    role: Role
    digest: str = Field(min_length=1)
    sides: tuple[Side, ...] = SIDES
    teachers: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = {"sides": SIDES, "teachers": ()}
        return {key: value for key, value in serialize(self).items() if key not in usual or tuple(value) != usual[key]}


def teachers_of(students: Iterable[ModelFacts], models: Iterable[ModelFacts]) -> list[str]:
    """Return names of the models that are the students' own teachers; of all teachers if they state none at all."""
    known = {model.name for model in models if model.role == "teacher"}
    own = {name for student in students for name in student.teachers}
    return sorted(known & own if own else known)


class DatasetFacts(RecordPart):
    """The dataset that it was evaluated on.

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


class SeedValues(RecordPart):
    """A metric for each training seed: the variation of training, not the uncertainty due to the test set.

    Attributes:
        sd: sample standard deviation (n - 1); None for a single seed.
    """

    values: list[float] = Field(min_length=1)
    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return values with their mean and standard deviation."""
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(values=list(values), mean=statistics.fmean(values), sd=sd)


class Overlap(RecordPart):
    """Numbers of test images that occur in a training corpus."""

    exact: Count
    near: Count
    store: str


class RunFacts(RecordPart):
    """Further facts about a result, beside its numbers, model and dataset.

    Attributes:
        prompts_digest: SHA-256 of all prompts; None for tasks without prompts.
        logit_scale: multiplier of the cosines; None for tasks that do not scale them.
        seconds: duration of the evaluation without the intervals.
        excluded: number of items that were left out, by reason.
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


class _Record(RecordPart):
    format: Literal[1] = FORMAT
    model: ModelFacts
    task: str = Field(min_length=1)
    dataset: DatasetFacts


class SkippedRecord(_Record):
    """The reason why there is no result."""

    skipped: str = Field(min_length=1)


class ResultRecord(RunFacts, _Record):
    """A result; its predictions are a Parquet file beside the record, which has the SHA-256 of it."""

    n: int = Field(gt=0)
    primary: str
    metrics: dict[str, Interval]
    bootstrap: Resampling
    seeds: dict[str, SeedValues]
    details: dict[str, Any]
    predictions_digest: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.primary not in self.metrics:
            raise ValueError(f"the primary metric {self.primary!r} is not among {', '.join(self.metrics)}")
        if self.metrics[self.primary].value is None:
            raise ValueError(f"the primary metric {self.primary!r} has no value; that is a skipped result")
        unknown = sorted(name for name in {*self.metrics, *self.seeds} if not is_metric(name))
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
        assert value is not None  # noqa: S101 - the validator guarantees it
        return value

    @property
    def split_digest(self) -> str:
        """Digest of the test set; two results with the same digest can be compared item by item."""
        assert self.dataset.split_digest is not None  # noqa: S101 - the validator guarantees it
        return self.dataset.split_digest

    @property
    def protocol(self) -> tuple[str, ...]:
        """Data, prompts and kind of scores, in words with digests; results that differ in them cannot be compared."""
        said = [f"data {self.dataset.digest}"]
        said += [f"prompts {self.prompts_digest}"] if self.prompts_digest else []
        return (*said, "official scores") if self.details.get("official") else tuple(said)

    def cite(self, name: str) -> str:
        """Return a metric as it may be quoted: with everything that a reader needs to judge it."""
        metric, seeds = self.metrics[name], self.seeds.get(name)
        parts = [
            f"{metrics_named([name])[name].title} {metric}",
            self._interval_in_words(metric),
            f"n = {self.n:,}",
            seeds_in_words(seeds),
            f"split {self.split_digest[:DIGEST_SHOWN]}",
            f"model {self.model.digest[:DIGEST_SHOWN]}",
        ]
        if 0 < metric.failed < metric.resamples:
            parts.insert(2, f"{metric.failed:,} failed")
        if metric.caution:
            parts.insert(1, metric.caution)
        return ", ".join(parts)

    def _interval_in_words(self, metric: Interval) -> str:
        """Return by which method and resamples an interval was made, and what they hold fixed."""
        if metric.method == "agresti_coull":
            return "95 % Agresti-Coull interval"
        method = "percentile" if metric.method == "percentile" else "effective Agresti-Coull"
        said = f"95 % {method} interval of {metric.resamples:,} {self.bootstrap.mode} resamples"
        if self.bootstrap.mode != "stratified":
            return said
        return f"{said} (counts by {self.bootstrap.conditioned_on or 'class'} held fixed)"


Result = ResultRecord | SkippedRecord


def seeds_in_words(seeds: SeedValues | None) -> str:
    """Return the variation of a metric over training seeds, in a few words."""
    if seeds is None:
        return "no training seeds"
    if seeds.sd is None:
        return "one training seed"
    return f"sd {seeds.sd:.3f} over {len(seeds.values)} training seeds"
