"""The inputs of each task, made of a dataset and a model's embeddings, and checked.

``python -m evaluate check`` calls the same functions with an encoder that gives every image and text the same
embedding, so that it refuses what a run would refuse, whatever the model. What only a fit tells, such as a Cox model
without solution, only a run can say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluate.datasets.loaded import LoadedDataset, Split
from evaluate.datasets.split_rules import Folds
from evaluate.models.encoders import Embedded, Embeddings, Encoder, ImageSet
from evaluate.results.record import ModelFacts
from evaluate.tasks.classified import OF_DECISIONS, SEVERAL_LABELS, SINGLE_LABEL, check_label_splits, check_splits
from evaluate.tasks.cohort import Cohort, Fold, by_patient
from evaluate.tasks.fitting.survival_models import varying_features
from evaluate.tasks.fitting.tables import Rows, Table
from evaluate.tasks.inputs import LabelledFeatures, check_bags, check_labels, check_target, unit_norm
from evaluate.tasks.questions import Questions
from evaluate.tasks.retrieval import NAMES as RETRIEVAL
from evaluate.tasks.retrieval import check_pairs
from evaluate.tasks.survival import NAMES as SURVIVAL
from evaluate.tasks.survival import CrossValidation, checked_folds
from evaluate.tasks.vqa import check_questions, vqa_metrics
from evaluate.tasks.zero_shot import IN_GROUPS
from store.config.problems import it_has
from store.errors import EvaluationError

from .split_embeddings import Embedder, labelled_features


def zero_shot_items(embedder: Embedder) -> tuple[Split, LabelledFeatures]:
    """Return the test items, as the dataset has them and with their features.

    Raises:
        EvaluationError: they cannot be classified.
    """
    entry = embedder.dataset.entry
    names = SEVERAL_LABELS if entry.multi_label else _classified(len(entry.classes))
    _require_metric(embedder, "zero_shot", (*IN_GROUPS,) if entry.groups else names)
    split, image_NE = embedder.split(embedder.dataset.test)
    test = labelled_features(split, image_NE)
    if entry.multi_label:
        check_labels(test.target, entry.class_names, what="test")
    else:
        check_target(test.target, entry.class_names, what="test", several=not entry.groups)
    return split, test


def probe_splits(embedder: Embedder) -> dict[str, LabelledFeatures]:
    """Return the splits of a linear probe by name.

    Raises:
        EvaluationError: there is nothing to train on, or a split tells nothing.
    """
    entry = embedder.dataset.entry
    _require_metric(embedder, "linear_probe", SEVERAL_LABELS if entry.multi_label else _classified(len(entry.classes)))
    embedder.dataset.require("train")
    splits: dict[str, LabelledFeatures] = {
        name: labelled_features(*embedder.split(split)) for name, split in embedder.dataset.splits.items()
    }
    check = check_label_splits if entry.multi_label else check_splits
    check(splits, entry.class_names, allow_shared_groups="shared_patients" in entry.allow)
    return splits


@dataclass(kw_only=True, frozen=True, slots=True)
class Pairs:
    """The test items of retrieval; ``first`` are the items whose images are the distinct ones."""

    split: Split
    first: list[int]
    image: Embeddings
    text: Embeddings
    texts: list[str]
    image_of_text: Rows


def retrieval_pairs(embedder: Embedder) -> Pairs:
    """Return the distinct test images and the texts of each.

    Raises:
        EvaluationError: a text is empty.
    """
    _require_metric(embedder, "retrieval", RETRIEVAL)
    split, image_NE = embedder.split(embedder.dataset.test)
    texts = split.captions or []
    first, image_of_text = split.distinct_images()
    image, text = image_NE[first], embedder.encoder.embed_texts(texts)
    check_pairs(image, text, texts, image_of_text, [split.ids[item] for item in first])
    return Pairs(split=split, first=first, image=image, text=text, texts=texts, image_of_text=image_of_text)


def question_splits(embedder: Embedder) -> tuple[Split, dict[str, Questions]]:
    """Return the test items, and the questions of every split by name.

    Raises:
        EvaluationError: there is nothing to train on, or a split tells nothing.
    """
    dataset = embedder.dataset
    dataset.require("train")
    asked = {name: embedder.split(split) for name, split in dataset.splits.items()}
    questions: dict[str, Questions] = {name: _questions(embedder.encoder, *items) for name, items in asked.items()}
    _require_metric(embedder, "vqa", vqa_metrics(questions["test"]))
    check_questions(questions, allow_shared_images="shared_patients" in dataset.entry.allow)
    return asked["test"][0], questions


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


@dataclass(kw_only=True, frozen=True, slots=True)
class Survivors:
    """Patients with their split: folds where the dataset has none, else rows, of which ``val`` may be None."""

    cohort: Cohort
    split: CrossValidation | Fold
    val: Rows | None


def survivors(embedder: Embedder) -> Survivors:
    """Return the patients of a dataset, and which of them train, choose and test.

    Raises:
        EvaluationError: nothing can be predicted for them, or a patient is in two splits.
    """
    dataset, rule = embedder.dataset, embedder.dataset.entry.split
    _require_metric(embedder, "survival", SURVIVAL)
    if not isinstance(rule, Folds):
        dataset.require("train")
    parts = {name: _featured(embedder, split) for name, split in dataset.splits.items()}
    splits = {name: split for name, (split, _) in parts.items()}
    patients = {name: list(dict.fromkeys(split.patients or split.ids)) for name, split in splits.items()}
    cohort = _cohort(list(splits.values()), [features for _, features in parts.values()])
    if isinstance(rule, Folds):
        split: CrossValidation | Fold = CrossValidation(folds=rule.count, seed=rule.seed)
        val = None
    else:
        place = {patient: number for number, patient in enumerate(cohort.ids)}
        rows = {name: np.array([place[one] for one in own], np.int64) for name, own in patients.items()}
        split, val = (rows["train"], rows["test"]), rows.get("val")
    for train, _ in checked_folds(cohort, split, val=val):
        if dataset.entry.items == "table":
            varying_features(cohort.pooled(train)[train])
    return Survivors(cohort=cohort, split=split, val=val)


def _featured(embedder: Embedder, split: Split) -> tuple[Split, Sequence[Embeddings] | Table]:
    """Return the items of a split that have features, and those: rows of a table, or a bag or vector for each."""
    if split.features is None or split.categories is None:
        return embedder.features(split)
    rows = [np.array([number]) for number in range(len(split))]
    return split, Table(numbers=split.features, categories=split.categories, rows=rows)


def _cohort(splits: Sequence[Split], parts: Sequence[Sequence[Embeddings] | Table]) -> Cohort:
    """Return the patients of all splits, each once."""
    tables = [part for part in parts if isinstance(part, Table)]
    bags = [part for part in parts if not isinstance(part, Table)]
    slides = [np.atleast_2d(np.asarray(one)) for part in bags for one in part]
    columns = {name for split in splits for name in split.subgroups or {}}
    return by_patient(
        Table.stacked(tables) if tables else slides,
        patients=[patient for split in splits for patient in (split.patients or split.ids)],
        time=np.concatenate([split.times for split in splits if split.times is not None]),
        event=np.concatenate([split.events for split in splits if split.events is not None]).astype(np.int64),
        subgroups={
            name: [value for split in splits for value in (split.subgroups or {})[name]] for name in sorted(columns)
        },
    )


def slide_splits(embedder: Embedder) -> dict[str, LabelledFeatures]:
    """Return the splits of slides by name.

    Raises:
        EvaluationError: there is nothing to train on, a split tells nothing, or bags cannot be used.
    """
    dataset, entry = embedder.dataset, embedder.dataset.entry
    _require_metric(embedder, "diagnosis", _classified(len(entry.classes)))
    dataset.require("train")
    splits: dict[str, LabelledFeatures] = {name: embedder.bags(split) for name, split in dataset.splits.items()}
    check_splits(splits, entry.class_names, allow_shared_groups="shared_patients" in entry.allow)
    check_bags([bag for split in splits.values() for bag in split.features], what="slides")
    for name, split in splits.items():
        means_ND = np.stack([bag.mean(axis=0, dtype=np.float64) for bag in split.features])
        unit_norm(means_ND, what=f"{name} features", dtype=np.float64)
    return splits


def _classified(classes: int) -> tuple[str, ...]:
    return SINGLE_LABEL + OF_DECISIONS if classes == 2 else SINGLE_LABEL


def _require_metric(embedder: Embedder, task: str, names: Sequence[str]) -> None:
    primary = embedder.dataset.entry.tasks[task].primary
    if primary not in names:
        raise EvaluationError(f"{task} has no metric {primary!r} on these items{it_has(primary, names)}")


INPUTS: dict[str, Callable[[Embedder], object]] = {
    "zero_shot": zero_shot_items,
    "linear_probe": probe_splits,
    "retrieval": retrieval_pairs,
    "vqa": question_splits,
    "survival": survivors,
    "diagnosis": slide_splits,
}
"""The function that makes and checks the inputs of each task."""


def refusals(dataset: LoadedDataset) -> Iterator[str]:
    """Yield why a task of the dataset cannot be done, whatever the model."""
    for task in dataset.entry.tasks:
        make = INPUTS.get(task)
        try:
            if make is not None:
                make(Embedder(_AllAlike(), dataset))
        except EvaluationError as error:
            yield f"{task}: {error}" + (f" ({error.hint})" if error.hint else "")


class _AllAlike:
    """An encoder to which all images and texts are alike; no image is read."""

    facts = ModelFacts(name="none", address="none", role="other", digest="none")
    logit_scale = 1.0

    def embed_images(self, images: ImageSet) -> Embedded:
        return Embedded(rows=np.ones((len(images.digests), 1), np.float32))

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        return np.ones((len(texts), 1), np.float32)
