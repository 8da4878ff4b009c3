"""Zero-shot classification: an embedding per class from its prompts, cosines, softmax, predictions.

Axes: N images, E embedding width, C classes or labels, K classes of a group, P prompts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from evaluate.metrics.registry import IN_GROUP
from evaluate.results.task_result import TaskResult, result_of
from evaluate.tasks.fitting.thresholds import Deciding
from store.errors import CorpusError, EvaluationError

from .classified import classified, confusion, predicted, with_labels
from .inputs import Array, LabelledFeatures, check_labels, check_target, unit_norm

Embeddings = npt.NDArray[np.float32]

IN_GROUPS = ("group_accuracy", "accuracy", "balanced_accuracy", "macro_f1")
OFFICIAL = ("official_f1", "official_precision", "official_recall")

PIECE_ROWS = 65_536
"""Images of a piece: 128 MiB of float32 embeddings 512 wide."""

OFFICIAL_SCALE = 1.0
"""MMKD-CLIP's evaluator takes the softmax of the cosines themselves; AUROC of several classes depends on it."""


def prompt_ensemble(encode_text: Callable[[Sequence[str]], Embeddings], prompts: Sequence[Sequence[str]]) -> Embeddings:
    """Return one unit-norm embedding per class, (K, E): the mean of its prompts' unit-norm embeddings, normalised.

    This is CLIP's prompt ensembling (Radford et al. 2021, section 3.1.4).

    Args:
        encode_text: returns embeddings of any length.
        prompts: at least one for each of K classes; the number may differ.

    Raises:
        CorpusError: a class has no prompt, or embeddings of prompts are not finite or zero.
    """
    without = [str(number) for number, own in enumerate(prompts) if not own]
    if without:
        raise CorpusError(f"classes without a prompt: {', '.join(without)}")
    prompt_PE = np.asarray(encode_text([prompt for own in prompts for prompt in own]), np.float32)
    length_P1 = np.linalg.norm(prompt_PE, axis=1, keepdims=True)
    if not (np.isfinite(length_P1) & (length_P1 > 0)).all():
        raise CorpusError(f"of {len(prompt_PE)} embeddings of prompts some are zero or not finite")
    begins = np.cumsum([0, *(len(own) for own in prompts)])
    unit_PE = prompt_PE / length_P1
    mean_KE = np.stack([unit_PE[begin:end].mean(axis=0) for begin, end in itertools.pairwise(begins)])
    return np.asarray(mean_KE / np.linalg.norm(mean_KE, axis=1, keepdims=True), np.float32)


def zero_shot(
    test: LabelledFeatures,
    *,
    class_CE: Array,
    classes: Sequence[str],
    logit_scale: float,
    official: bool = False,
    positive: str | None = None,
    primary: str = "auroc",
    val: LabelledFeatures | None = None,
    deciding: Deciding | None = None,
    single: Mapping[str, Array] | None = None,
) -> TaskResult:
    """Classify every image as one of C classes.

    Args:
        test: image embeddings (N, E), any float dtype, any length, with class numbers.
        class_CE: class embeddings, as ``prompt_ensemble`` returns them.
        logit_scale: the model's, exponentiated.
        official: use the scale 1 instead, and add F1, precision and recall as MMKD-CLIP's released evaluator has them.
        val: images that choose the threshold of two classes.
        deciding: how decisions are made and judged.
        single: by template, the class embeddings that it gives alone; the primary metric of each is recorded.

    Raises:
        EvaluationError: labels outside the list, one class only, embeddings that are not finite or zero; with
            ``official``, a class without a test item.
    """
    image_NE = np.asarray(test.features)
    _check_widths(image_NE, class_CE, classes)
    details = _details(test.target, classes, logit_scale, official=official)
    missing = details["classes_without_items"]
    if official and missing:
        raise EvaluationError(
            f"no test item is of {', '.join(missing)}; the released evaluator has no AUROC then",
            hint="evaluate without --official, where such classes are left out of the means",
        )

    def scored(class_CE: Array) -> dict[str, Any]:
        _check_widths(image_NE, class_CE, classes)
        held = []
        if val is not None and len(classes) == 2:
            held = [(val.target, _scores(np.asarray(val.features), class_CE, details["logit_scale"])[1])]
        scores = [_scores(image_NE, class_CE, details["logit_scale"])]
        how = {"classes": classes, "positive": positive, "validation": held, "deciding": deciding}
        return {"scores": scores, **how}

    alone = {
        template: _primary(test, predicted(test, **scored(own))[0], primary) for template, own in (single or {}).items()
    }
    return classified(
        "zero_shot",
        test,
        **scored(class_CE),
        primary=primary,
        details=details | prompt_spread(alone),
        more=OFFICIAL if official else (),
    )


