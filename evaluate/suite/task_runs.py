"""Runs one task with one model on one dataset: embeddings of the splits, the task, a few example items."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np

from evaluate.datasets.entry import DatasetEntry
from evaluate.datasets.loaded import LoadedDataset, Split
from evaluate.models.encoders import Embeddings, Encoder
from evaluate.results.examples import Example
from evaluate.results.task_result import TaskResult
from evaluate.tasks.cohort import Cohort, by_patient
from evaluate.tasks.diagnosis import diagnose_by_abmil, diagnose_by_mean
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import Probe, linear_probe
from evaluate.tasks.questions import Questions
from evaluate.tasks.retrieval import retrieval
from evaluate.tasks.survival import survival_abmil, survival_cox
from evaluate.tasks.vqa import Head, answer_questions
from evaluate.tasks.zero_shot import zero_shot, zero_shot_in_groups, zero_shot_labels
from store.errors import EvaluationError

from .class_embeddings import ABSENT, PRESENT, class_embeddings
from .split_embeddings import Embedder, targets_of
from .task_examples import retrieval_examples, wrong_answers, wrong_classes

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
    """

    results: list[TaskResult]
    excluded: Counter[str] = field(default_factory=Counter)
    prompts_digest: str | None = None
    logit_scale: float | None = None
    skipped: dict[str, str] = field(default_factory=dict)


def run_task(task: str, encoder: Encoder | None, dataset: LoadedDataset, *, official: bool = False) -> Outcome:
    """Run a task.

    Args:
        encoder: None if the dataset brings its own features.
        official: as in MMKD-CLIP's released evaluator, zero-shot scores are the softmax of the unscaled cosines.

    Raises:
        EvaluationError: the task cannot be done with this model or these items.
    """
    return RUNS[task](Embedder(encoder, dataset, official=official))


def _zero_shot(embedder: Embedder) -> Outcome:
    entry, encoder, official = embedder.dataset.entry, embedder.encoder, embedder.official
    first_label = official and entry.released is not None and entry.released.first_label
    several = entry.multi_label is not None and not first_label
    # Before the images: a store that lacks the prompts need not read them.
    found = class_embeddings(entry, encoder.embed_texts, several=several)
    split, image_NE = embedder.split(embedder.dataset.test)
    target = targets_of(split).argmax(axis=1) if first_label and entry.multi_label else targets_of(split)
    test = LabelledFeatures(ids=split.ids, features=image_NE, target=target, clusters=split.patients)
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
        single = {template: of[PRESENT] for template, of in found.single.items()}
        whole = found.whole[PRESENT]
        result = zero_shot(test, class_CE=whole, classes=classes, positive=_positive(entry), single=single, **how)
    if not several:
        result = _with_examples(result, wrong_classes(result, split, classes))
    return Outcome(
        results=[result],
        excluded=embedder.excluded,
        prompts_digest=hashlib.sha256(json.dumps(found.prompts).encode()).hexdigest(),
        logit_scale=result.details["logit_scale"],
    )


def _positive(entry: DatasetEntry) -> str | None:
    return None if entry.positive_index is None else entry.class_names[entry.positive_index]


def _linear_probe(embedder: Embedder) -> Outcome:
    dataset, entry = embedder.dataset, embedder.dataset.entry
    if entry.multi_label:
        raise EvaluationError(f"{entry.name}: a linear probe of several labels per image is not defined here")
    dataset.require("train")
    train, val, test = embedder.labelled("train"), embedder.labelled("val"), embedder.labelled("test")
    if train is None or test is None:
        raise EvaluationError(f"{entry.name}: a linear probe needs a train and a test split")
    outcome = Outcome(results=[], excluded=embedder.excluded)
    shared = "shared_patients" in entry.allow
    positive = _positive(entry)
    amounts = [{}, *({"fraction": fraction} for fraction in FRACTIONS), *({"shots": shots} for shots in SHOTS)]
    for amount in amounts:
        probe = Probe(**amount, positive=positive, allow_shared_groups=shared)  # type: ignore[arg-type]
        primary = entry.tasks["linear_probe"].primary
        try:
            found = linear_probe(train, test, classes=entry.class_names, val=val, probe=probe, primary=primary)
            outcome.results.append(found)
        except EvaluationError as error:
            if not amount:
                raise
            # A class with three images has no sixteen shots; the other amounts remain.
            outcome.skipped[probe.name] = str(error)
    return outcome


