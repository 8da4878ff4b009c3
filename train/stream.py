"""Batches for training: rows from the order, pixels from the corpus, targets from the store, one step ahead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from store.arrays import Side
from store.reader import FeatureStore

from .images import ImageLoader
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


@dataclass(kw_only=True, slots=True)
class Batch:
    """What the student sees in one step.

    Attributes:
        step: global, from 0.
        rows_B: int64.
        pixels_BHWC: uint8.
        captions: B strings.
        targets: None without teachers.
    """

    step: int
    rows_B: npt.NDArray[np.int64]
    pixels_BHWC: Tensor
    captions: list[str]
    targets: Targets | None


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
        self._store, self._projection, self._teachers = store, projection, list(teachers)
        self._available_NT, self._seed = available_NT, seed

    def read(self, rows_S: npt.NDArray[np.int64], epochs_S: npt.NDArray[np.int64]) -> Targets:
        """Return the targets of a span of rows, each drawn for its epoch."""
        teacher_S = np.empty(len(rows_S), np.int64)
        for epoch in np.unique(epochs_S):
            now = epochs_S == epoch
            available_BT = self._available_NT[rows_S[now]]
            teacher_S[now] = draw_teacher(available_BT, rows_S[now], seed=self._seed, epoch=int(epoch))
        width = self._projection.latent_dim
        image_SE, text_SE = torch.zeros(len(rows_S), width), torch.zeros(len(rows_S), width)
        for number, teacher in enumerate(self._teachers):
            places = np.flatnonzero(teacher_S == number)
            if len(places):
                image_SE[places] = self._projected(teacher, "image", rows_S[places])
                text_SE[places] = self._projected(teacher, "text", rows_S[places])
        return Targets(image_BE=image_SE, text_BE=text_SE, mask_B=torch.from_numpy(teacher_S >= 0))

    def _projected(self, teacher: str, side: Side, rows: npt.NDArray[np.int64]) -> Tensor:
        features_BD = torch.from_numpy(self._store.read(rows, teacher=teacher, side=side))
        return self._projection.apply(teacher, features_BD)


class Stream:
    """An endless iterator of batches, prepared on a thread while the student computes.

    Targets are read for a span of steps at once, so that a chunk of the store serves many of its rows.

    Args:
        order: which rows each step has.
        loader: of their images.
        captions: by row.
        targets: of their features; None without teachers.
        span_steps: steps whose targets are read together.
    """

    def __init__(
        self,
        order: BatchOrder,
        loader: ImageLoader,
        captions: Sequence[str],
        *,
        targets: TargetReader | None,
        span_steps: int,
    ) -> None:
        self._order, self._loader, self._captions = order, loader, captions
        self._targets, self._span_steps = targets, span_steps

    def __iter__(self) -> Iterator[Batch]:
        spans = itertools.count(0, self._span_steps)
        with ThreadPoolExecutor(1) as pool:
            next_span: Future[list[Targets | None]] = pool.submit(self._span, next(spans))
            while True:
                targets, start = next_span.result(), next(spans)
                next_span = pool.submit(self._span, start)
                first = start - self._span_steps
                yield from self._ahead(range(first, start), targets)

    def _ahead(self, steps: range, targets: list[Targets | None]) -> Iterator[Batch]:
        """Yield the batches of a span, the next one being prepared meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._batch, steps[0], targets[0])
            for step, target in zip(steps[1:], targets[1:], strict=True):
                ready, waiting = waiting.result(), pool.submit(self._batch, step, target)
                yield ready
            yield waiting.result()

    def _span(self, start: int) -> list[Targets | None]:
        if self._targets is None:
            return [None] * self._span_steps
        steps = range(start, start + self._span_steps)
        batches = [self._order[step] for step in steps]
        epochs = [np.full(len(rows), self._order.epoch(step)) for step, rows in zip(steps, batches, strict=True)]
        span = self._targets.read(np.concatenate(batches), np.concatenate(epochs))
        edges = [0, *itertools.accumulate(len(rows) for rows in batches)]
        return [
            Targets(image_BE=span.image_BE[begin:end], text_BE=span.text_BE[begin:end], mask_B=span.mask_B[begin:end])
            for begin, end in itertools.pairwise(edges)
        ]

    def _batch(self, step: int, targets: Targets | None) -> Batch:
        rows_B = self._order[step]
        pixels_BHWC, readable_B = self._loader.load(rows_B, epoch=self._order.epoch(step))
        if targets:
            keep_B = torch.from_numpy(readable_B)
            targets = Targets(
                image_BE=targets.image_BE[keep_B], text_BE=targets.text_BE[keep_B], mask_B=targets.mask_B[keep_B]
            )
        return Batch(
            step=step,
            rows_B=rows_B[readable_B],
            pixels_BHWC=torch.from_numpy(pixels_BHWC[readable_B]),
            captions=[self._captions[row] for row in rows_B[readable_B]],
            targets=targets,
        )
