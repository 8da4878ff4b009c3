"""The oracle of a dataset with groups: the result if the best teacher of each group were known beforehand.

Its predictions are those of the best teacher of each group, so that it has intervals like every model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import IN_GROUP
from evaluate.results.assemble import record_of
from evaluate.results.files import read_predictions, results_on, write_result
from evaluate.results.record import ORACLE, ModelFacts, ResultRecord, RunFacts
from evaluate.results.task_result import result_of
from evaluate.tasks.classified import confusion


def write_oracle(folder: Path, like: ResultRecord) -> ResultRecord | None:
    """Write the oracle of the teachers with results of the same request, data and items as another result.

    An oracle of the same teachers is left as it is; without a teacher there is none.
    """
    found = results_on(folder, task=like.task, dataset=like.dataset.name)
    records = [one for one in found if isinstance(one, ResultRecord) and _same_test(one) == _same_test(like)]
    teachers = [one for one in records if one.model.role == "teacher"]
    if not teachers:
        return None
    parts = [(one.model.name, one.model.digest, one.predictions_digest) for one in teachers]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    there = next((one for one in records if one.model.role == ORACLE), None)
    if there is not None and there.model.digest == digest:
        return there
    record, predictions = _oracle(folder, teachers, digest)
    write_result(folder, record, predictions)
    return record


def _same_test(record: ResultRecord) -> tuple[str | None, str | None, int, dict[str, int]]:
    return record.request_digest, record.dataset.digest, record.n, record.excluded


def _oracle(folder: Path, teachers: Sequence[ResultRecord], digest: str) -> tuple[ResultRecord, Predictions]:
    first = teachers[0]
    groups = first.details["groups"]
    best = {group: max(teachers, key=lambda one: one.metrics[f"{IN_GROUP}{group}"].value or 0.0) for group in groups}
    chosen = {one.model.name: read_predictions(folder, one) for one in best.values()}
    predictions = next(iter(chosen.values()))
    score_NC = predictions.columns["score"].copy()
    for group, one in best.items():
        rows = predictions.columns["group"] == group
        score_NC[rows] = chosen[one.model.name].columns["score"][rows]
    predictions = replace(predictions, columns=predictions.columns | {"score": score_NC})
    kept = {name: first.details[name] for name in ("classes", "class_items", "groups", "official")}
    said_N, target_N = score_NC.argmax(axis=1), predictions.columns["target"]
    result = result_of(
        "zero_shot",
        primary=first.primary,
        names=list(first.metrics),
        predictions=predictions,
        details=kept
        | {
            "teachers": {group: one.model.name for group, one in best.items()},
            "confusion": confusion(target_N, said_N, len(kept["classes"])),
        },
    )
    record = record_of(
        result,
        model=ModelFacts(name=ORACLE, address="the best teacher of each group", role=ORACLE, digest=digest),
        dataset=first.dataset,
        facts=RunFacts(
            prompts_digest=first.prompts_digest,
            logit_scale=None,
            versions=first.versions,
            seconds=0.0,
            excluded=first.excluded,
            overlap=first.overlap,
            request_digest=first.request_digest,
        ),
        mode=first.bootstrap.mode,
        resamples=first.bootstrap.resamples,
    )
    return record, predictions
