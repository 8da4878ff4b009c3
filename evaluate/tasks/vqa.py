"""Visual question answering: frozen encoders and a small head over the answers seen in training.

The published recipes train far larger heads; the protocol of MMKD-CLIP's authors is not known. This one measures what
the frozen embeddings contain, in the same way for every model.

Axes: N questions, E embedding width, V answers of the vocabulary, B questions of a batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evaluate.metrics.predictions import Predictions
from evaluate.results.task_result import TaskResult, result_of
from evaluate.tasks.fitting.early_stopping import Stopped, seeded, train_until_no_better
from store.errors import EvaluationError

from .inputs import Array, check_disjoint
from .questions import Questions, fused
from .texts import normalised

log = logging.getLogger(__name__)

NAMES = ("vqa_overall", "vqa_open", "vqa_closed")
UNSEEN = -1

Data = tuple[Array, Array]
"""Inputs of a head, (N, 4E) float32, and numbers of the right answers, (N,)."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Head:
    """Architecture and training of the head.

    Attributes:
        hidden: width of its one hidden layer.
        dropout: before and after that layer.
        batch: questions per step.
        epochs: at most.
        patience: epochs without a better validation accuracy before it stops.
        val_share: share of the training images that is held out if there is no validation split.
        allow_shared_images: accept images that are in two splits.
    """

    hidden: int = 512
    dropout: float = 0.25
    lr: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 64
    epochs: int = 100
    patience: int = 10
    val_share: float = 0.1
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    device: str = "cpu"
    allow_shared_images: bool = False


def answer_questions(
    train: Questions,
    test: Questions,
    *,
    val: Questions | None = None,
    head: Head | None = None,
    primary: str = "vqa_overall",
) -> TaskResult:
    """Train a head per seed to choose among the training answers, and count its exact matches.

    An answer that training never saw cannot be given, and counts as wrong.

    Args:
        train: the heads learn from it, and its answers are the vocabulary.
        val: decides when to stop; if left out, a share of the training images, another one for each seed.

    Raises:
        EvaluationError: a split is empty, an image is in two splits, an answer is empty, embeddings are not finite.
    """
    head = head or Head()
    splits = {"train": train, "test": test} | ({"val": val} if val else {})
    vocabulary, shared = check_questions(splits, allow_shared_images=head.allow_shared_images)
    numbers = {text: number for number, text in enumerate(vocabulary)}
    targets = {
        name: np.array([numbers.get(_answer(*pair), UNSEEN) for pair in zip(split.ids, split.answers, strict=True)])
        for name, split in splits.items()
    }
    data = {name: (fused(split, what=name), targets[name]) for name, split in splits.items()}
    columns: dict[str, Array] = {"closed": test.is_closed, "target": targets["test"]}
    stops = []
    for place, seed in enumerate(head.seeds):
        fit, held = data["train"], data.get("val")
        if held is None:
            fit, held = _hold_out(fit, train.images, head.val_share, seed)
        predicted, stopped = _train_and_answer(fit, held, data["test"][0], len(vocabulary), head=head, seed=seed)
        suffix = f".{place}" if place else ""
        columns |= {f"answer{suffix}": predicted, f"correct{suffix}": predicted == targets["test"]}
        stops.append(stopped)
    predictions = Predictions(ids=list(test.ids), clusters=list(test.images), columns=columns, strata="closed")
    details = _details(train, test, vocabulary, targets, stops)
    details |= {"images_shared": shared, "training_seeds": [int(seed) for seed in head.seeds]}
    return result_of("vqa", primary=primary, names=vqa_metrics(test), predictions=predictions, details=details)


def check_questions(splits: Mapping[str, Questions], *, allow_shared_images: bool) -> tuple[list[str], dict[str, int]]:
    """Check splits of questions; return the answers of ``train``, in order, and how many images splits share.

    Raises:
        EvaluationError: a split is empty, an image is in two splits, an answer is empty, or training has one only.
    """
    empty = [name for name, split in splits.items() if not len(split.ids)]
    if empty:
        raise EvaluationError(f"the {empty[0]} split has no question")
    images = {name: split.images for name, split in splits.items()}
    shared = check_disjoint(images, what="images", allow_shared=allow_shared_images)
    answers = {
        name: {_answer(*pair) for pair in zip(split.ids, split.answers, strict=True)} for name, split in splits.items()
    }
    vocabulary = sorted(answers["train"])
    if len(vocabulary) < 2:
        raise EvaluationError(f"all training answers are {vocabulary[0]!r}: there is nothing to choose from")
    return vocabulary, shared


