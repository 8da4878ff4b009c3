"""Statistics of a teacher's features that show faults: norms, cosines, duplicates, collapse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from store.format.records import SIDES, Side, Status
from store.read.categories import categorize
from store.read.reader import FeatureStore

PERCENTS = (1, 5, 25, 50, 75, 95, 99)
"""Percentiles of the similarity that are given."""

INPUT: dict[Side, str] = {"image": "image_sha256", "text": "caption"}
"""The pair table's column that says which inputs are the same."""


@dataclass(kw_only=True, frozen=True, slots=True)
class SideStatistics:
    """Features of one side, of the rows in the sample.

    Attributes:
        duplicates: rows whose feature is, bit by bit, that of an earlier row.
        shared_by_inputs: images or captions whose feature is that of another image or caption; None where the pair
            table does not say which are the same.
    """

    norm_mean: float
    norm_min: float
    norm_max: float
    duplicates: int
    shared_by_inputs: int | None
    constant_dimensions: int
    effective_rank: float
    mean_cosine: float | None


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherStatistics:
    """One teacher's features.

    Attributes:
        sample: rows that were read; the similarity is of all ok rows.
        similarity_mean, similarity_quantiles: the latter by percent; None and empty where there is no similarity.
        sides: that the teacher encodes.
        image, text: None where no row is ok, or the side is not encoded.
        truncated_captions: ok rows whose caption the teacher read in part, where receipts record it; None where none
            does.
        truncated_of: ok rows of the receipts that record it.
    """

    teacher: str
    sides: tuple[Side, ...]
    width: int
    rows_ok: int
    sample: int
    similarity_mean: float | None
    similarity_quantiles: dict[str, float]
    image: SideStatistics | None
    text: SideStatistics | None
    truncated_captions: int | None
    truncated_of: int


def effective_rank(features_ND: npt.NDArray[np.floating[Any]]) -> float:
    """Return the effective number of dimensions of features: from 0 (all the same) to min(N - 1, D) (evenly spread).

    ``exp(-sum p log p)`` of the singular values of the features, centred over the rows, divided by their sum (Roy and
    Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007).
    """
    centred_ND = features_ND.astype(np.float64)
    centred_ND -= centred_ND.mean(axis=0)
    # Rounding may leave small negative eigenvalues.
    singular_D = np.sqrt(np.clip(np.linalg.eigvalsh(centred_ND.T @ centred_ND), 0, None))
    total = singular_D.sum()
    if total < len(features_ND) * np.finfo(np.float32).eps:
        return 0.0
    share_D = singular_D[singular_D > 0] / total
    return float(np.exp(-(share_D * np.log(share_D)).sum()))


def mean_cosine(features_ND: npt.NDArray[np.floating[Any]]) -> float | None:
    """Return the mean cosine of all pairs of two different rows: 1 where all are the same; None of a single row.

    The sum over pairs is ``|sum x|^2 - N`` for rows of unit norm, so that no N x N matrix is needed.
    """
    rows = len(features_ND)
    if rows < 2:
        return None
    unit_ND = features_ND.astype(np.float64)
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    return float((np.square(unit_ND.sum(axis=0)).sum() - rows) / (rows * (rows - 1)))


def duplicates(features_ND: npt.NDArray[np.generic], inputs_N: npt.NDArray[np.int32]) -> tuple[int, int | None]:
    """Return how many rows repeat an earlier one, and how many inputs have the feature of another input.

    Args:
        inputs_N: which image or caption each row is of, -1 where that is not known.
    """
    whole_ND = np.ascontiguousarray(features_ND)
    as_bytes_N = whole_ND.view(np.dtype((np.void, whole_ND.itemsize * whole_ND.shape[1]))).ravel()
    distinct, feature_N = np.unique(as_bytes_N, return_inverse=True)
    repeated = len(whole_ND) - len(distinct)
    if (inputs_N < 0).any():
        return repeated, None
    together = np.unique(np.stack([feature_N, inputs_N], axis=1), axis=0)
    return repeated, len(together) - len(distinct)


