"""What teachers say about the rows of many steps, read together, one span of steps ahead.

A chunk of the store serves many rows of a span. Those of its rows that the next span will ask for are taken along, so
that each chunk is read about once an epoch, however spans and the order's windows lie.

Axes: S rows of a span, T teachers, D a teacher's width, E the student's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from store.arrays import Side
from store.chunks import Ask, ChunkReader, Features
from store.reader import FeatureStore

from .order import BatchOrder, draw_teacher
from .projection import Projection


@dataclass(kw_only=True, slots=True)
class Targets:
    """What teachers say about a batch: one teacher per row, projected to the student's width.

    Attributes:
        image_BE, text_BE: float32, not normalised; zeros where no teacher is available.
        mask_B: bool, where one is.
    """

    image_BE: Tensor
    text_BE: Tensor
    mask_B: Tensor

    def part(self, begin: int, end: int) -> Self:
        """Return some rows of it."""
        return type(self)(
            image_BE=self.image_BE[begin:end], text_BE=self.text_BE[begin:end], mask_B=self.mask_B[begin:end]
        )


@dataclass(kw_only=True, slots=True)
class AllFeatures:
    """What all teachers say about a batch, as it is stored.

    Attributes:
        image, text: by teacher, (B, D); zeros where the teacher has no feature of the row.
        available_BT: bool, which teacher may teach which row.
        drawn_B: int64, the one teacher that a row would have by itself; -1 where there is none.
    """

    image: Mapping[str, Features]
    text: Mapping[str, Features]
    available_BT: npt.NDArray[np.bool_]
    drawn_B: npt.NDArray[np.int64]

    def part(self, begin: int, end: int) -> Self:
        """Return some rows of it."""
        return type(self)(
            image={teacher: features[begin:end] for teacher, features in self.image.items()},
            text={teacher: features[begin:end] for teacher, features in self.text.items()},
            available_BT=self.available_BT[begin:end],
            drawn_B=self.drawn_B[begin:end],
        )


class Span(NamedTuple):
    """The rows of some steps, one after the other.

    Attributes:
        rows_S: int64.
        epochs_S: int64, of each.
    """

    rows_S: npt.NDArray[np.int64]
    epochs_S: npt.NDArray[np.int64]


class Partible(Protocol):
    """What can be cut into the parts of its steps."""

    def part(self, begin: int, end: int) -> Self:
        """Return some rows of it."""


P = TypeVar("P", bound=Partible)
P_co = TypeVar("P_co", bound=Partible, covariant=True)


class SpanReader(Protocol[P_co]):
    """Reads what teachers say about a span."""

    def read_span(self, span: Span, soon: Span | None) -> P_co:
        """Return it; ``soon`` is the span of the next call, if that is known."""


class TargetReader:
    """Reads and projects the features of one drawn teacher per row.

    Args:
        store: where features are.
        projection: to the student's width.
        teachers: T ids.
        available_NT: which teacher may teach which row.
        seed: of the draw.
    """

    def __init__(
        self,
        store: FeatureStore,
        projection: Projection,
        *,
        teachers: Sequence[str],
        available_NT: npt.NDArray[np.bool_],
        seed: int,
    ) -> None:
        self._chunks, self._projection, self._teachers = ChunkReader(store), projection, list(teachers)
        self._available_NT, self._seed = available_NT, seed

    def read(self, rows_S: npt.NDArray[np.int64], epochs_S: npt.NDArray[np.int64]) -> Targets:
        """Return the targets of a span of rows, each drawn for its epoch."""
        return self.read_span(Span(rows_S, epochs_S), None)

    def read_span(self, span: Span, soon: Span | None) -> Targets:
        """Return the targets of a span of rows, each drawn for its epoch."""
        teacher_S = draw(span, self._available_NT, seed=self._seed)
        soon_S = None if soon is None else draw(soon, self._available_NT, seed=self._seed)
        asks: list[Ask] = []
        places: dict[str, npt.NDArray[np.intp]] = {}
        for number, teacher in enumerate(self._teachers):
            places[teacher] = np.flatnonzero(teacher_S == number)
            if len(places[teacher]):
                ahead = None if soon is None else soon.rows_S[soon_S == number]
                asks.append(Ask(teachers=(teacher,), rows_B=span.rows_S[places[teacher]], soon=ahead))
        features = self._chunks.read_many(asks)
        width = self._projection.latent_dim
        image_SE, text_SE = torch.zeros(len(span.rows_S), width), torch.zeros(len(span.rows_S), width)
        for teacher, at in places.items():
            if len(at):
                image_SE[at] = self._projected(teacher, features[teacher, "image"])
                text_SE[at] = self._projected(teacher, features[teacher, "text"])
        return Targets(image_BE=image_SE, text_BE=text_SE, mask_B=torch.from_numpy(teacher_S >= 0))

    def _projected(self, teacher: str, features_BD: Features) -> Tensor:
        return self._projection.apply(teacher, torch.from_numpy(features_BD))


class AllFeaturesReader:
    """Reads the features of all teachers, and draws one per row.

    Args:
        store: where features are.
        teachers: T ids.
        available_NT: which teacher may teach which row.
        seed: of the draw.
        threads: that read.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        teachers: Sequence[str],
        available_NT: npt.NDArray[np.bool_],
        seed: int,
        threads: int = 2,
    ) -> None:
        self._chunks, self._teachers = ChunkReader(store, threads=threads), tuple(teachers)
        self._available_NT, self._seed = available_NT, seed

    def read_span(self, span: Span, soon: Span | None) -> AllFeatures:
        """Return the features of a span of rows."""
        ask = Ask(teachers=self._teachers, rows_B=span.rows_S, soon=None if soon is None else soon.rows_S)
        features = self._chunks.read_many([ask])

        def side(name: Side) -> dict[str, Features]:
            return {teacher: features[teacher, name] for teacher in self._teachers}

        return AllFeatures(
            image=side("image"),
            text=side("text"),
            available_BT=self._available_NT[span.rows_S],
            drawn_B=draw(span, self._available_NT, seed=self._seed),
        )


