"""What teachers say about the rows of many steps, read together, one span of steps ahead.

A chunk of the store serves many rows of a span. Those of its rows that the next span will ask for are taken along, so
that each chunk is read about once an epoch, however spans and the order's windows lie.

Features stay as they are stored until they are on the device of the student: projecting them here would take longer
than reading them.

Axes: S rows of a span, B of a batch, K those that a teacher teaches, T teachers, D a teacher's width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore

from .order import draw_teacher
from .rank_share import StepOrder

Sampling = Literal["uniform_one", "all"]
"""Which of a row's available teachers teach it: one, drawn anew each epoch, or all."""


@dataclass(kw_only=True, slots=True, eq=False)
class TeacherTargets:
    """What one teacher says about the rows of a batch that it teaches.

    Attributes:
        image_KD, text_KD: features as stored: float16 or float32, unit norm.
        places_K: int64, the place of each row in the batch, ascending.
    """

    image_KD: Tensor
    text_KD: Tensor
    places_K: Tensor


@dataclass(kw_only=True, slots=True, eq=False)
class Targets:
    """What teachers say about a batch.

    Attributes:
        rows: B.
        teachers: by id, in an order that does not change; those without a row in the batch too.
    """

    rows: int
    teachers: Mapping[str, TeacherTargets]

    def part(self, begin: int, end: int) -> Self:
        """Return some consecutive rows of it; nothing is copied but places."""
        return self._between([begin, end])[0]

    def parts(self, rows: int) -> list[Self]:
        """Return consecutive parts of so many rows each."""
        return self._between(range(0, self.rows + 1, rows))

    def _between(self, edges: Sequence[int]) -> list[Self]:
        where = torch.tensor(edges)
        cuts = {name: torch.searchsorted(part.places_K, where).tolist() for name, part in self.teachers.items()}
        found = []
        for number, (begin, end) in enumerate(itertools.pairwise(edges)):
            teachers = {}
            for name, teacher in self.teachers.items():
                rows = slice(cuts[name][number], cuts[name][number + 1])
                teachers[name] = TeacherTargets(
                    image_KD=teacher.image_KD[rows],
                    text_KD=teacher.text_KD[rows],
                    places_K=teacher.places_K[rows] - begin,
                )
            found.append(type(self)(rows=end - begin, teachers=teachers))
        return found

    def keep(self, keep_B: Tensor) -> Self:
        """Return the rows where a bool is True, as if the batch had no others."""
        places_B = torch.cumsum(keep_B, 0) - 1
        found = {}
        for name, teacher in self.teachers.items():
            kept_K = keep_B[teacher.places_K]
            found[name] = TeacherTargets(
                image_KD=teacher.image_KD[kept_K],
                text_KD=teacher.text_KD[kept_K],
                places_K=places_B[teacher.places_K[kept_K]],
            )
        return type(self)(rows=int(keep_B.sum()), teachers=found)

    def to(self, device: torch.device | str) -> Self:
        """Return it on a device."""
        found = {
            name: TeacherTargets(
                image_KD=teacher.image_KD.to(device, non_blocking=True),
                text_KD=teacher.text_KD.to(device, non_blocking=True),
                places_K=teacher.places_K.to(device, non_blocking=True),
            )
            for name, teacher in self.teachers.items()
        }
        return type(self)(rows=self.rows, teachers=found)


class Span(NamedTuple):
    """The rows of some steps, one after the other.

    Attributes:
        rows_S: int64.
        epochs_S: int64, of each.
    """

    rows_S: npt.NDArray[np.int64]
    epochs_S: npt.NDArray[np.int64]


