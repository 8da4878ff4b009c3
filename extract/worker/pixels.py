"""Makes ranges of a store's pixel cache: a range is read and encoded while the one before it is committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from extract.corpora.small_image import codec_versions, keep
from store.console import leave_threads
from store.corpus.read_ahead import ReadAhead, Take
from store.errors import PairDecodeError
from store.faults import misbehave
from store.format.pairs import PairTable
from store.format.pixels import PixelReceipt, PixelSpec, SmallImage, commit_pixels
from store.format.promote import Guard
from store.format.records import StoreInfo
from store.io.location import Location

from .task import CLOSE_S, Task, TaskDroppedError


@dataclass(frozen=True, slots=True)
class _Made:
    pairs: pa.Table
    images: list[SmallImage]
    seconds: float


class PixelWorker:
    """Makes ranges of small images, see `RangeWorker`.

    Memory holds the encoded images of three ranges at most, one decoded image per thread, and what ``images`` reads
    ahead.

    Args:
        place: where the images are committed.
        threads: threads that decode and encode.
        max_pixels: largest width times height that is decoded.
        guard: called before each receipt.
    """

    def __init__(
        self,
        place: Location,
        spec: PixelSpec,
        *,
        info: StoreInfo,
        pairs: PairTable,
        images: ReadAhead,
        threads: int,
        max_pixels: int,
        guard: Guard,
        on_step: Callable[[], object],
    ) -> None:
        self._place, self._spec, self._info, self._pairs, self._guard = place, spec, info, pairs, guard
        self._images, self._max_pixels, self._on_step = images, max_pixels, on_step
        self._encoders = ThreadPoolExecutor(threads)
        # One thread each, so that ranges are made and committed in order.
        self._maker, self._committer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._dropped = threading.Event()
        self._given: list[Future[list[PixelReceipt]]] = []

    def submit(self, task: Task) -> Future[list[PixelReceipt]]:
        """Begin a task; its result is the range's receipt, or nothing of a probe."""
        made = self._maker.submit(self._make, task)
        future = self._committer.submit(self._commit, task, made)
        self._given.append(future)
        return future

    def drop(self) -> None:
        """End the tasks whose commit has not begun."""
        self._dropped.set()
        self._images.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
        for pool in (self._maker, self._encoders, self._committer):
            pool.shutdown(wait=False, cancel_futures=True)
        if wait(self._given, timeout=CLOSE_S).not_done:
            leave_threads()

    def _make(self, task: Task) -> _Made:
        began = time.monotonic()
        rows = task.probe or range(*self._info.bounds(task.range_id))
        pairs = self._pairs.read(rows.start, rows.stop)
        left_out = {row - rows.start: reason for row, reason in task.killers.items()}
        wanted = [place for place in range(len(rows)) if place not in left_out]
        columns = pairs.select(["key", "uri", "member", "image_sha256"]).take(pa.array(wanted, pa.int64())).to_pylist()
        keys = [row["key"] for row in columns]
        found = self._encoders.map(self._small_image, keys, self._images.request(columns))
        images: Mapping[int, SmallImage] = dict(zip(wanted, found, strict=True))
        whole = [images.get(place) or SmallImage(reason=left_out[place]) for place in range(len(rows))]
        return _Made(pairs, whole, time.monotonic() - began)

    def _small_image(self, key: str, take: Take) -> SmallImage:
        if self._dropped.is_set():
            raise TaskDroppedError
        misbehave(key)
        try:
            return keep(take(), self._spec, max_pixels=self._max_pixels)
        except PairDecodeError as error:
            return SmallImage(reason=str(error))
        finally:
            self._on_step()

    def _commit(self, task: Task, made: Future[_Made]) -> list[PixelReceipt]:
        try:
            ready = made.result()
        except CancelledError as error:  # what reads images was closed
            raise TaskDroppedError from error
        if task.probe is not None:
            return []
        if self._dropped.is_set():
            raise TaskDroppedError
        receipt = commit_pixels(
            self._place,
            info=self._info,
            spec=self._spec,
            range_id=task.range_id,
            pairs=ready.pairs,
            images=ready.images,
            timings_s={"encode": round(ready.seconds, 4)},
            versions=codec_versions(),
            guard=self._guard,
            holds_lock=False,
        )
        return [receipt]