def zero_shot_in_groups(
    test: LabelledFeatures,
    *,
    group_N: Sequence[str],
    groups: Mapping[str, Sequence[int]],
    class_KE: Mapping[str, Array],
    classes: Sequence[str],
    logit_scale: float,
    official: bool = False,
    primary: str = "group_accuracy",
    single: Mapping[str, Mapping[str, Array]] | None = None,
) -> TaskResult:
    """Classify every image as one of the classes of its group, such as those of its modality.

    Args:
        test: image embeddings (N, E) with class numbers.
        group_N: the group of each image.
        groups: by group, the numbers of its K classes.
        class_KE: by group, the embeddings of its classes.
        single: by template, the same of that template alone, as in ``zero_shot``.

    Raises:
        EvaluationError: a group has no image, labels outside the list, embeddings that are not finite or zero.
    """
    image_NE, of_item = np.asarray(test.features), np.asarray(group_N)
    details = _details(test.target, classes, logit_scale, official=official, several=False)
    missing = sorted(set(groups) - set(group_N))
    if missing:
        raise EvaluationError(f"no image belongs to the groups {', '.join(missing)}")
    details["groups"] = {group: int((of_item == group).sum()) for group in groups}

    def scored(class_KE: Mapping[str, Array]) -> dict[str, Array]:
        score_NC = np.zeros((len(image_NE), len(classes)))
        for group, numbers in groups.items():
            rows = np.flatnonzero(of_item == group)
            _check_widths(image_NE, class_KE[group], [classes[number] for number in numbers])
            scores, _ = _scores(image_NE[rows], class_KE[group], details["logit_scale"])
            score_NC[rows[:, None], np.asarray(numbers)] = scores
        return {"target": test.target.astype(np.int64), "group": of_item, "score": score_NC}

    alone = {template: _primary(test, scored(own), primary) for template, own in (single or {}).items()}
    columns = scored(class_KE)
    details["confusion"] = confusion(columns["target"], columns["score"].argmax(axis=1), len(classes))
    return result_of(
        "zero_shot",
        primary=primary,
        names=[*IN_GROUPS, *(f"{IN_GROUP}{group}" for group in groups)],
        predictions=test.predictions(columns, strata="target"),
        details=details | prompt_spread(alone),
    )


def zero_shot_labels(
    test: LabelledFeatures,
    *,
    positive_CE: Array,
    negative_CE: Array,
    labels: Sequence[str],
    logit_scale: float,
    official: bool = False,
    primary: str = "auroc",
    single: Mapping[str, tuple[Array, Array]] | None = None,
) -> TaskResult:
    """Decide for every image which of C labels it has: each label's positive prompts against its negative ones.

    Args:
        test: image embeddings (N, E) with targets (N, C) of 0 and 1.
        positive_CE: embeddings of prompts that say that the label is present.
        negative_CE: embeddings of prompts that say that it is absent.
        single: by template, both of that template alone, as in ``zero_shot``.

    Raises:
        EvaluationError: targets are not 0 and 1, no label has both kinds of images, or embeddings cannot be used.
    """
    image_NE, target_NC = np.asarray(test.features), test.target
    _check_widths(image_NE, positive_CE, labels)
    constant = check_labels(target_NC, labels, what="test")
    scale = _scale(logit_scale, official=official)
    details = {
        "classes": list(labels),
        "class_items": target_NC.sum(axis=0).tolist(),
        "classes_left_out": constant,
        "logit_scale": scale,
        "official": official,
    }

    def scored(sides: tuple[Array, Array]) -> dict[str, Array]:
        present_NC, absent_NC = (_scores(image_NE, side_CE, scale)[1] for side_CE in sides)
        return {"target": target_NC.astype(np.int64), "score": expit(present_NC - absent_NC)}

    alone = {template: _primary(test, scored(own), primary) for template, own in (single or {}).items()}
    columns = scored((positive_CE, negative_CE))
    return with_labels("zero_shot", test, columns, primary=primary, details=details | prompt_spread(alone))


def _primary(test: LabelledFeatures, columns: dict[str, Array], primary: str) -> float:
    """Return the primary metric of some predictions, and compute no other."""
    predictions = test.predictions(columns)
    return result_of("zero_shot", primary=primary, names=[primary], predictions=predictions, details={}).metrics[
        primary
    ]


def prompt_spread(alone: Mapping[str, float]) -> dict[str, Any]:
    """Return what a result records of single templates: the primary metric of each, and how far they differ.

    Returns:
        ``prompts``: ``templates``, and ``spread`` with the standard deviation (N - 1), the smallest and the largest;
        None with fewer than two templates. An empty mapping where there is no template.
    """
    if not alone:
        return {}
    values = list(alone.values())
    spread = {"sd": float(np.std(values, ddof=1)), "low": min(values), "high": max(values)} if len(values) > 1 else None
    templates = [{"template": template, "value": value} for template, value in alone.items()]
    return {"prompts": {"templates": templates, "spread": spread}}


def _details(
    target_N: Array, classes: Sequence[str], logit_scale: float, *, official: bool, several: bool = True
) -> dict[str, Any]:
    missing = check_target(target_N, classes, what="test", several=several)
    return {
        "classes": list(classes),
        "class_items": np.bincount(target_N, minlength=len(classes)).tolist(),
        "classes_without_items": missing,
        "logit_scale": _scale(logit_scale, official=official),
        "official": official,
    }


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


def _check_widths(image_NE: Array, class_CE: Array, classes: Sequence[str]) -> None:
    """Check that there is an embedding per class, as wide as those of the images."""
    if class_CE.ndim != 2 or len(class_CE) != len(classes):
        raise EvaluationError(f"class embeddings of the shape {class_CE.shape} for {len(classes)} classes")
    if image_NE.shape[1:] != class_CE.shape[1:]:
        raise EvaluationError(f"images are embedded as {image_NE.shape[1:]}, classes as {class_CE.shape[1:]}")
