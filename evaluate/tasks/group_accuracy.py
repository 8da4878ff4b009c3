"""Zero-shot classification: the class whose prompts are nearest to the image. Pure functions of arrays.

Axes: N images, E embedding width, K classes, P prompts of a class.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.errors import CorpusError

Embeddings = npt.NDArray[np.float32]
EncodeText = Callable[[Sequence[str]], Embeddings]


@dataclass(kw_only=True, frozen=True, slots=True)
class ZeroShotResult:
    """Accuracy of one model on one dataset.

    Attributes:
        by_group: share of right answers in each group, among that group's classes.
        images: how many images each group has.
    """

    by_group: dict[str, float]
    images: dict[str, int]

    @property
    def macro_accuracy(self) -> float:
        """Mean over groups, each counting the same whatever its size."""
        return float(np.mean(list(self.by_group.values())))


def class_embeddings(
    encode_text: EncodeText, classes: Sequence[str], *, group_name: str, templates: Sequence[str]
) -> Embeddings:
    """Return one unit-norm embedding per class, (K, E), of templates that all classes share.

    Args:
        encode_text: captions to unit-norm embeddings.
        classes: K names.
        group_name: fills ``{group}``.
        templates: P prompts.
    """
    prompts = [[template.format(group=group_name, label=label) for template in templates] for label in classes]
    return prompt_ensemble(encode_text, prompts)


def prompt_ensemble(encode_text: EncodeText, prompts: Sequence[Sequence[str]]) -> Embeddings:
    """Return one unit-norm embedding per class, (K, E): the mean of its prompts' unit-norm embeddings, normalised.

    This is CLIP's prompt ensembling (Radford et al. 2021, section 3.1.4).

    Args:
        encode_text: captions to embeddings of any length.
        prompts: of each of K classes at least one, not necessarily as many of each.

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


def classify(
    image_NE: Embeddings,
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    classes: Mapping[str, Sequence[str]],
    class_embedding: Mapping[str, Embeddings],
) -> ZeroShotResult:
    """Classify every image among its group's classes.

    Args:
        image_NE: unit-norm image embeddings.
        labels: N class names.
        groups: N group names.
        classes: by group, K names each.
        class_embedding: by group, (K, E).

    Raises:
        CorpusError: a label or group that the dataset does not list, a listed group without images, or embeddings
            that are not finite.
    """
    if not np.isfinite(image_NE).all():
        raise CorpusError(f"{(~np.isfinite(image_NE).all(axis=1)).sum()} image embeddings are not finite")
    check_labels(labels, groups, classes)
    groups_N, labels_N = np.array(groups), np.array(labels)
    by_group, images = {}, {}
    for group, names in classes.items():
        members = groups_N == group
        scores_NK = image_NE[members] @ class_embedding[group].T
        predicted = np.array(names)[scores_NK.argmax(axis=1)]
        by_group[group] = float((predicted == labels_N[members]).mean())
        images[group] = int(members.sum())
    return ZeroShotResult(by_group=by_group, images=images)


def check_labels(labels: Sequence[str], groups: Sequence[str], classes: Mapping[str, Sequence[str]]) -> None:
    """See that every image's label is one of its group's classes, and that every group has an image.

    Raises:
        CorpusError: one is not, or one has none.
    """
    for label, group in set(zip(labels, groups, strict=True)):
        if label not in classes.get(group, ()):
            raise CorpusError(
                f"an image is labelled {label!r} in group {group!r}; the dataset's classes do not list it"
            )
    missing = sorted(set(classes) - set(groups))
    if missing:
        raise CorpusError(f"no image belongs to the groups {', '.join(missing)}")


def oracle(results: Mapping[str, ZeroShotResult]) -> ZeroShotResult:
    """Return what choosing the best model for each group would reach, if one knew which that is."""
    first = next(iter(results.values()))
    best = {group: max(result.by_group[group] for result in results.values()) for group in first.by_group}
    return ZeroShotResult(by_group=best, images=first.images)
