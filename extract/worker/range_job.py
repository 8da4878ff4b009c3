"""One task on its way through the worker: its pairs, its batches, and its features as they arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from extract.teacher_files.geometry import Geometry
from extract.teachers.base import FrozenTeacher
from store.format.commit import UnitFeatures
from store.format.pairs import strings
from store.format.records import Receipt, Status
from store.texts.tokens import Encoded

from .captions import DistinctCaptions, bad_captions
from .decoding import DistinctImages, ImageNotes
from .stages import Clock
from .task import Task, TaskDroppedError


@dataclass(kw_only=True, slots=True, eq=False)
class Batch:
    """Distinct images and distinct captions of a range that are encoded one after the other.

    Attributes:
        images, captions: their numbers.
        last: whether it is its range's last one.
        pixels: (B, S, S, 3) uint8 by geometry, filled by the decoding threads.
        notes: what came of each image that is read, by its number; an image is in ``pixels`` when its note is there.
        tokens: the captions' tokens in parts, by the tokenizer's key.
    """

    job: RangeJob
    images: range
    captions: range
    last: bool
    pixels: dict[Geometry, Tensor] = field(default_factory=dict)
    notes: dict[int, Future[ImageNotes]] = field(default_factory=dict)
    tokens: dict[Hashable, list[Future[Encoded]]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Return whether the device need not wait for it."""
        return all(made.done() for made in self._being_made())

    def await_images(self) -> None:
        """Wait until all images are in ``pixels``, and tell the range what came of them.

        Raises:
            CorpusError: an image is not what was indexed.
        """
        for number, note in self.notes.items():
            bad, changed = note.result()
            if bad is not None:
                self.job.bad_images[number] = bad
            if changed is not None:
                self.job.changed_images[number] = changed

    def settle(self) -> None:
        """Wait until no thread writes into ``pixels`` any more; what was not begun is not done."""
        for made in self._being_made():
            if not made.cancel():
                made.exception()

    def _being_made(self) -> list[Future[Any]]:
        return [*self.notes.values(), *chain.from_iterable(self.tokens.values())]


class RangeJob:
    """A task's state.

    Attributes:
        submitted: reading of ``time.perf_counter`` when it was given.
        teachers: those that are to run, once `open` was called.
        found: units that an earlier attempt committed, by teacher.
        future: the receipts, or the reason why there are none.
    """

    def __init__(self, task: Task, *, on_step: Callable[[], object]) -> None:
        self.task, self.clock = task, Clock(on_step)
        self.future: Future[list[Receipt]] = Future()
        self.submitted = time.perf_counter()
        self.found: dict[str, Receipt] = {}
        self._lock, self._committing = threading.Lock(), False

    @property
    def ended(self) -> bool:
        """Return whether its result is known, so that the rest of it need not be done."""
        return self.future.done()

    def fail(self, error: BaseException) -> None:
        """End it with an error, unless it has ended."""
        with self._lock:
            if not self.ended:
                self.future.set_exception(error)

    def drop(self) -> None:
        """End it, unless its units are being committed."""
        with self._lock:
            if not self.ended and not self._committing:
                self.future.set_exception(TaskDroppedError())

    def forget(self) -> None:
        """Let its features go, before the next range takes their room; threads have it in hand until they get that."""
        self.image_KD.clear()
        self.text_KD.clear()

    def begin_commit(self) -> bool:
        """Return whether its units may be committed: it has not ended, and is not dropped from now on."""
        with self._lock:
            self._committing = not self.ended
        return self._committing

    def open(self, pairs: pa.Table, teachers: Sequence[FrozenTeacher], left_out: Mapping[int, str]) -> None:
        """Take the pairs and make room for features.

        Args:
            teachers: those that lack the range.
            left_out: positions of rows that are not touched, with the reason.
        """
        self.pairs, self.teachers, self._left_out = pairs, teachers, left_out
        self.images = DistinctImages.of(pairs)
        captions_N = strings(pairs, "caption")
        self._bad_captions = bad_captions(captions_N)
        captions_N[list(left_out)] = None
        self.captions = DistinctCaptions(captions_N)
        self.paired = [teacher for teacher in teachers if "text" in teacher.spec.sides]
        images, texts = len(self.images.firsts_K), len(self.captions.texts)
        self.image_KD = {one.name: np.zeros((images, one.embed_dim), np.float32) for one in teachers}
        self.text_KD = {one.name: np.zeros((texts, one.embed_dim), np.float32) for one in self.paired}
        self.truncated_K = {one.name: np.zeros(texts, np.bool_) for one in self.paired}
        self.bad_images: dict[int, str] = {}
        self.changed_images: dict[int, str] = {}
        shown = {image for row, image in enumerate(self.images.of_row_N.tolist()) if row not in left_out}
        self.unread = {*range(images)} - shown

    def image_rows(self) -> list[dict[str, Any]]:
        """Return the first row of each distinct image: key, uri, member and image_sha256."""
        rows = self.pairs.select(["key", "uri", "member", "image_sha256"]).take(self.images.firsts_K)
        found: list[dict[str, Any]] = rows.to_pylist()
        return found

    def batches(self, size: int) -> Iterator[Batch]:
        """Return its images and captions, ``size`` of each at a time, spread evenly over its batches.

        Images and captions take turns, because the host makes images at a steady rate: with all captions at the end
        the device would wait for images before and the host would wait for the device then.
        """
        images = _blocks(len(self.images.firsts_K), size) if self.teachers else []
        captions = _blocks(len(self.captions.texts), size) if self.paired else []
        count = max(len(images), len(captions), 1)
        image_at = {number * count // len(images): block for number, block in enumerate(images)}
        caption_at = {number * count // len(captions): block for number, block in enumerate(captions)}
        for number in range(count):
            yield Batch(
                job=self,
                images=image_at.get(number, range(0)),
                captions=caption_at.get(number, range(0)),
                last=number == count - 1,
            )

    def features(self, teacher: FrozenTeacher) -> UnitFeatures:
        """Return a teacher's features of every row; rows that are left out have a status and zeros."""
        of_row_N, rows = self.images.of_row_N, self.pairs.num_rows
        bad_rows = {row: self.bad_images[image] for row, image in enumerate(of_row_N) if image in self.bad_images}
        is_paired = "text" in teacher.spec.sides
        status_N, reasons = _status(rows, self._bad_captions if is_paired else {}, bad_rows, self._left_out)
        text_ND = truncated_N = None
        if is_paired:
            text_ND, truncated_N = np.zeros((rows, teacher.embed_dim), np.float32), np.zeros(rows, np.bool_)
            text_ND[self.captions.rows] = self.text_KD[teacher.name][self.captions.of_rows]
            truncated_N[self.captions.rows] = self.truncated_K[teacher.name][self.captions.of_rows]
        return UnitFeatures(
            image=self.image_KD[teacher.name][of_row_N],
            text=text_ND,
            status=status_N,
            reasons=reasons,
            truncated=truncated_N,
            changed=[self.changed_images.get(image) for image in of_row_N.tolist()],
        )


def _blocks(count: int, size: int) -> list[range]:
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _status(
    rows: int, bad_captions: Mapping[int, str], bad_images: Mapping[int, str], killers: Mapping[int, str]
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    status_N = np.full(rows, Status.OK, np.uint8)
    reasons: dict[int, str] = {}
    kinds = ((Status.BAD_TEXT, bad_captions), (Status.BAD_IMAGE, bad_images), (Status.KILLER_ROW, killers))
    for kind, found in kinds:
        for position, reason in found.items():
            status_N[position], reasons[position] = kind, reason
    return status_N, reasons
