"""Cross-modal retrieval: the rank of the best right text of an image, and of the best right image of a text.

Texts that are the same once case, punctuation and spaces are put aside are one text with several images: a model cannot
tell them apart, so neither is a wrong answer for the other's image. The recalls that other programs report, for which
the same caption of another image is wrong, stand beside it as ``strict``.

Axes: N images, M distinct texts, E embedding width, P pairs of an image and a text of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom

from evaluate.metrics.predictions import Predictions
from evaluate.metrics.retrieval import RECALL_AT
from evaluate.results.task_result import TaskResult, result_of
from store.errors import EvaluationError

from .inputs import Array, unit_norm
from .texts import normalised

log = logging.getLogger(__name__)

Numbers = npt.NDArray[np.int64]

TILE = (1024, 8192)
"""Images and texts of a tile of the matrix of cosines: 32 MiB are in memory at once, whatever N and M are."""

PIECE_PAIRS = 65_536
"""Right pairs whose embeddings are gathered at once."""

TIE = 1e-6
"""Cosines this near count as equal, and equals count against the model: one that gives all images the same embedding
then comes last and not first. Float32 cosines of unit vectors err by about a tenth of it."""

NAMES = (
    "mean_recall",
    *(f"{side}_recall_at_{k}" for side in ("i2t", "t2i") for k in RECALL_AT),
    "i2t_median_rank",
    "t2i_median_rank",
)


def retrieval(
    image_NE: Array,
    text_embedding: Array,
    *,
    texts: Sequence[str],
    image_of_text: Numbers,
    image_ids: Sequence[str],
    clusters: Sequence[str] | None = None,
    primary: str = "mean_recall",
) -> TaskResult:
    """Rank all texts for every image, and all images for every text.

    Args:
        image_NE: embeddings of any length.
        text_embedding: embeddings of every text, duplicates included.
        image_of_text: the row of each text's image; an image may have several texts.
        clusters: patient of each image; if None, each image is its own cluster, and a text belongs to its first image.

    Raises:
        EvaluationError: an image without a text, a text without an image, embeddings that are not finite or zero.
    """
    check_pairs(image_NE, text_embedding, texts, image_of_text, image_ids)
    distinct, first = distinct_texts(texts)
    pair_image, pair_text = _pairs(image_of_text, distinct)
    image_NE = unit_norm(image_NE, what="image embeddings")
    text_ME = unit_norm(text_embedding[first], what="text embeddings")
    image_rank, text_rank = ranks(image_NE, text_ME, pair_image=pair_image, pair_text=pair_text)
    of_image = list(image_ids if clusters is None else clusters)
    predictions = Predictions(
        ids=[*(f"image {name}" for name in image_ids), *(f"text {place}" for place in first)],
        clusters=[*of_image, *(of_image[image] for image in image_of_text[first])],
        columns={
            "rank": np.concatenate([image_rank, text_rank]),
            "side": np.repeat(np.array([0, 1], np.int8), [len(image_rank), len(text_rank)]),
        },
        strata="side",
    )
    details = {
        "num_images": len(image_NE),
        "num_texts": len(texts),
        "num_distinct_texts": len(text_ME),
        "num_pairs": len(pair_image),
        **_candidates({"i2t": len(text_ME), "t2i": len(image_NE)}),
        "expected_rank_of_chance": {
            "i2t": _chance(np.bincount(pair_image), candidates=len(text_ME)),
            "t2i": _chance(np.bincount(pair_text), candidates=len(image_NE)),
        },
    }
    result = result_of("retrieval", primary=primary, names=NAMES, predictions=predictions, details=details)
    repeated = len(pair_text) > len(text_ME)
    strict = strict_recalls(image_NE, text_ME[pair_text], pair_image) if repeated else result.metrics
    return replace(result, details=details | {"strict": {name: strict[name] for name in NAMES if "recall" in name}})


def _candidates(sizes: dict[str, int]) -> dict[str, Any]:
    """Return what the number of candidates of each direction means for its metrics; say where it is below k."""
    for side, size in sizes.items():
        if size < max(RECALL_AT):
            log.warning("%s: only %d candidates, so that recall@%d is 1 for any model", side, size, size)
    return {"effective_k": {side: {str(k): min(k, size) for k in RECALL_AT} for side, size in sizes.items()}}


def _chance(right_Q: Numbers, *, candidates: int) -> float:
    """Return the mean rank of the best right answer if the order were drawn: (n + 1) / (p + 1) with p right of n.

    The p right ones part the n - p wrong ones into p + 1 runs of equal mean length, of which the first comes before the
    best right one.
    """
    return float(np.mean((candidates + 1) / (right_Q + 1)))


def strict_recalls(image_NE: Array, text_PE: Array, pair_image: Numbers) -> dict[str, float]:
    """Return the recalls for which only an image's own captions are right, as CLIP_benchmark 1.6.2 counts them.

    Each caption of an image is a candidate and a query of its own, also where another image has the same one. Equal
    captions have equal cosines, so that their order is a matter of chance; a recall is the mean over all such orders.
    With b wrong candidates above the best right one, and t wrong and p right ones equal to it, a query is answered
    among the first k with the probability 1 - C(t, k - b) / C(t + p, k - b).

    Args:
        image_NE: unit norm, float32.
        text_PE: unit norm, float32; a row for each caption of each image, by image.
        pair_image: the image of each, ascending.
    """
    own = np.arange(len(pair_image))
    last = ranks(image_NE, text_PE, pair_image=pair_image, pair_text=own)
    first = ranks(image_NE, text_PE, pair_image=pair_image, pair_text=own, tie=-TIE)
    cosine = _pair_cosines(image_NE, text_PE, pair_image, own)
    best = np.maximum.reduceat(cosine, np.searchsorted(pair_image, np.arange(len(image_NE))))
    right = (np.bincount(pair_image[cosine >= best[pair_image] - TIE], minlength=len(image_NE)), np.ones_like(own))
    found = {}
    for side, above, below, equal in zip(("i2t", "t2i"), first, last, right, strict=True):
        tied = below - above + equal
        for k in RECALL_AT:
            places = np.clip(k + 1 - above, 0, tied)
            found[f"{side}_recall_at_{k}"] = float(1 - hypergeom.pmf(0, tied, equal, places).mean())
    return {"mean_recall": float(np.mean(list(found.values()))), **found}


def ranks(
    image_NE: Array, text_ME: Array, *, pair_image: Numbers, pair_text: Numbers, tie: float = TIE
) -> tuple[Numbers, Numbers]:
    """Return the rank of each image's best text, (N,), and of each text's best image, (M,), from 1.

    A rank is one more than the number of wrong candidates whose cosine is at least that of the best right one less
    ``tie``. The cosines are computed a piece at a time and once for both directions.

    Args:
        image_NE: unit norm, float32.
        text_ME: unit norm, float32.
        pair_image: images of the right pairs, ascending.
        pair_text: texts of the right pairs.
        tie: if negative, only candidates that are better by more than that count, so that equals do not.
    """
    pair_cosine = _pair_cosines(image_NE, text_ME, pair_image, pair_text)
    image_best, text_best = np.full(len(image_NE), -np.inf, np.float32), np.full(len(text_ME), -np.inf, np.float32)
    np.maximum.at(image_best, pair_image, pair_cosine)
    np.maximum.at(text_best, pair_text, pair_cosine)
    image_bar, text_bar = image_best - np.float32(tie), text_best - np.float32(tie)
    image_rank, text_rank = np.ones(len(image_NE), np.int64), np.ones(len(text_ME), np.int64)
    height, width = TILE
    for top in range(0, len(image_NE), height):
        rows = slice(top, top + height)
        own = slice(*np.searchsorted(pair_image, [top, top + height]))
        own_row, own_text = pair_image[own] - top, pair_text[own]
        for left in range(0, len(text_ME), width):
            columns = slice(left, left + width)
            cosine = image_NE[rows] @ text_ME[columns].T
            inside = (own_text >= left) & (own_text < left + width)
            cosine[own_row[inside], own_text[inside] - left] = -np.inf
            image_rank[rows] += np.count_nonzero(cosine >= image_bar[rows, None], axis=1)
            text_rank[columns] += np.count_nonzero(cosine >= text_bar[columns], axis=0)
    return image_rank, text_rank


def distinct_texts(texts: Sequence[str]) -> tuple[Numbers, Numbers]:
    """Return the number of each text among the distinct ones, and where each distinct one is first."""
    numbers: dict[str, int] = {}
    first: list[int] = []
    for place, text in enumerate(texts):
        if numbers.setdefault(normalised(text), len(numbers)) == len(first):
            first.append(place)
    return np.array([numbers[normalised(text)] for text in texts], np.int64), np.array(first, np.int64)


def _pairs(image_of_text: Numbers, distinct: Numbers) -> tuple[Numbers, Numbers]:
    """Return every right pair once, by image."""
    pairs = np.unique(np.stack([image_of_text, distinct], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _pair_cosines(image_NE: Array, text_ME: Array, pair_image: Numbers, pair_text: Numbers) -> Array:
    """Return the cosines of the right pairs, float32, a piece at a time."""
    found = np.empty(len(pair_image), np.float32)
    for begin in range(0, len(pair_image), PIECE_PAIRS):
        own = slice(begin, begin + PIECE_PAIRS)
        np.einsum("pe,pe->p", image_NE[pair_image[own]], text_ME[pair_text[own]], out=found[own])
    return found


def check_pairs(
    image_NE: Array, text_embedding: Array, texts: Sequence[str], image_of_text: Numbers, image_ids: Sequence[str]
) -> None:
    """Check that images and texts belong together.

    Raises:
        EvaluationError: there is no image or no text, numbers or widths differ, an image has no text, a text names an
            image that is not there, or a text is empty.
    """
    if not len(image_NE) or not len(texts):
        raise EvaluationError(f"retrieval needs images and texts; there are {len(image_NE)} and {len(texts)}")
    if len(image_ids) != len(image_NE):
        raise EvaluationError(f"{len(image_NE)} image embeddings, but {len(image_ids)} names")
    if not len(texts) == len(text_embedding) == len(image_of_text):
        raise EvaluationError(
            f"{len(texts)} texts, {len(text_embedding)} embeddings of texts and {len(image_of_text)} images of texts"
        )
    if image_NE.shape[1:] != text_embedding.shape[1:]:
        raise EvaluationError(f"images are embedded as {image_NE.shape[1:]}, texts as {text_embedding.shape[1:]}")
    outside = np.flatnonzero((image_of_text < 0) | (image_of_text >= len(image_NE)))
    if len(outside):
        raise EvaluationError(f"{len(outside)} texts name an image that is not there, the first is text {outside[0]}")
    without = np.setdiff1d(np.arange(len(image_NE)), image_of_text)
    if len(without):
        raise EvaluationError(f"{len(without)} images have no text, the first is {image_ids[without[0]]!r}")
    words = [normalised(text) for text in texts]
    empty = [place for place, text in enumerate(words) if not text]
    if empty:
        raise EvaluationError(f"{len(empty)} texts are empty, the first is text {empty[0]}")
    distinct = set(words)
    if 1 in (len(distinct), len(image_NE)):  # of one candidate any model finds the right one
        raise EvaluationError(
            f"retrieval needs two images and two different texts; there are {len(image_NE)} and {len(distinct)}"
        )
