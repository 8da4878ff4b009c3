"""Zero-shot classification as a task: cosines with class embeddings, softmax, predictions.

Axes: N images, E embedding width, C classes or labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from evaluate.metrics.predictions import Predictions
from evaluate.results.task_result import TaskResult, result_of
from store.errors import EvaluationError

from .classified import classified
from .inputs import Array, LabelledFeatures, check_target, unit_norm

log = logging.getLogger(__name__)

SEVERAL_LABELS = ("auroc", "average_precision", "label_accuracy")

PIECE_ROWS = 65_536
"""Images of a piece: 128 MiB of float32 embeddings 512 wide."""

OFFICIAL_SCALE = 1.0
"""MMKD-CLIP's evaluator takes the softmax of the cosines themselves; AUROC of several classes depends on it."""


def zero_shot(
    image_NE: Array,
    target_N: Array,
    *,
    class_CE: Array,
    classes: Sequence[str],
    ids: Sequence[str],
    logit_scale: float,
    official: bool = False,
    positive: str | None = None,
    clusters: Sequence[str] | None = None,
    primary: str = "auroc",
) -> TaskResult:
    """Classify every image as one of C classes.

    Args:
        image_NE: embeddings, any float dtype, any length.
        target_N: class numbers.
        class_CE: of each class, as ``zero_shot.prompt_ensemble`` makes them.
        classes: C names, from the dataset's entry.
        ids: N names.
        logit_scale: the model's.
        official: take the scale 1 instead.
        positive: which of two classes is the positive one; the second if left out.
        clusters: N patients or slides.
        primary: the metric that stands for the result.

    Raises:
        EvaluationError: labels outside the list, one class only, embeddings that are not finite or zero.
    """
    _check_counts(image_NE, len(target_N), class_CE, classes)
    missing = check_target(target_N, classes, what="test")
    scale = _scale(logit_scale, official=official)
    score_NC, logit_NC = _scores(image_NE, class_CE, scale)
    details = {
        "classes": list(classes),
        "class_items": np.bincount(target_N, minlength=len(classes)).tolist(),
        "classes_without_items": missing,
        "logit_scale": scale,
        "official": official,
    }
    test = LabelledFeatures(ids=ids, features=image_NE, target=target_N, groups=clusters)
    scores = [(score_NC, logit_NC)]
    return classified("zero_shot", test, scores, classes=classes, positive=positive, primary=primary, details=details)


def zero_shot_labels(
    image_NE: Array,
    target_NC: Array,
    *,
    positive_CE: Array,
    negative_CE: Array,
    labels: Sequence[str],
    ids: Sequence[str],
    logit_scale: float,
    official: bool = False,
    clusters: Sequence[str] | None = None,
    primary: str = "auroc",
) -> TaskResult:
    """Say of every image which of C labels it has: each label's positive prompts against its negative ones.

    Args:
        image_NE: embeddings.
        target_NC: 0 or 1.
        positive_CE: embeddings of what says that the label is there.
        negative_CE: of what says that it is not.
        labels: C names, from the dataset's entry.
        ids: N names.
        logit_scale: the model's.
        official: take the scale 1 instead.
        clusters: N patients.
        primary: the metric that stands for the result.

    Raises:
        EvaluationError: targets are not 0 and 1, no label has both kinds of images, or embeddings cannot be used.
    """
    _check_counts(image_NE, len(target_NC), positive_CE, labels)
    constant = _constant_labels(target_NC, labels, len(image_NE))
    scale = _scale(logit_scale, official=official)
    _, positive_NC = _scores(image_NE, positive_CE, scale)
    _, negative_NC = _scores(image_NE, negative_CE, scale)
    columns = {"target": target_NC.astype(np.int64), "score": expit(positive_NC - negative_NC)}
    details = {
        "classes": list(labels),
        "class_items": target_NC.sum(axis=0).tolist(),
        "classes_left_out": constant,
        "logit_scale": scale,
        "official": official,
    }
    predictions = Predictions(ids=list(ids), clusters=None if clusters is None else list(clusters), columns=columns)
    return result_of("zero_shot", primary=primary, names=SEVERAL_LABELS, predictions=predictions, details=details)


def _constant_labels(target_NC: Array, labels: Sequence[str], images: int) -> list[str]:
    """Return the labels that all images have or none has.

    Raises:
        EvaluationError: targets are not 0 and 1 of every label and image, or all labels are such.
    """
    if target_NC.shape != (images, len(labels)) or not np.isin(target_NC, (0, 1)).all():
        raise EvaluationError(f"targets must be 0 or 1, {len(labels)} to an image; their shape is {target_NC.shape}")
    have_C = target_NC.sum(axis=0)
    constant = [name for name, have in zip(labels, have_C, strict=True) if have in (0, images)]
    if len(constant) == len(labels):
        raise EvaluationError("every label is the same for all images: there is nothing to tell apart")
    if constant:
        log.warning("labels that all images have or none has are left out of the means: %s", ", ".join(constant))
    return constant


def _scores(image_NE: Array, class_CE: Array, scale: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return softmax(scale * cosine) and scale * cosine, (N, C) each; embeddings are read a piece at a time.

    The softmax is of float64: at a scale of 100 float32 rounds the shares of many images to 1, and AUROC sees ties.
    """
    class_CE = unit_norm(class_CE, what="class embeddings")
    logit_NC = np.empty((len(image_NE), len(class_CE)))
    for begin in range(0, len(image_NE), PIECE_ROWS):
        piece = unit_norm(image_NE[begin : begin + PIECE_ROWS], what=f"image embeddings from row {begin}")
        logit_NC[begin : begin + PIECE_ROWS] = piece @ class_CE.T
    logit_NC *= scale
    score_NC = np.exp(logit_NC - logit_NC.max(axis=1, keepdims=True))
    score_NC /= score_NC.sum(axis=1, keepdims=True)
    return score_NC, logit_NC


def _scale(logit_scale: float, *, official: bool) -> float:
    """Return the scale to use."""
    if not (np.isfinite(logit_scale) and logit_scale > 0):
        raise EvaluationError(f"the logit scale must be positive, not {logit_scale}")
    return OFFICIAL_SCALE if official else float(logit_scale)


def _check_counts(image_NE: Array, targets: int, class_CE: Array, classes: Sequence[str]) -> None:
    """See that there is an embedding per target and one per class, of one width."""
    if len(image_NE) != targets:
        raise EvaluationError(f"{len(image_NE)} image embeddings, but {targets} targets")
    if class_CE.ndim != 2 or len(class_CE) != len(classes):
        raise EvaluationError(f"class embeddings of the shape {class_CE.shape} for {len(classes)} classes")
    if image_NE.shape[1:] != class_CE.shape[1:]:
        raise EvaluationError(f"images are embedded as {image_NE.shape[1:]}, classes as {class_CE.shape[1:]}")
