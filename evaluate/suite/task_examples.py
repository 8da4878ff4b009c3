"""A few example items of a result: the most confident mistakes, and what was found for a query.

Axes: N test items, M texts.
"""

from __future__ import annotations

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
FOUND = 5
SEED = 20261123


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
    image_NE: Embeddings, text_ME: Embeddings, split: Split, item_of_image: Sequence[int]
) -> list[Example]:
    """Return the texts found for some images, which are drawn by a seed.

    Args:
        image_NE: embeddings of the distinct images.
        text_ME: embeddings of every item's caption.
        item_of_image: an item of each image.
    """
    captions = split.captions or []
    digests = split.image_digests or []
    # As for the ranks, texts that differ only in case or punctuation are one text.
    number_M, first = distinct_texts(captions)
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(image_NE))[:MOST])
    examples = []
    for image in drawn.tolist():
        item = item_of_image[image]
        own = {number for number, digest in zip(number_M, digests, strict=True) if digest == digests[item]}
        cosine_D = text_ME[first] @ image_NE[image]
        candidates = [
            Candidate(text=captions[first[number]], correct=number in own, score=float(cosine_D[number]))
            for number in np.argsort(-cosine_D, kind="stable")[:FOUND].tolist()
        ]
        examples.append(
            Example(
                id=split.ids[item],
                kind="retrieval",
                target=captions[item],
                predicted=candidates[0].text,
                correct=candidates[0].correct,
                candidates=candidates,
                thumbnail_jpeg_base64=_thumbnail(split, item),
            )
        )
    return examples


def _thumbnail(split: Split, item: int) -> str | None:
    try:
        return thumbnail(decode_image(split.image_bytes(item)))
    except PairDecodeError:
        return None
