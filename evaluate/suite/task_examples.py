"""A few example items of a result: a fixed sample, the most confident mistakes, and what was found for a query.

Axes: N test items, M texts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from evaluate.datasets.loaded import Split
from evaluate.models.encoders import Embeddings
from evaluate.results.examples import Candidate, Example
from evaluate.results.task_result import TaskResult
from evaluate.tasks.retrieval import distinct_texts
from store.errors import PairDecodeError
from store.images.decode import decode_image
from store.images.thumbnail import thumbnail

MOST = 8
SAMPLED = 12
SEARCHED = 4
"""Searches of each direction."""
FOUND = 5
SEED = 20261123


def sampled_classes(result: TaskResult, split: Split, classes: Sequence[str]) -> list[Example]:
    """Return what was said of some test items; groups, else classes, take turns.

    The choice depends on the items' names alone, so that models which embed the same items have the same sample.
    """
    target_N, predicted_N = result.predictions.columns["target"], result.predictions.columns["score"].argmax(axis=1)
    kinds = split.groups or target_N.tolist()
    turns, turn_N = Counter[str | int](), [0] * len(split)
    shuffled = sorted(range(len(split)), key=lambda item: hashlib.sha256(f"{SEED} {split.ids[item]}".encode()).digest())
    for item in shuffled:
        turn_N[item] = turns[kinds[item]]
        turns[kinds[item]] += 1
    return [
        Example(
            id=split.ids[item],
            kind="sample",
            target=classes[target_N[item]],
            predicted=classes[predicted_N[item]],
            correct=bool(target_N[item] == predicted_N[item]),
            thumbnail_jpeg_base64=_thumbnail(split, item),
        )
        for item in sorted(shuffled, key=lambda item: turn_N[item])[:SAMPLED]
    ]


def wrong_classes(result: TaskResult, split: Split, classes: Sequence[str]) -> list[Example]:
    """Return the wrong test items whose predicted class had the highest scores."""
    target_N, score_NC = result.predictions.columns["target"], result.predictions.columns["score"]
    predicted_N = score_NC.argmax(axis=1)
    wrong = np.flatnonzero(predicted_N != target_N)
    surest = wrong[np.argsort(-score_NC[wrong, predicted_N[wrong]], kind="stable")][:MOST]
    return [
        Example(
            id=split.ids[item],
            target=classes[target_N[item]],
            predicted=classes[predicted_N[item]],
            thumbnail_jpeg_base64=_thumbnail(split, item),
        )
        for item in surest.tolist()
    ]


def wrong_answers(result: TaskResult, split: Split) -> list[Example]:
    """Return some wrong answers of the first seed's head, drawn by a seed."""
    vocabulary, columns = result.details["vocabulary"], result.predictions.columns
    wrong = np.flatnonzero(~columns["correct"].astype(bool))
    return [
        Example(
            id=split.ids[item],
            target=(split.answers or [])[item],
            predicted=vocabulary[int(columns["answer"][item])],
            question=(split.questions or [])[item],
            thumbnail_jpeg_base64=_thumbnail(split, item),
        )
        for item in np.sort(np.random.default_rng(SEED).permutation(wrong)[:MOST]).tolist()
    ]


def retrieval_examples(
    image_NE: Embeddings, text_ME: Embeddings, split: Split, item_of_image: Sequence[int], classes: Sequence[str] = ()
) -> list[Example]:
    """Return the texts found for some images and the images found for some texts; both are drawn by a seed.

    Args:
        image_NE: embeddings of the distinct images.
        text_ME: embeddings of every item's caption.
        item_of_image: an item of each image.
        classes: names of the items' classes; of no use where an item has none or several.
    """
    captions, digests = split.captions or [], split.image_digests or []
    # As for the ranks, texts that differ only in case or punctuation are one text.
    number_M, first = distinct_texts(captions)
    pairs = {(int(number), digest) for number, digest in zip(number_M, digests, strict=True)}
    label_M: list[str | None] = [None] * len(split)
    if split.targets is not None and split.targets.ndim == 1 and classes:
        label_M = [classes[target] for target in split.targets]
    examples = []
    for image in _drawn(len(image_NE)):
        item = item_of_image[image]
        candidates = [
            Candidate(
                text=captions[first[number]],
                correct=(number, digests[item]) in pairs,
                score=cosine,
                label=label_M[first[number]],
            )
            for number, cosine in _nearest(text_ME[first] @ image_NE[image])
        ]
        picture = _thumbnail(split, item)
        found = _search(split.ids[item], captions[item], candidates, label=label_M[item])
        examples.append(found.model_copy(update={"thumbnail_jpeg_base64": picture}))
    for number in _drawn(len(first)):
        item = int(first[number])
        candidates = [
            Candidate(
                text=split.ids[item_of_image[image]],
                correct=(number, digests[item_of_image[image]]) in pairs,
                score=cosine,
                label=label_M[item_of_image[image]],
                thumbnail_jpeg_base64=_thumbnail(split, item_of_image[image]),
            )
            for image, cosine in _nearest(image_NE @ text_ME[item])
        ]
        found = _search(split.ids[item], split.ids[item], candidates, label=label_M[item])
        examples.append(found.model_copy(update={"question": captions[item]}))
    return examples


def _drawn(count: int) -> list[int]:
    drawn: list[int] = np.sort(np.random.default_rng(SEED).permutation(count)[:SEARCHED]).tolist()
    return drawn


def _nearest(cosine_C: Embeddings) -> list[tuple[int, float]]:
    return [(number, float(cosine_C[number])) for number in np.argsort(-cosine_C, kind="stable")[:FOUND].tolist()]


def _search(name: str, target: str, candidates: list[Candidate], *, label: str | None) -> Example:
    best = candidates[0]
    return Example(
        id=name,
        kind="retrieval",
        target=target,
        predicted=best.text,
        correct=best.correct,
        label=label,
        candidates=candidates,
    )


def _thumbnail(split: Split, item: int) -> str | None:
    try:
        return thumbnail(decode_image(split.image_bytes(item)))
    except PairDecodeError:
        return None