def _retrieval(embedder: Embedder) -> Outcome:
    dataset = embedder.dataset
    split, image_NE = embedder.split(dataset.test)
    texts = split.captions or []
    first, image_of_text = split.distinct_images()
    text_NE = embedder.encoder.embed_texts(texts)
    patients = None if split.patients is None else [split.patients[item] for item in first]
    result = retrieval(
        image_NE[first],
        text_NE,
        texts=texts,
        image_of_text=image_of_text,
        image_ids=[split.ids[item] for item in first],
        clusters=patients,
        primary=dataset.entry.tasks["retrieval"].primary,
    )
    result = _with_examples(result, retrieval_examples(image_NE[first], text_NE, split, first))
    return Outcome(results=[result], excluded=embedder.excluded)


def _vqa(embedder: Embedder) -> Outcome:
    dataset = embedder.dataset
    asked = {name: embedder.split(dataset.splits[name]) for name in dataset.splits}
    questions = {name: _questions(embedder.encoder, split, rows_NE) for name, (split, rows_NE) in asked.items()}
    dataset.require("train")
    result = answer_questions(
        questions["train"],
        questions["test"],
        val=questions.get("val"),
        head=Head(allow_shared_images="shared_patients" in dataset.entry.allow),
        primary=dataset.entry.tasks["vqa"].primary,
    )
    result = _with_examples(result, wrong_answers(result, asked["test"][0]))
    return Outcome(results=[result], excluded=embedder.excluded)


def _questions(encoder: Encoder, split: Split, image_NE: Embeddings) -> Questions:
    closed = None
    if split.answer_types is not None:
        closed = np.array([kind.strip().lower() in {"closed", "yes/no"} for kind in split.answer_types])
    return Questions(
        ids=split.ids,
        image=image_NE,
        question=encoder.embed_texts(split.questions or []),
        answers=split.answers or [],
        images=split.patients or split.image_digests or [],
        closed=closed,
    )


def _survival(embedder: Embedder) -> Outcome:
    """Cross-validate over all patients: the test split of a small cohort would have too few events."""
    dataset = embedder.dataset
    parts = [embedder.features(split) for split in dataset.splits.values()]
    bags = [rows for _, features in parts for rows in features]
    splits = [split for split, _ in parts]
    time, event = (np.concatenate([getattr(split, name) for split in splits]) for name in ("times", "events"))
    patients = [name for split in splits for name in (split.patients or split.ids)]
    event = event.astype(np.int64)
    if len(set(patients)) < len(patients):
        cohort = by_patient([np.atleast_2d(bag) for bag in bags], patients=patients, time=time, event=event)
    else:
        features = np.stack(bags) if bags[0].ndim == 1 else bags
        cohort = Cohort(ids=patients, features=features, time=time, event=event)
    primary = dataset.entry.tasks["survival"].primary
    outcome = Outcome(results=[survival_cox(cohort, primary=primary)], excluded=embedder.excluded)
    try:
        outcome.results.append(survival_abmil(cohort, primary=primary))
    except EvaluationError as error:
        outcome.skipped["survival_abmil"] = str(error)
    return outcome


def _diagnosis(embedder: Embedder) -> Outcome:
    dataset, entry = embedder.dataset, embedder.dataset.entry
    dataset.require("train")
    bags = {name: embedder.bags(split) for name, split in dataset.splits.items()}
    shared, primary = "shared_patients" in entry.allow, entry.tasks["diagnosis"].primary
    positive = _positive(entry)
    probe = Probe(positive=positive, allow_shared_groups=shared)
    by_mean = diagnose_by_mean(
        bags["train"], bags["test"], classes=entry.class_names, val=bags.get("val"), probe=probe, primary=primary
    )
    by_abmil = diagnose_by_abmil(
        bags["train"],
        bags["test"],
        classes=entry.class_names,
        val=bags.get("val"),
        positive=positive,
        allow_shared_groups=shared,
        primary=primary,
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
