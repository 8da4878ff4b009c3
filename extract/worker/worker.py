"""Does ranges as a pipeline: reads and decodes, encodes on the device, collects, commits. Knows nothing of Ray.

Each stage has a thread and takes its work in order, so that a range is decoded while the one before it is encoded and
the one before that is committed. Features depend neither on the threads nor on their timing: the batches of a range
are counted from its first image and its first caption.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from queue import Queue, SimpleQueue
from typing import Any, Self

import pyarrow as pa

from extract.teachers.base import FrozenTeacher
from store.console import leave_threads
from store.format.commit import Circumstances, commit_unit, valid_receipt
from store.format.pairs import PairTable, pairs_digest
from store.format.promote import Guard, unguarded
from store.format.records import Receipt, StoreInfo, receipt_key
from store.io.location import Location
from store.texts.tokens import Encoded

from .decoding import Decoder
from .encoding import Encoder, InFlight
from .range_job import Batch, RangeJob
from .task import CLOSE_S, Task

BATCHES_AHEAD = 4
"""Batches whose pixels are in memory: being decoded, decoded, on the device, or not yet collected."""

CAPTIONS_AT_ONCE = 64
"""Captions that a thread tokenises at once; the other threads go on with images meanwhile."""

PACKAGES = ("torch", "open_clip_torch", "timm", "transformers", "zarr")
"""A receipt records the versions of these; the teachers' arithmetic and tokenizers are theirs."""


