"""Reads the features that teach the rows of many steps together, one span of steps ahead.

A chunk of the store serves many rows of a span. Its rows that the next span will need are kept, so each chunk is read
about once an epoch, however spans and the order's windows lie.

Features keep their stored dtype until they are on the student's device: projecting them here would take longer than
reading them.

Axes: S rows of a span, B of a batch, K those that a teacher teaches, T teachers, D a teacher's width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from store.read.chunks import Ask, ChunkReader
from store.read.reader import FeatureStore

from .batch_order import StepOrder
from .random_bits import draw_teacher
from .targets import Targets, TeacherTargets

Sampling = Literal["uniform_one", "all"]
"""One of a row's available teachers, drawn anew each epoch, teaches it, or all of them do."""


class Span(NamedTuple):
    """The rows of some steps, one after the other.

    Attributes:
        epochs_S: the epoch of each row.
    """

    rows_S: npt.NDArray[np.int64]
    epochs_S: npt.NDArray[np.int64]


class TargetReader:
    """Reads the features of the teachers that teach each row.

    Args:
        available_NT: which teacher may teach which row of the store.
        seed: decides the draw of teachers.
        threads: number of reading threads.
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
        """Return the targets of a span of rows; ``soon`` is the span of the next call, if it is known."""
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
                text_KD=torch.from_numpy(features[name, "text"]) if (name, "text") in features else None,
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
    """Yields the targets of one step after the other, without end; a thread reads the next span of steps meanwhile.

    Args:
        order: the rows of this process in each step.
        span_steps: number of steps that are read together.
        held: targets that are in use at most beside those asked for. The next span is begun so late that they are not
            of the last span: memory of two spans is enough then.
    """

    def __init__(
        self, order: StepOrder, reader: TargetReader, *, span_steps: int, start: int = 0, held: int = 1
    ) -> None:
        self._order, self._reader, self._span_steps, self._start = order, reader, span_steps, start
        self._begun_at = min(held, span_steps - 1)

    def __iter__(self) -> Iterator[Targets]:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._read, self._start)
            for start in itertools.count(self._start + self._span_steps, self._span_steps):
                ready = waiting.result()
                for number, targets in enumerate(ready):
                    if number == self._begun_at:
                        waiting = pool.submit(self._read, start)
                    yield targets

    def _read(self, start: int) -> list[Targets]:
        steps = range(start, start + self._span_steps)
        following = range(steps.stop, steps.stop + self._span_steps)
        # The next epoch reads other chunks, and computing its order here would shuffle small stores again and again.
        near = self._order.epoch(following[-1]) == self._order.epoch(start)
        found = self._reader.read_span(self._rows(steps), self._rows(following) if near else None)
        return found.parts(found.rows // self._span_steps)

    def _rows(self, steps: range) -> Span:
        batches = [self._order[step] for step in steps]
        epochs = [np.full(len(rows), self._order.epoch(step)) for step, rows in zip(steps, batches, strict=True)]
        return Span(np.concatenate(batches), np.concatenate(epochs))
