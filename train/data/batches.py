"""Batches for training: rows from the order, pixels from the corpus, targets from the store, one step ahead."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from store.texts.tokens import CaptionTokenizer

from .batch_order import StepOrder
from .captions import Tokens
from .image_loader import ImageLoader
from .target_reader import Spans, TargetReader
from .targets import Targets


@dataclass(kw_only=True, slots=True)
class Batch:
    """The pairs of one step, with the features of their teachers.

    Attributes:
        step: of the run, from 0.
        rows_B: int64 rows of the pair table.
        pixels_BHWC: uint8.
        tokens: of the captions.
        targets: None without teachers.
    """

    step: int
    rows_B: npt.NDArray[np.int64]
    pixels_BHWC: Tensor
    tokens: Tokens
    targets: Targets | None

    def part(self, begin: int, end: int) -> Batch:
        """Return the pairs ``begin`` to ``end``."""
        return Batch(
            step=self.step,
            rows_B=self.rows_B[begin:end],
            pixels_BHWC=self.pixels_BHWC[begin:end],
            tokens=self.tokens.part(begin, end),
            targets=self.targets.part(begin, end) if self.targets else None,
        )


class Stream:
    """An endless stream of batches; a thread prepares the next one while the student computes.

    Targets are read for a span of steps at once, so that a chunk of the store serves many of its rows.

    Args:
        order: the rows of this process in each step.
        captions: by row of the pair table.
        tokenizer: the student's.
        targets: reader of the features; None without teachers.
        span_steps: number of steps whose targets are read together.
    """

    def __init__(
        self,
        order: StepOrder,
        loader: ImageLoader,
        captions: Sequence[str],
        *,
        tokenizer: CaptionTokenizer,
        targets: TargetReader | None,
        span_steps: int,
    ) -> None:
        self._order, self._loader, self._captions, self._tokenizer = order, loader, captions, tokenizer
        self._targets, self._span_steps = targets, span_steps

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, start: int) -> Generator[Batch, None, None]:
        """Yield the batches from step ``start`` on."""
        steps = self._steps(start)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._batch, *next(steps))
            for step, targets in steps:
                ready, waiting = waiting.result(), pool.submit(self._batch, step, targets)
                yield ready

    def _steps(self, start: int) -> Iterator[tuple[int, Targets | None]]:
        if self._targets is None:
            yield from zip(itertools.count(start), itertools.repeat(None))
            return
        spans = Spans(self._order, self._targets, span_steps=self._span_steps, start=start)
        yield from enumerate(itertools.chain.from_iterable(spans), start)

    def _batch(self, step: int, targets: Targets | None) -> Batch:
        rows_B = self._order[step]
        pixels_BHWC, readable_B = self._loader.load(rows_B, epoch=self._order.epoch(step))
        if targets and not readable_B.all():
            targets = targets.keep(torch.from_numpy(readable_B))
        return Batch(
            step=step,
            rows_B=rows_B[readable_B],
            pixels_BHWC=torch.from_numpy(pixels_BHWC[readable_B]),
            tokens=Tokens.of([self._captions[row] for row in rows_B[readable_B]], self._tokenizer),
            targets=targets,
        )