@dataclass(kw_only=True, slots=True)
class Worker:
    """Runs teachers over ranges of a store. It is a context manager; its end drops what is not being committed.

    Attributes:
        places: where the units of each teacher are committed.
        encoder: runs the teachers on the device.
        run_id: for the receipts.
        guard: called before each receipt.
        on_step: called many times in a range, to show progress.
    """

    places: Mapping[str, Location]
    info: StoreInfo
    pairs: PairTable
    decoder: Decoder
    encoder: Encoder
    teachers: dict[str, FrozenTeacher]
    run_id: str
    on_step: Callable[[], object] = lambda: None
    guard: Guard = unguarded
    _jobs: list[RangeJob] = field(default_factory=list, init=False)
    _given: SimpleQueue[RangeJob | None] = field(default_factory=SimpleQueue, init=False)
    _made: Queue[Batch | None] = field(default_factory=Queue, init=False)
    _in_flight: SimpleQueue[InFlight | None] = field(default_factory=SimpleQueue, init=False)
    _encoded: SimpleQueue[RangeJob | None] = field(default_factory=SimpleQueue, init=False)
    _ahead: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(BATCHES_AHEAD), init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def submit(self, task: Task) -> Future[list[Receipt]]:
        """Begin a task; its result is each teacher's receipt, which `Dispatch.done` then promotes, or none of a probe.

        Tasks are done in order, and the next ones are prepared meanwhile. The errors are those of a unit's commit, and

            OutOfMemoryError: a single row does not fit into the device's memory.
            CorpusError: an image is not what was indexed.
            TaskDroppedError: `drop` was called before its commit began.
        """
        job = RangeJob(task, on_step=self.on_step)
        with self._lock:  # an actor has a thread for each task
            self._start()
            self._jobs = [*(one for one in self._jobs if not one.ended), job]
            self._given.put(job)
        return job.future

    def drop(self) -> None:
        """End the tasks whose commit has not begun."""
        for job in self._jobs:
            job.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
        self.decoder.images.close()
        self._given.put(None)
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if any(thread.is_alive() for thread in self._threads):
            leave_threads()

    def _start(self) -> None:
        if self._pool is not None:
            return
        # The threads of the pool are all there is; the tokenizers' own would wait for the same cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._pool = ThreadPoolExecutor(self.decoder.threads, thread_name_prefix="decode")
        prepare = partial(self._prepare_all, self._pool)
        for stage in (prepare, self._encode_all, self._collect_all, self._commit_all):
            thread = threading.Thread(target=stage, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _prepare_all(self, pool: ThreadPoolExecutor) -> None:
        for job in iter(self._given.get, None):
            try:
                self._prepare(job, pool)
            except BaseException as error:  # noqa: BLE001  raised again where the task was given
                job.fail(error)
        self._made.put(None)

    def _prepare(self, job: RangeJob, pool: ThreadPoolExecutor) -> None:
        """Have a range's images decoded and its captions tokenised, as far ahead of the device as memory allows."""
        task = job.task
        start, stop = (task.probe.start, task.probe.stop) if task.probe else self.info.bounds(task.range_id)
        pairs = self.pairs.read(start, stop)
        if task.attempt > 1 and task.probe is None:
            job.found = self._committed(task, pairs)
        teachers = [self.teachers[name] for name in task.teachers if name not in job.found]
        job.open(pairs, teachers, {row - start: reason for row, reason in task.killers.items()})
        rows = job.image_rows()
        for batch in job.batches(self.decoder.batch_size):
            self._ahead.acquire()
            try:
                if not job.ended:
                    self._begin(batch, rows, pool)
            except BaseException as error:  # noqa: BLE001  raised again where the task was given
                job.fail(error)
            # Also of a range that has ended, because the collecting thread lets the next batch in.
            self._made.put(batch)

    def _begin(self, batch: Batch, rows: list[dict[str, Any]], pool: ThreadPoolExecutor) -> None:
        job, size = batch.job, len(batch.images)
        by_key = {teacher.tokenizer_key: teacher for teacher in job.paired} if batch.captions else {}
        firsts = range(batch.captions.start, batch.captions.stop, CAPTIONS_AT_ONCE)
        parts = [job.captions.texts[first : min(first + CAPTIONS_AT_ONCE, batch.captions.stop)] for first in firsts]
        for key, teacher in by_key.items():
            batch.tokens[key] = [pool.submit(_tokenize, teacher, part, job) for part in parts]
        for geometry in {teacher.geometry for teacher in job.teachers} if size else ():
            batch.pixels[geometry] = self.encoder.device.staging(size, geometry.size_px, geometry.size_px, 3)
        for number in job.unread.intersection(batch.images):
            for pixels_BHWC in batch.pixels.values():
                pixels_BHWC[number - batch.images.start].zero_()
        wanted = [number for number in batch.images if number not in job.unread]
        for number, read in zip(wanted, self.decoder.images.request([rows[number] for number in wanted]), strict=True):
            place = number - batch.images.start
            places = {geometry: pixels_BHWC[place] for geometry, pixels_BHWC in batch.pixels.items()}
            batch.notes[number] = pool.submit(self.decoder.decode, rows[number]["key"], read, places, job.clock)

    def _encode_all(self) -> None:
        broken: BaseException | None = None
        try:
            self.encoder.begin()
        except BaseException as error:  # noqa: BLE001  raised again where tasks are given
            broken = error
        for batch in iter(self._made.get, None):
            flight = None
            if broken is not None:
                batch.job.fail(broken)
            if not batch.job.ended:
                batch.job.clock.queued("decoded", sum(one.ready for one in (batch, *self._waiting())))
                try:
                    flight = self.encoder.encode(batch)
                except BaseException as error:  # noqa: BLE001  raised again where the task was given
                    batch.job.fail(error)
            self._in_flight.put(flight or self.encoder.skip(batch))
        self._in_flight.put(None)

    def _waiting(self) -> list[Batch]:
        with self._made.mutex:
            return [batch for batch in self._made.queue if batch is not None]

    def _collect_all(self) -> None:
        for flight in iter(self._in_flight.get, None):
            job, is_last = flight.batch.job, flight.batch.last
            try:
                self.encoder.collect(flight)
            except BaseException as error:  # noqa: BLE001  raised again where the task was given
                job.fail(error)
            # Other threads still have the batch in hand. Its memory goes before the next one is let in.
            self.encoder.device.free(flight.batch.pixels.values())
            flight.batch.pixels.clear()
            flight.batch.tokens.clear()
            self._ahead.release()
            if is_last:
                self._encoded.put(job)
        self._encoded.put(None)

    def _commit_all(self) -> None:
        for job in iter(self._encoded.get, None):
            job.clock.queued("encoded", self._encoded.qsize())
            if not job.begin_commit():
                continue
            try:
                receipts = [] if job.task.probe else self._commit(job)
            except BaseException as error:  # noqa: BLE001  raised again where the task was given
                job.fail(error)
            else:
                job.forget()
                job.future.set_result(receipts)

    def _commit(self, job: RangeJob) -> list[Receipt]:
        digest = pairs_digest(job.pairs)
        for teacher in job.teachers:
            circumstances = Circumstances(
                device=self.encoder.device.name,
                batch_size=self.encoder.batch_size(teacher).rows,
                run_id=self.run_id,
                attempt=job.task.attempt,
                timings_s=job.clock.timings(),
                queues=job.clock.queues(),
                versions=_versions(),
            )
            job.found[teacher.name] = commit_unit(
                self.places[teacher.name],
                info=self.info,
                spec=teacher.spec,
                range_id=job.task.range_id,
                pairs=job.pairs,
                features=job.features(teacher),
                circumstances=circumstances,
                digest=digest,
                guard=self.guard,
                holds_lock=False,
            )
            self.on_step()
        return [job.found[name] for name in job.task.teachers]

    def _committed(self, task: Task, pairs: pa.Table) -> dict[str, Receipt]:
        """Return what an earlier attempt committed before it failed."""
        digest = pairs_digest(pairs)
        receipts = {
            name: valid_receipt(
                self.places[name],
                receipt_key(name, task.range_id),
                Receipt,
                spec_hash=self.teachers[name].spec.hash,
                digest=digest,
            )
            for name in task.teachers
        }
        return {name: receipt for name, receipt in receipts.items() if receipt and receipt.run_id == self.run_id}


@functools.cache
def _versions() -> dict[str, str]:
    # Once in a process: each look reads a file and holds the interpreter's lock.
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def _tokenize(teacher: FrozenTeacher, texts: list[str], job: RangeJob) -> Encoded:
    with job.clock("tokenize"):
        return teacher.tokenize(texts)
