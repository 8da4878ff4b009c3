"""Batches for training: rows from the order, pixels from the corpus, targets from the store, some steps ahead."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from store.texts.tokens import CaptionTokenizer

from .batch_order import StepOrder
from .captions import Tokens
from .image_loader import ImageLoader, Loading
from .target_reader import Spans, TargetReader
from .targets import Targets

CPU = torch.device("cpu")

AHEAD = 3
"""Whole batches that are loaded beyond the one in use; on a card, one of them may still wait for its copy."""

BATCHES = AHEAD + 1
"""Batches that a stream holds at a time, so that a loader needs memory for as many."""


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
    """An endless stream of batches; threads prepare the next ones while the student computes.

    Targets are read for a span of steps at once, so that a chunk of the store serves many of its rows.

    Args:
        order: the rows of this process in each step.
        loader: takes `BATCHES` batches at a time.
        captions: by row of the pair table.
        tokenizer: the student's.
        targets: reader of the features; None without teachers.
        span_steps: number of steps whose targets are read together.
        device: where batches are needed; on a card they are copied without a wait.
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
        device: torch.device = CPU,
    ) -> None:
        self._order, self._loader, self._captions, self._tokenizer = order, loader, captions, tokenizer
        self._targets, self._span_steps, self._device = targets, span_steps, device

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    def batches(self, start: int) -> Generator[Batch, None, None]:
        """Yield the batches from step ``start`` on.

        The memory of a batch is used again when the next one is asked for.
        """
        begun: deque[Future[_Begun]] = deque()
        with ThreadPoolExecutor(1, "batches", initializer=partial(_choose, self._device)) as pool:
            try:
                for step, targets in self._steps(start):
                    begun.append(pool.submit(self._begin, step, targets))
                    if len(begun) > AHEAD:
                        yield from self._ready(begun.popleft().result())
            finally:
                for future in begun:
                    if not future.cancel() and future.exception() is None:
                        future.result().images.close()

    def _steps(self, start: int) -> Iterator[tuple[int, Targets | None]]:
        if self._targets is None:
            yield from zip(itertools.count(start), itertools.repeat(None))
            return
        held = BATCHES + 1  # the one that is being trained on too
        spans = Spans(self._order, self._targets, span_steps=self._span_steps, start=start, held=held)
        yield from enumerate(spans, start)

    def _begin(self, step: int, targets: Targets | None) -> _Begun:
        rows_B = self._order[step]
        images = self._loader.begin(rows_B, epoch=self._order.epoch(step))
        tokens = Tokens.of([self._captions[row] for row in rows_B], self._tokenizer)
        if self._device.type == "cuda":
            tokens, targets = tokens.pinned(), targets and targets.pinned()
        return _Begun(step=step, rows_B=rows_B, images=images, tokens=tokens, targets=targets)

    def _ready(self, begun: _Begun) -> Iterator[Batch]:
        """Yield one batch, and give its buffer back afterwards."""
        copied = None
        try:
            pixels_BHWC, readable_B = begun.images.result()
            batch = begun.batch(torch.from_numpy(pixels_BHWC), torch.from_numpy(readable_B))
            if self._device.type == "cuda":
                batch.pixels_BHWC = batch.pixels_BHWC.to(self._device, non_blocking=True)
                copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # a wait that spins takes a core
                copied.record()
            yield batch
        finally:
            begun.images.close(copied=copied)


@dataclass(kw_only=True, frozen=True, slots=True)
class _Begun:
    """A batch whose images are being loaded."""

    step: int
    rows_B: npt.NDArray[np.int64]
    images: Loading
    tokens: Tokens
    targets: Targets | None

    def batch(self, pixels_KHWC: Tensor, readable_B: Tensor) -> Batch:
        """Return the batch of the pairs whose image could be read."""
        rows_B, tokens, targets = self.rows_B, self.tokens, self.targets
        if len(pixels_KHWC) < len(rows_B):
            rows_B, tokens = rows_B[readable_B.numpy()], tokens.keep(readable_B)
            targets = targets.keep(readable_B) if targets else None
        return Batch(step=self.step, rows_B=rows_B, pixels_BHWC=pixels_KHWC, tokens=tokens, targets=targets)


def _choose(device: torch.device) -> None:
    """Make a card the current one of a thread, which would begin to use the first one otherwise."""
    if device.index is not None:
        torch.cuda.set_device(device)
