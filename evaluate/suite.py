"""Several models on several datasets in all their tasks: what is done stays, what is missing is said."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from extract.teacher_entry import TeacherEntry
from store.errors import MMKDError
from store.images import MAX_PIXELS
from store.reader import FeatureStore

from .addresses import Address
from .dataset_entry import DatasetEntry, Origin, TaskName
from .dataset_loading import load_dataset
from .embedding_cache import CachedEncoder
from .encoders import Encoder
from .loaded_dataset import LoadedDataset
from .models import facts_of, open_encoder
from .overlap import find_overlap
from .records import read_result, record_of, result_path, write_result
from .registry import missing_files
from .result_record import DatasetFacts, ModelFacts, Overlap, ResultRecord, SkippedRecord
from .statistics import RESAMPLES, Mode
from .task_runs import run_task

log = logging.getLogger(__name__)

FIRST_RESULT: dict[TaskName, str] = {
    "zero_shot": "zero_shot",
    "linear_probe": "linear_probe",
    "retrieval": "retrieval",
    "vqa": "vqa",
    "survival": "survival_cox",
    "diagnosis": "diagnosis_mean",
}
"""Of a task with several results, the one that is always there."""

OWN_FEATURES = "own-features"
"""Name of the model of a dataset that brings its features."""

LIBRARIES = ("torch", "open_clip_torch", "numpy", "scikit-learn", "scipy", "lifelines", "pillow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a suite is run.

    Attributes:
        results: folder of the records.
        data_root: where datasets lie.
        teachers: those of the pipeline, by name.
        batch_size: images or texts of a forward pass.
        threads: that decode images.
        device: where models run.
        max_pixels: width times height that is decoded.
        mode: of the resamples; the natural one of each task if None.
        resamples: how many.
        official: scores and resamples as MMKD-CLIP's released evaluator makes them.
        allow: what datasets are not refused for.
        skip_existing: leave results alone that are of the same model and the same data.
        overlap: a store whose images are looked for among the test images.
    """

    results: Path
    data_root: Path
    teachers: Mapping[str, TeacherEntry] = field(default_factory=dict)
    batch_size: int = 256
    threads: int = 2
    device: str = "cpu"
    max_pixels: int = MAX_PIXELS
    mode: Mode | None = None
    resamples: int = RESAMPLES
    official: bool = False
    allow: tuple[str, ...] = ()
    skip_existing: bool = False
    overlap: FeatureStore | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One model on one dataset in one task.

    Attributes:
        address: of the model; None where the dataset brings its features.
        entry: the dataset.
        task: one of its tasks.
        missing: patterns of the dataset's files that are not there.
    """

    address: Address | None
    entry: DatasetEntry
    task: TaskName
    missing: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """What the results are called."""
        return OWN_FEATURES if self.address is None else self.address.name


def plan(
    models: Sequence[Address], entries: Iterable[DatasetEntry], *, tasks: Sequence[TaskName], data_root: Path
) -> list[Job]:
    """Return what there is to do, model by model, so that each is loaded once; no file is opened.

    Args:
        models: at least one, unless every dataset brings its features.
        entries: datasets.
        tasks: only these; all if empty.
        data_root: where datasets lie.
    """
    chosen = list(entries)
    missing = {entry.name: tuple(missing_files(entry, data_root)) for entry in chosen}
    jobs = []
    for address in [*models, None]:
        for entry in chosen:
            if (address is None) != brings_features(entry):
                continue
            jobs += [
                Job(address=address, entry=entry, task=task, missing=missing[entry.name])
                for task in entry.tasks
                if not tasks or task in tasks
            ]
    return jobs


def brings_features(entry: DatasetEntry) -> bool:
    """Whether a dataset has features instead of images, so that no model takes part."""
    return entry.read.format in {"bags", "survival_table"}


class Suite:
    """Runs jobs, and keeps what several of them need.

    Args:
        settings: how.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._datasets: dict[str, LoadedDataset] = {}
        self._overlaps: dict[str, Overlap | None] = {}
        self._model: tuple[Address, ModelFacts, Encoder | None] | None = None

    def run(self, job: Job) -> list[ResultRecord | SkippedRecord]:
        """Do a job and write its records; what cannot be done is a record too, with the reason.

        Raises:
            MMKDError: the model cannot be found or loaded, or the dataset's files are there and damaged.
        """
        facts = self._facts(job)
        if job.missing:
            reason = f"not found below {self._settings.data_root}: {', '.join(job.missing)}"
            return [self._skip(job, facts, reason, FIRST_RESULT[job.task])]
        dataset = self._dataset(job.entry)
        if job.address is None:
            facts = facts.model_copy(update={"digest": dataset.digest})
        if self._settings.skip_existing and (found := self._existing(job, facts, dataset)):
            log.info("%s: %s on %s is there already", facts.name, job.task, job.entry.name)
            return [found]
        began = time.monotonic()
        try:
            outcome = run_task(job.task, self._encoder(job, facts), dataset, official=self._settings.official)
        except MMKDError as error:
            log.warning("%s: %s on %s: %s", facts.name, job.task, job.entry.name, error)
            return [self._skip(job, facts, str(error), FIRST_RESULT[job.task])]
        seconds = round(time.monotonic() - began, 3)
        records: list[ResultRecord | SkippedRecord] = []
        for result in outcome.results:
            record = record_of(
                result,
                model=facts,
                dataset=_facts_of(job.entry, dataset),
                versions={"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
                seconds=seconds,
                excluded={**dataset.excluded, **outcome.excluded},
                mode="official" if self._settings.official and job.task == "zero_shot" else self._settings.mode,
                resamples=self._settings.resamples,
                prompts_digest=outcome.prompts_digest,
                logit_scale=outcome.logit_scale,
                overlap=self._overlap(dataset),
            )
            written = read_result(write_result(self._settings.results, record, result.predictions))
            log.info("%s on %s, %s: %s", facts.name, job.entry.name, record.task, record.cite(record.primary))
            records.append(written)
        for name, reason in outcome.skipped.items():
            records.append(self._skip(job, facts, reason, name))
        return records

    def _facts(self, job: Job) -> ModelFacts:
        if job.address is None:
            return ModelFacts(name=OWN_FEATURES, address=f"dataset:{job.entry.name}", role="other", digest="unread")
        if self._model is None or self._model[0] != job.address:
            self._model = (job.address, facts_of(job.address, teachers=self._settings.teachers), None)
        return self._model[1]

    def _encoder(self, job: Job, facts: ModelFacts) -> Encoder | None:
        if job.address is None or self._model is None:
            return None
        if self._model[2] is None:
            settings = self._settings
            encoder = open_encoder(
                job.address,
                facts,
                teachers=settings.teachers,
                batch_size=settings.batch_size,
                threads=settings.threads,
                max_pixels=settings.max_pixels,
                device=settings.device,
            )
            cached = CachedEncoder(encoder, settings.results / ".embeddings", max_pixels=settings.max_pixels)
            self._model = (job.address, facts, cached)
        return self._model[2]

    def _dataset(self, entry: DatasetEntry) -> LoadedDataset:
        if entry.name not in self._datasets:
            self._datasets[entry.name] = load_dataset(entry, self._settings.data_root, allow=self._settings.allow)
        return self._datasets[entry.name]

    def _overlap(self, dataset: LoadedDataset) -> Overlap | None:
        store = self._settings.overlap
        if store is None or dataset.test.features is not None:
            return None
        name = dataset.entry.name
        if name not in self._overlaps:
            found = find_overlap(store, dataset, threads=self._settings.threads)
            self._overlaps[name] = Overlap(exact=len(found.exact), near=len(found.near), store=store.location.uri)
        return self._overlaps[name]

    def _existing(self, job: Job, facts: ModelFacts, dataset: LoadedDataset) -> ResultRecord | None:
        first = FIRST_RESULT[job.task]
        path = result_path(self._settings.results, model=facts.name, task=first, dataset=job.entry.name)
        if not path.is_file():
            return None
        found = read_result(path)
        if not isinstance(found, ResultRecord):
            return None
        same = (found.model.digest, found.dataset.digest, found.dataset.split_digest)
        return found if same == (facts.digest, dataset.digest, dataset.split_digest) else None

    def _skip(self, job: Job, facts: ModelFacts, reason: str, task: str) -> SkippedRecord:
        known = self._datasets.get(job.entry.name)
        record = SkippedRecord(model=facts, task=task, dataset=_facts_of(job.entry, known), skipped=reason)
        write_result(self._settings.results, record)
        return record


def _facts_of(entry: DatasetEntry, dataset: LoadedDataset | None) -> DatasetFacts:
    return DatasetFacts(
        name=entry.name,
        title=entry.title,
        modality=entry.modality,
        provenance=_weakest(entry),
        licence=entry.licence,
        digest=dataset.digest if dataset else None,
        split_digest=dataset.split_digest if dataset else None,
    )


def _weakest(entry: DatasetEntry) -> Origin:
    """Return whose the split, the classes and the prompts are; ``ours`` if any of them is."""
    said = {entry.provenance.split, entry.provenance.classes, entry.provenance.templates}
    return "ours" if "ours" in said else "inferred" if "inferred" in said else "official"