def vqa_metrics(test: Questions) -> list[str]:
    """Return the metrics that the test questions define: none over questions of a kind that is not asked."""
    there = {"vqa_open": (~test.is_closed).any(), "vqa_closed": test.is_closed.any()}
    return [name for name in NAMES if there.get(name, True)]


def _train_and_answer(
    fit: Data, held: Data | None, test_ND: Array, answers: int, *, head: Head, seed: int
) -> tuple[npt.NDArray[np.int64], Stopped]:
    """Train one head and return its answers to the test questions."""
    inputs_ND, target_N = (torch.from_numpy(part).to(head.device) for part in fit)
    order = np.random.default_rng(seed)
    with seeded(seed):
        model = torch.nn.Sequential(
            torch.nn.Dropout(head.dropout),
            torch.nn.Linear(inputs_ND.shape[1], head.hidden),
            torch.nn.ReLU(),
            torch.nn.Dropout(head.dropout),
            torch.nn.Linear(head.hidden, answers),
        ).to(head.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=head.lr, weight_decay=head.weight_decay)

        def epoch(_: int) -> float:
            losses = []
            for rows_B in np.array_split(order.permutation(len(target_N)), -(-len(target_N) // head.batch)):
                loss = torch.nn.functional.cross_entropy(model(inputs_ND[rows_B]), target_N[rows_B])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.item())
            return float(np.mean(losses))

        validate = None if held is None else partial(_accuracy, model, *held, device=head.device)
        stopped = train_until_no_better(
            model, epoch=epoch, validate=validate, epochs=head.epochs, patience=head.patience
        )
    return _chosen(model, test_ND, head.device), stopped


@torch.no_grad()
def _chosen(model: torch.nn.Module, inputs_ND: Array, device: str) -> npt.NDArray[np.int64]:
    """Return the answer with the highest score for every question."""
    return np.asarray(model(torch.from_numpy(inputs_ND).to(device)).argmax(dim=1).cpu().numpy(), np.int64)


def _accuracy(model: torch.nn.Module, inputs_ND: Array, target_N: Array, *, device: str) -> float:
    """Return the share of right answers."""
    return float((_chosen(model, inputs_ND, device) == target_N).mean())


def _hold_out(data: Data, images: Sequence[str], share: float, seed: int) -> tuple[Data, Data | None]:
    """Return what to train on and a share of the images to stop by; all and None where there is one image only."""
    names = sorted(set(images))
    if len(names) < 2:
        return data, None
    drawn = np.random.default_rng(seed).permutation(len(names))[: max(1, round(share * len(names)))]
    held = {names[number] for number in drawn}
    is_held_N = np.array([image in held for image in images])
    inputs_ND, target_N = data
    return (inputs_ND[~is_held_N], target_N[~is_held_N]), (inputs_ND[is_held_N], target_N[is_held_N])


def _answer(question: str, text: str) -> str:
    """Return an answer as it is compared."""
    found = normalised(text)
    if not found:
        raise EvaluationError(f"the answer to question {question!r} is empty: {text!r}")
    return found


def _details(
    train: Questions, test: Questions, vocabulary: list[str], targets: dict[str, Array], stops: Sequence[Stopped]
) -> dict[str, Any]:
    """Return further numbers, above all an upper and a lower bound of any head's accuracy."""
    closed_N, target_N = test.is_closed, targets["test"]
    kinds = {"overall": np.ones(len(target_N), bool), "open": ~closed_N, "closed": closed_N}
    unseen = int((target_N == UNSEEN).sum())
    if unseen:
        log.warning("%d of %d test answers never occur in training and count as wrong", unseen, len(target_N))
    most_frequent = {}
    for name, kind_N in {"open": ~train.is_closed, "closed": train.is_closed}.items():
        counts = Counter(targets["train"][kind_N].tolist())
        most_frequent[name] = min(counts, key=lambda number: (-counts[number], number)) if counts else UNSEEN - 1
    guess_N = np.where(closed_N, most_frequent["closed"], most_frequent["open"])
    return {
        "vocabulary": vocabulary,
        "num_train": len(train.ids),
        "num_questions": {name: int(kind_N.sum()) for name, kind_N in kinds.items()},
        "answers_seen_in_training": {
            name: float((target_N[kind_N] != UNSEEN).mean()) for name, kind_N in kinds.items() if kind_N.any()
        },
        "always_the_most_frequent_answer": {
            name: float((guess_N[kind_N] == target_N[kind_N]).mean()) for name, kind_N in kinds.items() if kind_N.any()
        },
        "best_epochs": [stopped.best_epoch for stopped in stops],
        "epochs": [stopped.epochs for stopped in stops],
    }
