"""Turns the result of a task into its record: adds the intervals of all metrics."""

from __future__ import annotations

from evaluate.metrics.bootstrap import RESAMPLES, Mode, natural_mode, resampled, resampling_for
from evaluate.metrics.intervals import intervals_of
from evaluate.metrics.registry import metrics_named
from store.errors import EvaluationError

from .record import DatasetFacts, ModelFacts, ResultRecord, RunFacts, SeedValues
from .task_result import TaskResult


def record_of(
    result: TaskResult,
    *,
    model: ModelFacts,
    dataset: DatasetFacts,
    facts: RunFacts,
    mode: Mode | None = None,
    resamples: int = RESAMPLES,
) -> ResultRecord:
    """Return the record of a task's result, with the intervals of all its metrics.

    Args:
        dataset: its split digest decides the resamples.
        mode: mode of the resamples; ``natural_mode`` if left out.

    Raises:
        EvaluationError: the dataset has no split digest, or the mode needs what the predictions lack.
    """
    predictions = result.predictions
    if dataset.split_digest is None:
        raise EvaluationError(f"{dataset.name}: a result needs the digest of its split")
    chosen = mode or natural_mode(predictions)
    resampling = resampling_for(chosen, split_digest=dataset.split_digest, resamples=resamples)
    if chosen == "stratified":
        resampling = resampling.model_copy(update={"conditioned_on": predictions.strata})
    samples = resampled(predictions, metrics_named(result.metrics), resampling)
    return ResultRecord(
        **dict(facts),
        model=model,
        task=result.task,
        dataset=dataset,
        n=len(predictions.ids),
        primary=result.primary,
        metrics=intervals_of(result.metrics, samples, predictions, mode=chosen),
        bootstrap=resampling,
        seeds={name: SeedValues.of(values) for name, values in result.seeds.items()},
        details=result.details,
    )