def draw_rows(eligible_N: npt.NDArray[np.bool_], *, chunk_rows: int, rows: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw about ``rows`` of some rows, in whole chunks.

    A chunk is the unit of reading: rows drawn one by one would touch nearly every chunk of a large store.

    Args:
        eligible_N: (N,) whether a row may be drawn.
        rows: how many are wanted; fewer are drawn where fewer may be, never more.

    Returns:
        Rows in ascending order: all that may be drawn if they are not more than wanted.
    """
    candidates = np.flatnonzero(eligible_N)
    if len(candidates) <= rows:
        return candidates
    chunk_of = candidates // chunk_rows
    # All chunks, so that teachers with different ok rows are mostly looked at in the same ones.
    order = np.random.default_rng(seed).permutation(-(-len(eligible_N) // chunk_rows))
    per_chunk = np.bincount(chunk_of, minlength=len(order))[order]
    enough = int(np.searchsorted(np.cumsum(per_chunk), rows)) + 1
    drawn = candidates[np.isin(chunk_of, order[:enough])]
    # Only as many rows of the last chunk are kept as are still wanted.
    last = drawn[drawn // chunk_rows == order[enough - 1]]
    surplus = len(drawn) - rows
    return np.setdiff1d(drawn, last[len(last) - surplus :]) if surplus else drawn


def teacher_statistics(
    store: FeatureStore, teacher: str, *, sample: int, seed: int, advance: Callable[[int], None] = lambda _: None
) -> TeacherStatistics:
    """Return one teacher's statistics.

    Args:
        sample: rows of which features are read at most, drawn by `draw_rows`. They are held in memory, as float64.
        advance: told how many of the spec's sides are done.
    """
    ok_N = store.status(teacher) == Status.OK
    spec = store.spec(teacher)
    similarity_N = store.similarity(teacher)[ok_N] if spec.sides == SIDES else np.zeros(0, np.float32)
    rows = draw_rows(ok_N, chunk_rows=store.info.chunk_rows, rows=sample, seed=seed)
    sides: dict[Side, SideStatistics | None] = {"image": None, "text": None}
    inputs = store.pairs.take(rows, INPUT.values()) if len(rows) else None
    for side in spec.sides:
        if inputs is not None:
            codes_N = categorize(inputs[INPUT[side]]).codes_N
            sides[side] = side_statistics(store.read(rows, teacher=teacher, side=side), codes_N)
        advance(1)
    counted = [receipt for receipt in store.receipts(teacher).values() if receipt.truncated_captions is not None]
    quantiles = np.quantile(similarity_N, np.array(PERCENTS) / 100) if len(similarity_N) else []
    return TeacherStatistics(
        teacher=teacher,
        sides=spec.sides,
        width=spec.embed_dim,
        rows_ok=int(ok_N.sum()),
        sample=len(rows),
        similarity_mean=float(similarity_N.mean(dtype=np.float64)) if len(similarity_N) else None,
        similarity_quantiles={str(p): float(value) for p, value in zip(PERCENTS, quantiles, strict=False)},
        image=sides["image"],
        text=sides["text"],
        truncated_captions=sum(receipt.truncated_captions or 0 for receipt in counted) if counted else None,
        truncated_of=sum(receipt.status_counts.get("ok", 0) for receipt in counted),
    )


def side_statistics(features_ND: npt.NDArray[np.floating[Any]], inputs_N: npt.NDArray[np.int32]) -> SideStatistics:
    """Return the statistics of one side's features, of at least one row; see `duplicates` for the inputs."""
    norm_N = np.linalg.norm(features_ND.astype(np.float64), axis=1)
    repeated, shared = duplicates(features_ND, inputs_N)
    return SideStatistics(
        norm_mean=float(norm_N.mean()),
        norm_min=float(norm_N.min()),
        norm_max=float(norm_N.max()),
        duplicates=repeated,
        shared_by_inputs=shared,
        constant_dimensions=int((features_ND.max(axis=0) == features_ND.min(axis=0)).sum()),
        effective_rank=effective_rank(features_ND),
        mean_cosine=mean_cosine(features_ND),
    )
