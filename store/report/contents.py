"""All that the page about a store shows, as data; reads the store once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from store.console import progress
from store.errors import IncompleteStoreError, shortened
from store.format.records import SIDES, Receipt, Side, Status
from store.inspect.agreement import Agreement, agreement_of
from store.inspect.coverage import Counts, coverage, tally
from store.inspect.feature_statistics import INPUT, SideStatistics, side_statistics
from store.inspect.provenance import Provenance, provenance
from store.inspect.stage_report import StageReport
from store.inspect.stage_report import report as stage_report
from store.inspect.summary import StoreSummary, summarize
from store.read.categories import Categories, categorize, read_categories
from store.read.reader import FeatureStore

from .numbers import (
    MAP_ROWS,
    Histogram,
    Reason,
    choose_queries,
    flat_map,
    histogram,
    nearest_of,
    one_thread,
    reasons_of,
    spread_out,
)
from .pictures import Pictures, read_pictures
from .sample import Sample, draw_sample

SAMPLE = 4096
"""Rows whose features are read: 0.1 GB for nine teachers, of both sides."""

QUERIES, NEIGHBORS = 4, 4

CELLS = 6
"""A map shows at most the square of this many small images."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Shown:
    """A pair as the page shows it; texts are one line of bounded length."""

    row: int
    key: str
    modality: str | None
    caption: str | None


@dataclass(kw_only=True, frozen=True, slots=True)
class Near:
    """A row near another, and the cosine of their image features."""

    row: int
    cosine: float


@dataclass(kw_only=True, frozen=True, slots=True)
class Query:
    """A row with those nearest to it in the sample, by teacher; none where the teacher has no feature of it."""

    row: int
    teachers: dict[str, tuple[Near, ...]]


@dataclass(kw_only=True, frozen=True, slots=True)
class Map:
    """Rows on a plane.

    Attributes:
        places: by row, each from 0 to 1.
        modalities: of the rows.
        pictured: rows that are shown as small images.
    """

    teacher: str
    rows: tuple[int, ...]
    places: tuple[tuple[float, float], ...]
    modalities: tuple[str | None, ...]
    pictured: tuple[int, ...]


