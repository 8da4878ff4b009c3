"""Numbers that only a report shows: histograms of similarity, a map, nearest rows of a sample, reasons by count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from store.errors import kind_of, shortened
from store.format.records import Receipt
from store.inspect.feature_statistics import PERCENTS

BIN = 0.02
"""Width of a bar of a histogram of cosines."""

MAP_ROWS, MAP_STEPS = 800, 500
"""Rows of a map, and steps of t-SNE: some seconds."""

PERPLEXITY = 30.0
VARIES = 1e-9
"""Features whose variance, summed over dimensions, is below this have no map."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Histogram:
    """The similarity of all ok rows of a teacher.

    Attributes:
        first: lower edge of the first bar; each is `BIN` wide.
        counts: from the first bar that is not empty to the last.
        quantiles: by percent.
    """

    rows: int
    mean: float
    quantiles: dict[str, float]
    first: float
    counts: tuple[int, ...]


def histogram(similarity_K: npt.NDArray[np.float32]) -> Histogram | None:
    """Return how some cosines are spread; None of none."""
    if not len(similarity_K):
        return None
    bars = round(2 / BIN)
    counts, _ = np.histogram(similarity_K, bins=bars, range=(-1, 1))
    # Rounding may put a cosine a little outside.
    counts[0] += int((similarity_K < -1).sum())
    counts[-1] += int((similarity_K > 1).sum())
    first, last = np.flatnonzero(counts)[[0, -1]]
    quantiles = np.quantile(similarity_K, np.array(PERCENTS) / 100)
    return Histogram(
        rows=len(similarity_K),
        mean=float(similarity_K.mean(dtype=np.float64)),
        quantiles={str(percent): float(value) for percent, value in zip(PERCENTS, quantiles, strict=True)},
        first=round(-1 + BIN * int(first), 2),
        counts=tuple(counts[first : last + 1].tolist()),
    )


def one_thread() -> threadpool_limits:
    """Return a context in which arithmetic uses one thread, of the libraries that are loaded by then.

    Its results then do not depend on the number of cores. On a busy machine threads that wait for each other would take
    four times the time.
    """
    return threadpool_limits(1)


def flat_map(features_KD: npt.NDArray[np.floating[Any]], *, seed: int) -> npt.NDArray[np.float64] | None:
    """Return (K, 2) places on which rows of similar features are neighbours, by t-SNE; None where there is no map.

    Places are between 0 and 1. Distances between groups mean nothing; that rows are neighbours does (van der Maaten
    and Hinton, "Visualizing Data using t-SNE", JMLR 2008).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    features_KD = features_KD.astype(np.float64)
    if len(features_KD) < 5 or features_KD.var(axis=0).sum() < VARIES:
        return None
    with one_thread():
        main_KC = PCA(min(50, *features_KD.shape), random_state=seed).fit_transform(features_KD)
        perplexity = min(PERPLEXITY, (len(main_KC) - 1) / 4)
        start_K2 = np.zeros((len(main_KC), 2))
        start_K2[:, : min(2, main_KC.shape[1])] = 1e-4 * main_KC[:, :2] / main_KC[:, 0].std()
        method = TSNE(perplexity=perplexity, init=start_K2, random_state=seed, max_iter=MAP_STEPS, n_jobs=1)
        places_K2 = method.fit_transform(main_KC).astype(np.float64)
    span_2 = np.ptp(places_K2, axis=0)
    return np.asarray((places_K2 - places_K2.min(axis=0)) / np.where(span_2 > 0, span_2, 1.0))


def spread_out(places_K2: npt.NDArray[np.float64], *, cells: int) -> list[int]:
    """Return one row of each cell of a grid over a map, that nearest to the cell's middle."""
    cell_K2 = np.minimum((places_K2 * cells).astype(int), cells - 1)
    away_K = np.linalg.norm(places_K2 * cells - cell_K2 - 0.5, axis=1)
    nearest: dict[tuple[int, int], int] = {}
    for row in np.argsort(away_K).tolist():
        nearest.setdefault((int(cell_K2[row, 0]), int(cell_K2[row, 1])), row)
    return sorted(nearest.values())


def nearest_of(
    features_KD: npt.NDArray[np.floating[Any]], ok_K: npt.NDArray[np.bool_], place: int, *, count: int
) -> list[tuple[int, float]]:
    """Return places and cosines of the ok rows nearest to one, itself left out; equal ones in order."""
    places = np.flatnonzero(ok_K)
    places = places[places != place]
    found_BD, query_D = features_KD[places].astype(np.float32), features_KD[place].astype(np.float32)
    length_B = np.linalg.norm(found_BD, axis=1) * np.linalg.norm(query_D)
    cosine_B = found_BD @ query_D / np.where(length_B > 0, length_B, 1)
    order = np.lexsort((places, -cosine_B))[:count]
    return list(zip(places[order].tolist(), cosine_B[order].tolist(), strict=True))


def choose_queries(ok_KT: npt.NDArray[np.bool_], codes_K: npt.NDArray[np.int32], *, count: int, seed: int) -> list[int]:
    """Draw places of rows that most teachers know, of different modalities where there are."""
    drawn = np.random.default_rng(seed).permutation(len(ok_KT))
    drawn = drawn[np.argsort(-ok_KT[drawn].sum(axis=1), kind="stable")]
    most = drawn[ok_KT[drawn].sum(axis=1) == ok_KT.sum(axis=1).max(initial=0)]
    _, firsts = np.unique(codes_K[most], return_index=True)
    chosen = [int(most[place]) for place in sorted(firsts)][:count]
    return chosen + [int(row) for row in drawn if row not in chosen][: count - len(chosen)]


@dataclass(kw_only=True, frozen=True, slots=True)
class Reason:
    """A reason for which rows have no feature, with the first such row."""

    teacher: str
    status: str
    reason: str
    rows: int
    row: int
    key: str


def reasons_of(receipts: Mapping[str, Iterable[Receipt]]) -> list[Reason]:
    """Return why rows are bad, the most frequent reason first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], tuple[int, str]] = {}
    for teacher, found in receipts.items():
        for bad in (bad for receipt in found for bad in receipt.bad_rows):
            what = (teacher, bad.status.name.lower(), shortened(kind_of(bad.reason)))
            counts[what] += 1
            examples.setdefault(what, (bad.row, bad.key))
    return [
        Reason(teacher=what[0], status=what[1], reason=what[2], rows=rows, row=examples[what][0], key=examples[what][1])
        for what, rows in counts.most_common()
    ]
