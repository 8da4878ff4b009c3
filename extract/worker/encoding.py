"""Runs the teachers over batches, and brings the features home. Two threads use it: one encodes, one collects.

The device's time is measured by its own marks, so that a card that works behind the host's back is measured too.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from extract.teachers.base import FrozenTeacher
from store.texts.tokens import Encoded

from .batch_size import BatchSize, rows_that_fit
from .device import Device, Mark
from .range_job import Batch
from .stages import Clock
from .task import TaskDroppedError


class _Span(NamedTuple):
    """Work of one teacher on the device."""

    teacher: str
    stage: str
    begin: Mark
    end: Mark


@dataclass(slots=True, eq=False)
class InFlight:
    """A batch that was given to the device.

    Attributes:
        batch: its pixels are held until `Encoder.collect` has waited for the device.
        waited_s: the host's seconds before it by stage, as in `stages.WAITS`.
        results: features (B, D) on the host, there at ``end``, and the place for each.
        end: None of a batch that was not encoded, because its range had ended.
    """

    batch: Batch
    waited_s: dict[str, float] = field(default_factory=dict)
    results: list[tuple[npt.NDArray[np.float32], Tensor]] = field(default_factory=list)
    spans: list[_Span] = field(default_factory=list)
    end: Mark | None = None


class Encoder:
    """The teachers' work on a device.

    Args:
        batch_size: most rows that a teacher gets at once.
        workers_per_card: processes that share the card's memory.

    Attributes:
        teacher_s: the device's seconds so far by teacher and stage.
    """

    def __init__(self, device: Device, *, batch_size: int, workers_per_card: int = 1) -> None:
        self.device, self._rows, self._workers_per_card = device, batch_size, workers_per_card
        self._batch_sizes: dict[str, BatchSize] = {}
        self.teacher_s: dict[tuple[str, str], float] = defaultdict(float)
        self._ended: Mark | None = None
        self._free_since = 0.0

    def batch_size(self, teacher: FrozenTeacher) -> BatchSize:
        """Return how many rows a teacher gets at once; the first call may measure that on the device."""
        if teacher.name not in self._batch_sizes:
            rows = rows_that_fit(teacher, device=self.device.name, at_most=self._rows, sharing=self._workers_per_card)
            self._batch_sizes[teacher.name] = BatchSize(rows, teacher=teacher.name)
        return self._batch_sizes[teacher.name]

    def begin(self) -> None:
        """Begin to measure; for the thread that encodes."""
        self._ended, self._free_since = self.device.mark(), time.perf_counter()

    def encode(self, batch: Batch) -> InFlight:
        """Have the device encode a batch, without waiting for the device.

        Raises:
            OutOfMemoryError: a single row does not fit into the device's memory.
            CorpusError: an image is not what was indexed.
        """
        flight = InFlight(batch)
        given = min(max(batch.job.submitted, self._free_since), time.perf_counter())
        flight.waited_s["wait_for_range"] = given - self._free_since
        batch.await_images()
        flight.waited_s["wait_for_images"] = time.perf_counter() - given
        if batch.images:
            self._encode_images(flight)
        if batch.captions:
            self._encode_captions(flight)
        flight.end = self.device.mark()
        self._free_since = time.perf_counter()
        return flight

    def skip(self, batch: Batch) -> InFlight:
        """Return a batch that need not be encoded, or failed, so that it is collected in its turn."""
        batch.settle()
        return InFlight(batch)

    def _encode_images(self, flight: InFlight) -> None:
        batch, job = flight.batch, flight.batch.job
        pixels = {geometry: self.device.send(held_BHWC) for geometry, held_BHWC in batch.pixels.items()}
        for teacher in job.teachers:
            of_teacher = partial(_image_features, teacher, pixels[teacher.geometry])
            target_BD = job.image_KD[teacher.name][batch.images.start : batch.images.stop]
            self._run(flight, teacher, "forward_image", of_teacher, target_BD)

    def _encode_captions(self, flight: InFlight) -> None:
        batch, job = flight.batch, flight.batch.job
        sent: dict[Hashable, tuple[Encoded, Tensor]] = {}
        for key, parts in batch.tokens.items():
            tokens = Encoded.joined([part.result() for part in parts])
            sent[key] = tokens, self.device.send(torch.from_numpy(tokens.ids_BL))
        for teacher in job.paired:
            tokens, ids_BL = sent[teacher.tokenizer_key]
            job.truncated_K[teacher.name][batch.captions.start : batch.captions.stop] = tokens.truncated_B
            of_teacher = partial(_text_features, teacher, ids_BL, tokens.lengths_B.tolist())
            target_BD = job.text_KD[teacher.name][batch.captions.start : batch.captions.stop]
            self._run(flight, teacher, "forward_text", of_teacher, target_BD)

    def _run(
        self,
        flight: InFlight,
        teacher: FrozenTeacher,
        stage: str,
        encode: Callable[[slice], Tensor],
        target_BD: npt.NDArray[np.float32],
    ) -> None:
        def encode_some(rows: slice) -> Tensor:
            if flight.batch.job.ended:
                raise TaskDroppedError
            features_BD = encode(rows)
            # A step, because all teachers together may take minutes for a batch.
            flight.batch.job.clock.add(stage, 0.0)
            return features_BD

        begin, row = self.device.mark(), 0
        for features_BD in self.batch_size(teacher).over(len(target_BD), encode_some):
            flight.results.append((target_BD[row : row + len(features_BD)], self.device.fetch(features_BD)))
            row += len(features_BD)
        flight.spans.append(_Span(teacher.name, stage, begin, self.device.mark()))

    def collect(self, flight: InFlight) -> None:
        """Wait until the device has encoded a batch, and put its features and seconds where they belong.

        Raises:
            RuntimeError: the device failed.
        """
        if flight.end is None or self._ended is None:
            return
        flight.end.wait()
        clock = flight.batch.job.clock
        with clock("collect"):
            for target_BD, features_BD in flight.results:
                target_BD[:] = features_BD.numpy()
        before, known = self._ended, ""
        for span in flight.spans:
            gap_s = span.begin.seconds_since(before)
            if not known:
                self._add_waits(clock, flight.waited_s, gap_s)
            else:
                clock.add("wait_for_tokens" if span.stage != known else "other", gap_s)
            spent_s = span.end.seconds_since(span.begin)
            clock.add(span.stage, spent_s)
            self.teacher_s[span.teacher, span.stage] += spent_s
            before, known = span.end, span.stage
        clock.add("other", flight.end.seconds_since(before))
        self._ended = flight.end

    def _add_waits(self, clock: Clock, waited_s: dict[str, float], gap_s: float) -> None:
        """Share the device's idle time among the host's waits, during which the device may have been at work."""
        total_s = sum(waited_s.values())
        waiting_s = min(gap_s, total_s)
        for stage, seconds in waited_s.items():
            clock.add(stage, waiting_s * seconds / total_s if total_s else 0.0)
        clock.add("other", gap_s - waiting_s)


def _image_features(teacher: FrozenTeacher, pixels_BHWC: Tensor, rows: slice) -> Tensor:
    return teacher.image_features(pixels_BHWC[rows])


def _text_features(teacher: FrozenTeacher, ids_BL: Tensor, lengths_B: list[int], rows: slice) -> Tensor:
    return teacher.text_features(ids_BL[rows], lengths_B[rows])