class TargetReader:
    """Reads the features of the teachers that teach each row.

    Args:
        store: where features are.
        teachers: T ids.
        available_NT: which teacher may teach which row.
        seed: of the draw.
        sampling: which of them do.
        threads: that read.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        teachers: Sequence[str],
        available_NT: npt.NDArray[np.bool_],
        seed: int,
        sampling: Sampling = "uniform_one",
        threads: int = 2,
    ) -> None:
        self._chunks, self._teachers = ChunkReader(store, threads=threads), list(teachers)
        self._available_NT, self._seed, self._sampling = available_NT, seed, sampling

    def read(self, rows_S: npt.NDArray[np.int64], epochs_S: npt.NDArray[np.int64]) -> Targets:
        """Return the targets of a span of rows, each as in its epoch."""
        return self.read_span(Span(rows_S, epochs_S), None)

    def read_span(self, span: Span, soon: Span | None) -> Targets:
        """Return the targets of a span of rows; ``soon`` is the span of the next call, if that is known."""
        teaches_ST = self._teaches(span)
        soon_ST = None if soon is None else self._teaches(soon)
        places = {name: np.flatnonzero(teaches_ST[:, number]) for number, name in enumerate(self._teachers)}
        asks = [
            Ask(
                teachers=(name,),
                rows_B=span.rows_S[places[name]],
                soon=None if soon is None or soon_ST is None else soon.rows_S[soon_ST[:, number]],
            )
            for number, name in enumerate(self._teachers)
        ]
        features = self._chunks.read_many(asks)
        found = {
            name: TeacherTargets(
                image_KD=torch.from_numpy(features[name, "image"]),
                text_KD=torch.from_numpy(features[name, "text"]),
                places_K=torch.from_numpy(places[name]),
            )
            for name in self._teachers
        }
        return Targets(rows=len(span.rows_S), teachers=found)

    def _teaches(self, span: Span) -> npt.NDArray[np.bool_]:
        teaches_ST: npt.NDArray[np.bool_] = self._available_NT[span.rows_S]
        if self._sampling == "uniform_one":
            teacher_S = draw(span, self._available_NT, seed=self._seed)
            teaches_ST = teacher_S[:, None] == np.arange(len(self._teachers))
        return teaches_ST


def draw(span: Span, available_NT: npt.NDArray[np.bool_], *, seed: int) -> npt.NDArray[np.int64]:
    """Return the teacher of each row of a span, drawn for its epoch; -1 where none is available."""
    teacher_S = np.empty(len(span.rows_S), np.int64)
    for epoch in np.unique(span.epochs_S):
        now = span.epochs_S == epoch
        rows = span.rows_S[now]
        teacher_S[now] = draw_teacher(available_NT[rows], rows, seed=seed, epoch=int(epoch))
    return teacher_S


class Spans:
    """An endless iterator of spans, each as the targets of its steps; the next span is read on a thread meanwhile.

    Args:
        order: which rows each step has, of this process.
        reader: of what teachers say about them.
        span_steps: steps that are read together.
        start: the first step.
    """

    def __init__(self, order: StepOrder, reader: TargetReader, *, span_steps: int, start: int = 0) -> None:
        self._order, self._reader, self._span_steps, self._start = order, reader, span_steps, start

    def __iter__(self) -> Iterator[list[Targets]]:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._read, self._start)
            for start in itertools.count(self._start + self._span_steps, self._span_steps):
                ready, waiting = waiting.result(), pool.submit(self._read, start)
                yield ready

    def _read(self, start: int) -> list[Targets]:
        steps = range(start, start + self._span_steps)
        following = range(steps.stop, steps.stop + self._span_steps)
        # The next epoch reads other chunks, and to look into it would shuffle small stores again and again.
        near = self._order.epoch(following[-1]) == self._order.epoch(start)
        found = self._reader.read_span(self._rows(steps), self._rows(following) if near else None)
        return found.parts(found.rows // self._span_steps)

    def _rows(self, steps: range) -> Span:
        batches = [self._order[step] for step in steps]
        epochs = [np.full(len(rows), self._order.epoch(step)) for step, rows in zip(steps, batches, strict=True)]
        return Span(np.concatenate(batches), np.concatenate(epochs))
