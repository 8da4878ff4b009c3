"""Batches for training: rows from the order, pixels from the corpus, targets from the store, one step ahead."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .images import ImageLoader
from .order import BatchOrder
from .spans import Spans, TargetReader, Targets


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
        nothing: list[Targets | None] = [None] * self._span_steps
        spans: Iterable[Sequence[Targets | None]] = itertools.repeat(nothing)
        if self._targets is not None:
            spans = Spans(self._order, self._targets, span_steps=self._span_steps)
        for number, targets in enumerate(spans):
            first = number * self._span_steps
            yield from self._ahead(range(first, first + self._span_steps), targets)

    def _ahead(self, steps: range, targets: Sequence[Targets | None]) -> Iterator[Batch]:
        """Yield the batches of a span, the next one being prepared meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._batch, steps[0], targets[0])
            for step, target in zip(steps[1:], targets[1:], strict=True):
                ready, waiting = waiting.result(), pool.submit(self._batch, step, target)
                yield ready
            yield waiting.result()

    def _batch(self, step: int, targets: Targets | None) -> Batch:
        rows_B = self._order[step]
        pixels_BHWC, readable_B = self._loader.load(rows_B, epoch=self._order.epoch(step))
        if targets and not readable_B.all():
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