@dataclass(kw_only=True, slots=True)
class Contents:
    """The content of a page.

    Attributes:
        sample, of_rows, seed: how many rows were drawn, of how many that are ok under any teacher, and with what.
        statistics: of the sample, by teacher and side.
        similarities: of all ok rows, by teacher that encodes both sides.
        pairs: those that the page names, by row.
        pictures: small images of them.
        timings: None where no receipt has any.
    """

    summary: StoreSummary
    sample: int
    of_rows: int
    seed: int
    coverage: dict[str, dict[str, Counts]]
    reasons: list[Reason]
    similarities: dict[str, Histogram | None]
    statistics: dict[str, dict[Side, SideStatistics]]
    agreements: list[Agreement]
    map: Map | None
    queries: list[Query]
    provenance: Provenance
    timings: StageReport | None
    pairs: dict[int, Shown] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=Pictures)

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values, without the images; docs/store.md describes them."""
        names = ("sample", "of_rows", "seed", "coverage", "reasons", "similarities", "statistics", "agreements")
        found = {name: getattr(self, name) for name in (*names, "map", "queries", "pairs")}
        return {
            "store": self.summary.as_json(),
            **found,
            "pictures": {name: getattr(self.pictures, name) for name in ("missing", "why")},
            "provenance": self.provenance.as_json(),
            "timings": self.timings.as_json() if self.timings else None,
        }


def collect(
    store: FeatureStore, *, sample: int = SAMPLE, seed: int = 0, teacher: str | None = None, images: bool = True
) -> Contents:
    """Read what the page shows. Features are read of a sample alone, similarity and status of all rows.

    Args:
        sample: rows of which features are read at most.
        teacher: whose features make the map; the first of those with most rows in the sample if left out.
        images: whether small images are read.

    Raises:
        StoreError: there is no such teacher, or the pair table cannot be read.
        CorruptChunkError: what is committed is not what is stored.
    """
    if teacher is not None:
        store.spec(teacher)
    paired = [name for name in store.teachers if store.spec(name).sides == SIDES]
    steps = 8 + len(store.teachers) + len(paired)
    with one_thread(), progress(steps, label="report", noun="steps") as advance:
        receipts = {name: store.receipts(name).values() for name in store.teachers}
        status = {name: store.status(name) for name in store.teachers}
        advance(1)
        drawn = draw_sample(store, status, rows=sample, seed=seed, advance=advance)
        modality = read_categories(store.location, "modality", store.info)
        codes_K = modality.codes_N[drawn.rows_K]
        advance(1)
        similarities = {}
        for name in paired:
            similarities[name] = histogram(store.similarity(name)[status[name] == Status.OK])
            advance(1)
        contents = Contents(
            summary=summarize(store, receipts=receipts),
            sample=len(drawn.rows_K),
            of_rows=drawn.of_rows,
            seed=seed,
            coverage=_step(advance, lambda: coverage(tally(store, "all", status=status))),
            reasons=reasons_of(receipts),
            similarities=similarities,
            statistics=_step(advance, lambda: _statistics(store, drawn)),
            agreements=_step(advance, lambda: _agreements(drawn)),
            map=_step(advance, lambda: _map(drawn, modality, teacher)),
            queries=_queries(drawn, codes_K),
            provenance=provenance(store, receipts=receipts),
            timings=_step(advance, lambda: _timings(store, chain.from_iterable(receipts.values()))),
        )
        _add_pairs(store, contents, images=images)
        advance(1)
    return contents


def _step(advance: Callable[[int], None], work: Callable[[], Any]) -> Any:
    found = work()
    advance(1)
    return found


def _statistics(store: FeatureStore, drawn: Sample) -> dict[str, dict[Side, SideStatistics]]:
    inputs = store.pairs.take(drawn.rows_K, INPUT.values())
    codes_K = {side: categorize(inputs[column]).codes_N for side, column in INPUT.items()}
    found: dict[str, dict[Side, SideStatistics]] = {name: {} for name in drawn.teachers}
    for side, of_side in drawn.features.items():
        for name, features_KD in of_side.items():
            ok_K = drawn.ok(name)
            if ok_K.any():
                found[name][side] = side_statistics(features_KD[ok_K], codes_K[side][ok_K])
    return found


def _agreements(drawn: Sample) -> list[Agreement]:
    found = []
    for side, of_side in drawn.features.items():
        if len(of_side) > 1:
            ok_KT = np.stack([drawn.ok(name) for name in of_side], axis=1)
            found.append(agreement_of(of_side, ok_KT, side=side, seed=drawn.seed, of_rows=drawn.of_rows))
    return found


def _map(drawn: Sample, modality: Categories, teacher: str | None) -> Map | None:
    if not drawn.teachers:
        return None
    name = teacher or drawn.teachers[int(drawn.ok_KT.sum(axis=0).argmax())]
    places = np.flatnonzero(drawn.ok(name))
    places = np.sort(np.random.default_rng(drawn.seed).permutation(places)[:MAP_ROWS])
    found_K2 = flat_map(drawn.features["image"][name][places], seed=drawn.seed)
    if found_K2 is None:
        return None
    rows_K = drawn.rows_K[places]
    names = np.array([*modality.names, None], dtype=object)[modality.codes_N[rows_K]]
    return Map(
        teacher=name,
        rows=tuple(rows_K.tolist()),
        places=tuple((round(x, 4), round(y, 4)) for x, y in found_K2.tolist()),
        modalities=tuple(names.tolist()),
        pictured=tuple(int(rows_K[place]) for place in spread_out(found_K2, cells=CELLS)),
    )


def _queries(drawn: Sample, codes_K: npt.NDArray[np.int32]) -> list[Query]:
    found = []
    for place in choose_queries(drawn.ok_KT, codes_K, count=QUERIES, seed=drawn.seed):
        near = {
            name: tuple(
                Near(row=int(drawn.rows_K[other]), cosine=cosine)
                for other, cosine in nearest_of(drawn.features["image"][name], drawn.ok(name), place, count=NEIGHBORS)
            )
            if drawn.ok(name)[place]
            else ()
            for name in drawn.teachers
        }
        found.append(Query(row=int(drawn.rows_K[place]), teachers=near))
    return found


def _timings(store: FeatureStore, receipts: Iterable[Receipt]) -> StageReport | None:
    try:
        return stage_report(store, known=receipts)
    except IncompleteStoreError:
        return None


def _add_pairs(store: FeatureStore, contents: Contents, *, images: bool) -> None:
    """Read the pairs that the page names, and small images of them."""
    named = {query.row for query in contents.queries}
    named |= {near.row for query in contents.queries for of in query.teachers.values() for near in of}
    named |= {*contents.map.pictured} if contents.map else set()
    columns = ["row", "key", "modality", "caption", "uri", "member"]
    pairs = store.pairs.take(np.array(sorted(named), np.int64), columns).to_pylist()
    for pair in pairs:
        texts = {name: None if pair[name] is None else shortened(pair[name]) for name in ("modality", "caption")}
        contents.pairs[pair["row"]] = Shown(row=pair["row"], key=shortened(pair["key"]), **texts)
    if images:
        contents.pictures = read_pictures(store, pairs)
