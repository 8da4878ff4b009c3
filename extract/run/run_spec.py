"""The specification of a run, which every worker process receives, and the worker that follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extract.config import ExtractSection
from extract.teacher_files.entry import TeacherEntry
from extract.worker.task import Made, RangeWorker
from store.corpus.image_source import ImageSource
from store.corpus.read_ahead import ReadAhead
from store.format.pairs import PairTable
from store.format.promote import Guard, unguarded
from store.format.records import Receipt, Spec, read_store_info, readable_record, receipt_key
from store.io.lease import Held
from store.io.location import Location

if TYPE_CHECKING:
    from extract.worker.worker import Worker


@dataclass(kw_only=True, frozen=True, slots=True)
class Job:
    """Everything a worker process needs to make something of each range; it crosses process borders.

    Attributes:
        max_pixels: largest width times height that is decoded.
        prefixes: by what is made, where in the store its units are committed; empty for the store itself.
        lock: of the store, which the driver holds; None for a store that is nobody else's.
    """

    store: Location
    settings: ExtractSection
    max_pixels: int
    corpus_root: str
    allow: tuple[str, ...] = ()
    run_id: str
    prefixes: Mapping[str, str]
    lock: Held | None = None

    @property
    def guard(self) -> Guard:
        """Make sure that the driver still has the lock; in a worker, by its token."""
        return self.lock.check if self.lock else unguarded

    def place(self, subject: str) -> Location:
        """Return where the units of a teacher, or what else is made, are committed."""
        return self.store.below(self.prefixes[subject])

    @abstractmethod
    def build(self, *, on_step: Callable[[], object] = lambda: None) -> RangeWorker:
        """Return a worker of this process.

        Args:
            on_step: called many times in a range, to show progress.
        """

    @abstractmethod
    def key(self, subject: str, range_id: int) -> str:
        """Return the key of a unit's receipt."""

    @abstractmethod
    def committed(self, subject: str, range_id: int) -> Made | None:
        """Return a unit's receipt if this run committed it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class RunSpec(Job):
    """Runs teachers over ranges."""

    entries: Mapping[str, TeacherEntry]
    specs: Mapping[str, Spec]

    def build(self, *, on_step: Callable[[], object] = lambda: None) -> RangeWorker:
        """Load the teachers."""
        worker = build_worker(self)
        worker.on_step = on_step
        return worker

    def key(self, subject: str, range_id: int) -> str:
        """Return the key of a unit's receipt."""
        return receipt_key(subject, range_id)

    def committed(self, subject: str, range_id: int) -> Made | None:
        """Return a unit's receipt if it has this run's id."""
        receipt = readable_record(self.place(subject), receipt_key(subject, range_id), Receipt)
        return receipt if receipt and receipt.run_id == self.run_id else None


def build_worker(spec: RunSpec) -> Worker:
    """Load the teachers of a run into this process."""
    import torch

    from extract.teacher_files.geometry import Preprocessing
    from extract.teachers.loading import load_teacher
    from extract.worker.decoding import Decoder
    from extract.worker.device import Device
    from extract.worker.encoding import Encoder
    from extract.worker.worker import Worker

    # The number of threads decides the order of sums and with it the last bits of a feature.
    torch.set_num_threads(spec.settings.threads_per_worker)
    info, device = read_store_info(spec.store), spec.settings.device
    return Worker(
        places={name: spec.place(name) for name in spec.specs},
        info=info,
        pairs=PairTable(spec.store, info),
        decoder=Decoder(
            images=ReadAhead(ImageSource(spec.corpus_root, allow=spec.allow)),
            batch_size=spec.settings.batch_size,
            threads=spec.settings.decode_threads,
            max_pixels=spec.max_pixels,
            window=Preprocessing.model_validate(next(iter(spec.specs.values())).preprocessing).window,
        ),
        teachers={name: load_teacher(one, spec.entries[name], device=device) for name, one in spec.specs.items()},
        encoder=Encoder(
            Device(device),
            batch_size=spec.settings.batch_size,
            workers_per_card=max(1, int(1 / spec.settings.gpus_per_worker)),
        ),
        run_id=spec.run_id,
        guard=spec.guard,
    )
