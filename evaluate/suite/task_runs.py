"""Runs one task with one model on one dataset: embeddings of the splits, the task, a few example items."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from evaluate.datasets.entry import DatasetEntry
from evaluate.datasets.loaded import LoadedDataset, Split
from evaluate.models.encoders import Encoder
from evaluate.results.examples import Example
from evaluate.results.task_result import TaskResult
from evaluate.tasks.diagnosis import diagnose_by_abmil, diagnose_by_mean
from evaluate.tasks.fitting.thresholds import Deciding
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import Probe, linear_probe, linear_probe_labels, same_fits
from evaluate.tasks.retrieval import retrieval
from evaluate.tasks.survival import survival_abmil, survival_cox
from evaluate.tasks.vqa import Head, answer_questions
from evaluate.tasks.zero_shot import zero_shot, zero_shot_in_groups, zero_shot_labels
from store.errors import EvaluationError

from .class_embeddings import ABSENT, PRESENT, class_embeddings
from .split_embeddings import Embedder
from .task_examples import retrieval_examples, sampled_classes, wrong_answers, wrong_classes
from .task_inputs import probe_splits, question_splits, retrieval_pairs, slide_splits, survivors, zero_shot_items

log = logging.getLogger(__name__)

SHOTS = (1, 2, 4, 8, 16)
FRACTIONS = (0.01, 0.1)


class _ZeroShot(TypedDict):
    logit_scale: float
    official: bool
    primary: str


@dataclass(kw_only=True, slots=True)
class Outcome:
    """The results of one task.

    Attributes:
        results: one; for the linear probe one per amount of training items.
        excluded: test items without an embedding, by reason.
        skipped: parts of the task that could not be done, by name, with the reason.
        repeated: parts that would repeat the fits of a result, by name, with that of the result.
    """

    results: list[TaskResult]
    excluded: Counter[str] = field(default_factory=Counter)
    prompts_digest: str | None = None
    logit_scale: float | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)


def run_task(task: str, encoder: Encoder | None, dataset: LoadedDataset, *, official: bool = False) -> Outcome:
    """Run a task.

    Args:
        encoder: None if the dataset brings its own features.
        official: as in MMKD-CLIP's released evaluator, zero-shot has its scores, metrics and labels.

    Raises:
        EvaluationError: the task cannot be done with this model or these items.
    """
    outcome = RUNS[task](Embedder(encoder, dataset, official=official))
    outcome.results = [_in_clusters(result, dataset.test) for result in outcome.results]
    return outcome


def _in_clusters(result: TaskResult, test: Split) -> TaskResult:
    """Return a result whose test items know what a resample takes together: tasks know patients, not equal images."""
    if test.clusters is None or not set(result.predictions.ids) <= set(test.ids):
        return result  # retrieval ranks images and texts, cross-validation tests items of every split
    cluster_of = dict(zip(test.ids, test.clusters, strict=True))
    clusters = [cluster_of[name] for name in result.predictions.ids]
    return replace(result, predictions=replace(result.predictions, clusters=clusters))


def _zero_shot(embedder: Embedder) -> Outcome:
    entry, encoder, official = embedder.dataset.entry, embedder.encoder, embedder.official
    first_label = official and entry.released is not None and entry.released.first_label
    several = entry.multi_label is not None and not first_label
    # Before the images: a store that lacks the prompts need not read them.
    found = class_embeddings(entry, encoder.embed_texts, several=several)
    split, test = zero_shot_items(embedder)
    if first_label and entry.multi_label:
        test = replace(test, target=test.target.argmax(axis=1))
    how = _ZeroShot(logit_scale=encoder.logit_scale, official=official, primary=entry.tasks["zero_shot"].primary)
    classes = entry.class_names
    if entry.groups:
        numbers = {label: number for number, label in enumerate(entry.classes)}
        groups = {group: [numbers[label] for label in of.classes] for group, of in entry.groups.items()}
        group_N = split.groups or []
        result = zero_shot_in_groups(
            test, group_N=group_N, groups=groups, class_KE=found.whole, single=found.single, classes=classes, **how
        )
    elif several:
        sides = {template: (of[PRESENT], of[ABSENT]) for template, of in found.single.items()}
        positive, negative = found.whole[PRESENT], found.whole[ABSENT]
        result = zero_shot_labels(test, positive_CE=positive, negative_CE=negative, labels=classes, single=sides, **how)
    else:
        result = zero_shot(
            test,
            class_CE=found.whole[PRESENT],
            classes=classes,
            positive=_positive(entry),
            val=_validation(embedder) if len(classes) == 2 else None,
            deciding=_deciding(entry),
            single={template: of[PRESENT] for template, of in found.single.items()},
            **how,
        )
    if not several:
        result = _with_examples(
            result, [*sampled_classes(result, split, classes), *wrong_classes(result, split, classes)]
        )
    return Outcome(
        results=[result],
        excluded=embedder.excluded,
        prompts_digest=hashlib.sha256(json.dumps(found.prompts).encode()).hexdigest(),
        logit_scale=result.details["logit_scale"],
    )


def _validation(embedder: Embedder) -> LabelledFeatures | None:
    """Return the validation items, which choose a threshold; None if there are none that the model can embed."""
    try:
        return embedder.labelled("val")
    except EvaluationError as error:
        log.warning("the threshold is not chosen on validation: %s", error)
        return None


def _positive(entry: DatasetEntry) -> str | None:
    return None if entry.positive_index is None else entry.class_names[entry.positive_index]


def _deciding(entry: DatasetEntry) -> Deciding:
    return Deciding(sensitivity=entry.sensitivity, prevalence=entry.prevalence)


def _probe(entry: DatasetEntry, **amount: Any) -> Probe:
    shared = "shared_patients" in entry.allow
    return Probe(**amount, positive=_positive(entry), allow_shared_groups=shared, deciding=_deciding(entry))


def _linear_probe(embedder: Embedder) -> Outcome:
    entry, splits = embedder.dataset.entry, probe_splits(embedder)
    outcome = Outcome(results=[], excluded=embedder.excluded)
    amounts: list[dict[str, Any]] = [{}]
    # An image of several labels is no shot of one class.
    amounts += [] if entry.multi_label else [{"shots": shots} for shots in SHOTS]
    amounts += [{"fraction": fraction} for fraction in FRACTIONS]
    run = linear_probe_labels if entry.multi_label else linear_probe
    names = {"labels" if entry.multi_label else "classes": entry.class_names}
    for amount in amounts:
        probe, primary = _probe(entry, **amount), entry.tasks["linear_probe"].primary
        try:
            found = run(splits["train"], splits["test"], val=splits.get("val"), probe=probe, primary=primary, **names)
        except EvaluationError as error:
            if not amount:
                raise
            # A class with three images has no sixteen shots; the other amounts remain.
            outcome.skipped[probe.name] = str(error)
            continue
        same = next((each for each in outcome.results if same_fits(each, found)), None)
        if same is None:
            outcome.results.append(found)
        else:
            outcome.repeated[found.task] = same.task
            same.details.setdefault("also", []).append(found.task)
    return outcome


def _retrieval(embedder: Embedder) -> Outcome:
    pairs = retrieval_pairs(embedder)
    split, first = pairs.split, pairs.first
    clusters = split.clusters or split.ids
    result = retrieval(
        pairs.image,
        pairs.text,
        texts=pairs.texts,
        image_of_text=pairs.image_of_text,
        image_ids=[split.ids[item] for item in first],
        clusters=[clusters[item] for item in first],
        primary=embedder.dataset.entry.tasks["retrieval"].primary,
    )
    result = _with_examples(
        result, retrieval_examples(pairs.image, pairs.text, split, first, embedder.dataset.entry.class_names)
    )
    return Outcome(results=[result], excluded=embedder.excluded)


def _vqa(embedder: Embedder) -> Outcome:
    entry = embedder.dataset.entry
    split, questions = question_splits(embedder)
    result = answer_questions(
        questions["train"],
        questions["test"],
        val=questions.get("val"),
        head=Head(allow_shared_images="shared_patients" in entry.allow),
        primary=entry.tasks["vqa"].primary,
    )
    result = _with_examples(result, wrong_answers(result, split))
    return Outcome(results=[result], excluded=embedder.excluded)


def _survival(embedder: Embedder) -> Outcome:
    """Obey the dataset's split; where it has none, each patient is tested in a fold."""
    found, primary = survivors(embedder), embedder.dataset.entry.tasks["survival"].primary
    by_cox = survival_cox(found.cohort, split=found.split, val=found.val, primary=primary)
    outcome = Outcome(results=[by_cox], excluded=embedder.excluded)
    try:
        outcome.results.append(survival_abmil(found.cohort, split=found.split, val=found.val, primary=primary))
    except EvaluationError as error:
        outcome.skipped["survival_abmil"] = str(error)
    return outcome