def draw(span: Span, available_NT: npt.NDArray[np.bool_], *, seed: int) -> npt.NDArray[np.int64]:
    """Return the teacher of each row of a span, drawn for its epoch; -1 where none is available."""
    teacher_S = np.empty(len(span.rows_S), np.int64)
    for epoch in np.unique(span.epochs_S):
        now = span.epochs_S == epoch
        rows = span.rows_S[now]
        teacher_S[now] = draw_teacher(available_NT[rows], rows, seed=seed, epoch=int(epoch))
    return teacher_S


class Spans(Generic[P]):
    """An endless iterator of spans, each as one part per step; the next span is read on a thread meanwhile.

    Args:
        order: which rows each step has.
        reader: of what teachers say about them.
        span_steps: steps that are read together.
    """

    def __init__(self, order: BatchOrder, reader: SpanReader[P], *, span_steps: int) -> None:
        self._order, self._reader, self._span_steps = order, reader, span_steps

    def __iter__(self) -> Iterator[list[P]]:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._read, 0)
            for start in itertools.count(self._span_steps, self._span_steps):
                ready, waiting = waiting.result(), pool.submit(self._read, start)
                yield ready

    def _read(self, start: int) -> list[P]:
        steps = range(start, start + self._span_steps)
        following = range(steps.stop, steps.stop + self._span_steps)
        # The next epoch reads other chunks, and to look into it would shuffle small stores again and again.
        near = self._order.epoch(following[-1]) == self._order.epoch(start)
        found = self._reader.read_span(self._rows(steps), self._rows(following) if near else None)
        edges = [0, *itertools.accumulate(len(self._order[step]) for step in steps)]
        return [found.part(begin, end) for begin, end in itertools.pairwise(edges)]

    def _rows(self, steps: range) -> Span:
        batches = [self._order[step] for step in steps]
        epochs = [np.full(len(rows), self._order.epoch(step)) for step, rows in zip(steps, batches, strict=True)]
        return Span(np.concatenate(batches), np.concatenate(epochs))
