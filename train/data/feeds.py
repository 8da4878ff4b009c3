"""The batches of a run: of rows that stay the same, or of a store that grows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from train.runtime.ranks import Ranks

from .batch_order import BatchOrder, ShareOrder, StepOrder
from .batches import Batch, Stream
from .pair_source import Ranges

log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True, slots=True)
class Epochs:
    """The batches of rows that do not change.

    Attributes:
        stream: makes the stream of this process from its share of the order.
    """

    order: BatchOrder
    stream: Callable[[StepOrder], Stream]


class FixedFeed:
    """Batches of rows that do not change during a run; ``parts`` is the number of parts of a step."""

    def __init__(self, epochs: Epochs, *, ranks: Ranks, parts: int) -> None:
        share = ShareOrder(epochs.order, rank=ranks.rank, world_size=ranks.world_size, parts=parts)
        self._stream = epochs.stream(share)

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield this process's part of the batches from a step on."""
        return self._stream.batches(start)

    def state(self) -> dict[str, Any]:
        """Return nothing: the step determines the batches."""
        return {}


class GrowingFeed:
    """Batches of a store that grows: each epoch has the rows that are committed when it begins.

    Args:
        committed: returns the committed ranges of this moment; only rank 0 calls it.
        epochs: returns the batches of the rows of some ranges.
        state: of the checkpoint in whose epoch the run resumes.
        parts: number of parts of a step.
    """

    def __init__(
        self,
        *,
        committed: Callable[[], Ranges],
        epochs: Callable[[Ranges], Epochs],
        state: dict[str, Any] | None,
        ranks: Ranks,
        parts: int,
    ) -> None:
        self._committed, self._epochs, self._ranks, self._parts = committed, epochs, ranks, parts
        self._state = dict(state) if state else None
        self._now = epochs(self._state["ranges"]) if self._state else None

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield this process's part of the batches from a step on."""
        step = start
        while True:
            if self._state is None or self._now is None or step >= self._state["end"]:
                self._state, self._now = self._freeze(step)
            with contextlib.closing(self._of_epoch(self._now, self._state, step)) as batches:
                for batch in batches:
                    step = batch.step + 1
                    yield batch

    def state(self) -> dict[str, Any]:
        """Return the current epoch, its steps, and the ranges that were committed when it began."""
        return dict(self._state or {})

    def _freeze(self, step: int) -> tuple[dict[str, Any], Epochs]:
        epoch = self._state["epoch"] + 1 if self._state else 0
        ranges = self._ranks.from_first(self._committed)
        epochs = self._epochs(ranges)
        end = step + epochs.order.steps_per_epoch
        count = sum(len(numbers) for numbers in ranges.values())
        log.info("epoch %d: %d committed units, steps %d to %d", epoch, count, step, end - 1)
        return {"epoch": epoch, "begin": step, "end": end, "ranges": ranges}, epochs

    def _of_epoch(self, epochs: Epochs, state: dict[str, Any], step: int) -> Generator[Batch, None, None]:
        share = ShareOrder(
            epochs.order,
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
            parts=self._parts,
            first_step=state["begin"],
            first=state["epoch"] * epochs.order.steps_per_epoch,
        )
        with contextlib.closing(epochs.stream(share).batches(step)) as batches:
            yield from islice(batches, state["end"] - step)
