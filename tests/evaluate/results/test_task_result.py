"""Results of tasks are complete, consistent, and JSON where they say so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS
from evaluate.results.assemble import record_of
from evaluate.results.task_result import result_of
from evaluate.tasks.cohort import Cohort
from evaluate.tasks.diagnosis import diagnose_by_abmil, diagnose_by_mean
from evaluate.tasks.fitting.abmil import Abmil
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import Probe, linear_probe
from evaluate.tasks.questions import Questions
from evaluate.tasks.retrieval import retrieval
from evaluate.tasks.survival import CrossValidation, survival_abmil, survival_cox
from evaluate.tasks.vqa import Head, answer_questions
from evaluate.tasks.zero_shot import zero_shot
from store.errors import EvaluationError
from tests.evaluate.synthetic import dataset_facts, model_facts, run_facts

ITEMS, WIDTH = 24, 4
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(ITEMS, WIDTH)).astype(np.float32)
TARGET = np.arange(ITEMS) % 2
IDS = [f"item {row}" for row in range(ITEMS)]
CLASSES = ["no", "yes"]
SMALL = Abmil(hidden=4, attention=4, epochs=1)


def labelled(name, *, bags=False):
    features = [FEATURES[row : row + 1] for row in range(ITEMS)] if bags else FEATURES
    return LabelledFeatures(
        ids=IDS, features=features, target=TARGET, clusters=[f"{name} {row // 2}" for row in range(ITEMS)]
    )


def cohort(*, bags=False):
    features = [FEATURES[row : row + 1] for row in range(ITEMS)] if bags else FEATURES
    return Cohort(ids=IDS, features=features, time=1.0 + np.arange(ITEMS) % 7, event=(np.arange(ITEMS) % 3 > 0) * 1)


def questions(name):
    images = [f"{name} {row // 3}" for row in range(ITEMS)]
    answers = ["yes", "no", "left lung"] * (ITEMS // 3)
    return Questions(ids=IDS, image=FEATURES, question=FEATURES[::-1].copy(), answers=answers, images=images)


def all_results():
    two = CrossValidation(folds=2)
    few = Probe(shots=2, seeds=(0, 1))
    pair = {"classes": CLASSES}
    test = LabelledFeatures(ids=IDS, features=FEATURES, target=TARGET)
    yield zero_shot(test, class_CE=FEATURES[:2], logit_scale=10.0, **pair)
    yield linear_probe(labelled("train"), labelled("test"), probe=few, **pair)
    numbers = np.arange(ITEMS)
    yield retrieval(FEATURES, FEATURES, texts=IDS, image_of_text=numbers, image_ids=IDS)
    yield answer_questions(questions("train"), questions("test"), head=Head(hidden=4, epochs=1, seeds=(0, 1)))
    yield survival_cox(cohort(), split=two)
    yield survival_abmil(cohort(bags=True), split=two, settings=replace(SMALL, seeds=(0, 1)))
    yield diagnose_by_mean(labelled("train", bags=True), labelled("test", bags=True), **pair)
    yield diagnose_by_abmil(labelled("train", bags=True), labelled("test", bags=True), settings=SMALL, **pair)


TASKS = (
    "zero_shot",
    "linear_probe_2shot",
    "retrieval",
    "vqa",
    "survival_cox",
    "survival_abmil",
    "diagnosis_mean",
    "diagnosis_abmil",
)


@pytest.fixture(scope="module")
def results():
    return {result.task: result for result in all_results()}


@pytest.mark.parametrize("task", TASKS)
def test_details_are_json(task, results):
    details = results[task].details
    assert list(json.loads(json.dumps(details, allow_nan=False))) == list(details)
    assert details


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_can_be_computed_again_and_resampled(task, results):
    result = results[task]
    count = len(result.predictions.ids)
    weights = np.stack([np.ones(count), np.bincount(RNG.integers(count, size=count), minlength=count)])
    for name, value in result.metrics.items():
        found = METRICS[name](result.predictions.columns, weights)
        assert found[0] == pytest.approx(value)
        assert found.shape == (2,)
        if result.seeds:
            assert value == pytest.approx(np.mean(result.seeds[name]))
    assert result.primary in result.metrics
    assert result.predictions.strata in result.predictions.columns


def test_tasks_have_names_of_their_own(results):
    assert tuple(results) == TASKS


def predictions(**changes):
    return Predictions(**{"ids": ["a", "b"], "columns": {"correct": np.ones(2), "closed": np.zeros(2)}} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": []}, "there is no test item"),
        ({"ids": ["a", "a"]}, "1 of 2 test items have the name of another one"),
        ({"columns": {"correct": np.ones(3)}}, "2 test items, but other numbers of values: {'correct': 3}"),
        ({"clusters": ["a"]}, "other numbers of values: {'clusters': 1}"),
        ({"strata": "kind"}, "'kind', is not one of correct, closed"),
    ],
)
def test_predictions_that_are_not_complete_are_refused(changes, message):
    with pytest.raises(EvaluationError, match=message):
        predictions(**changes)


def test_a_primary_metric_that_is_not_defined_is_refused():
    known = {"names": ("vqa_overall", "vqa_closed"), "predictions": predictions(), "details": {}}
    assert result_of("vqa", primary="vqa_overall", **known).metrics["vqa_overall"] == 1
    with pytest.raises(EvaluationError, match="vqa_closed is not defined on these 2 test items"):
        result_of("vqa", primary="vqa_closed", **known)
    with pytest.raises(EvaluationError, match="vqa has no metric 'auroc'; it has vqa_overall, vqa_closed"):
        result_of("vqa", primary="auroc", **known)


def test_a_metric_that_a_seed_does_not_define_has_no_spread_over_seeds():
    score = np.tile([0.6, 0.4], (ITEMS, 1))
    columns = {"target": TARGET, "positive": TARGET == 1, "score": score, "score.1": score[:, ::-1]}
    columns |= {"flagged": np.zeros(ITEMS, bool), "flagged.1": np.ones(ITEMS, bool)}
    found = result_of(
        "probe",
        primary="accuracy",
        names=("accuracy", "sensitivity", "ppv"),
        predictions=Predictions(ids=IDS, columns=columns),
        details={},
    )
    assert set(found.seeds) == {"accuracy", "sensitivity"}
    assert found.seeds["sensitivity"] == [0.0, 1.0]
    assert np.isnan(found.metrics["ppv"])
    record = record_of(
        found, model=model_facts("mmkd"), dataset=dataset_facts("lungs"), facts=run_facts(), resamples=20
    )
    assert record.metrics["ppv"].value is None
    assert record.seeds["sensitivity"].sd == pytest.approx(0.5**0.5)