def _diagnosis(embedder: Embedder) -> Outcome:
    entry, bags = embedder.dataset.entry, slide_splits(embedder)
    primary, classes, val = entry.tasks["diagnosis"].primary, entry.class_names, bags.get("val")
    by_mean = diagnose_by_mean(
        bags["train"], bags["test"], classes=classes, val=val, probe=_probe(entry), primary=primary
    )
    by_abmil = diagnose_by_abmil(
        bags["train"],
        bags["test"],
        classes=classes,
        val=val,
        positive=_positive(entry),
        allow_shared_groups="shared_patients" in entry.allow,
        primary=primary,
        deciding=_deciding(entry),
    )
    return Outcome(results=[by_mean, by_abmil], excluded=embedder.excluded)


def _with_examples(result: TaskResult, examples: Sequence[Example]) -> TaskResult:
    shown = [example.model_dump(mode="json") for example in examples]
    return replace(result, details={**result.details, "examples": shown})


RUNS: dict[str, Callable[[Embedder], Outcome]] = {
    "zero_shot": _zero_shot,
    "linear_probe": _linear_probe,
    "retrieval": _retrieval,
    "vqa": _vqa,
    "survival": _survival,
    "diagnosis": _diagnosis,
}
"""The function that runs each task of ``datasets.task_kinds.TASKS``."""
