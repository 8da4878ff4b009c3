"""Several models on several datasets in all their tasks: what is done stays, what is missing is said."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from evaluate.datasets.entry import DatasetEntry, Origin, TaskName
from evaluate.datasets.loaded import LoadedDataset
from evaluate.datasets.loading import load_dataset
from evaluate.metrics.statistics import Mode
from evaluate.models.addresses import Address
from evaluate.models.embedding_cache import CachedEncoder
from evaluate.models.encoders import Encoder
from evaluate.models.opening import facts_of, open_encoder
from evaluate.results.files import read_result, record_of, write_result
from evaluate.results.record import DatasetFacts, ModelFacts, Overlap, ResultRecord, SkippedRecord
from evaluate.results.task_result import TaskResult
from store.errors import MMKDError

from .overlap import find_overlap
from .plan import OWN_FEATURES, Job, Settings
from .task_runs import run_task
from .up_to_date import UNREAD, kept_result, refuse_other_models, request_digest, still_true

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

LIBRARIES = ("torch", "open_clip_torch", "numpy", "scikit-learn", "scipy", "lifelines", "pillow")


class Suite:
    """Runs jobs, and keeps what several of them need.

    Args:
        settings: how.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._datasets: dict[str, LoadedDataset | MMKDError] = {}
        self._overlaps: dict[str, Overlap | None] = {}
        self._known: dict[Address, ModelFacts] = {}
        self._model: tuple[Address, Encoder] | None = None

    def run(self, job: Job) -> list[ResultRecord | SkippedRecord]:
        """Do a job and write its records; what cannot be done is a record too, with the reason.

        Raises:
            MMKDError: the model cannot be found or loaded, or the store that is looked through cannot be read.
        """
        facts, first = self._facts(job), FIRST_RESULT[job.task]
        if job.missing:
            reason = f"not found below {self._settings.data_root}: {', '.join(job.missing)}"
            return [self._skip(job, facts, reason, first)]
        try:
            dataset = self._dataset(job.entry)
        except MMKDError as error:
            return [self._skip(job, facts, _reason(error), first)]
        if job.address is None:
            facts = facts.model_copy(update={"digest": dataset.digest})
        if self._settings.skip_existing and (found := self._existing(job, facts, dataset)):
            log.info("%s: %s on %s is there already", facts.name, job.task, job.entry.name)
            return [found]
        overlap = self._overlap(dataset)
        began = time.monotonic()
        encoder = self._encoder(job, facts)
        try:
            outcome = run_task(job.task, encoder, dataset, official=self._settings.official)
            known = {
                "model": facts,
                "dataset": _facts_of(job.entry, dataset),
                "seconds": round(time.monotonic() - began, 3),
                "excluded": {**dataset.excluded, **outcome.excluded},
                "prompts_digest": outcome.prompts_digest,
                "logit_scale": outcome.logit_scale,
                "overlap": overlap,
            }
            made = [self._record(job, result, **known) for result in outcome.results]
        except MMKDError as error:
            return [self._skip(job, facts, _reason(error), first)]
        records: list[ResultRecord | SkippedRecord] = []
        records += [self._skip(job, facts, reason, name) for name, reason in outcome.skipped.items()]
        # The first result last: where it is, all others of the job are, which --skip-existing relies on.
        for record, result in reversed(list(zip(made, outcome.results, strict=True))):
            written = read_result(write_result(self._settings.results, record, result.predictions))
            log.info("%s on %s, %s: %s", facts.name, job.entry.name, record.task, record.cite(record.primary))
            records.append(written)
        return records[::-1]

    def _record(self, job: Job, result: TaskResult, **known: Any) -> ResultRecord:
        return record_of(
            result,
            versions={"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
            mode=self._mode(job),
            resamples=self._settings.resamples,
            request_digest=self._request(job),
            **known,
        )

    def _mode(self, job: Job) -> Mode | None:
        return "official" if self._settings.official and job.task == "zero_shot" else self._settings.mode

    def _request(self, job: Job) -> str:
        settings = self._settings
        return request_digest(
            job.entry,
            job.task,
            official=settings.official,
            mode=self._mode(job),
            resamples=settings.resamples,
            allow=settings.allow,
        )

    def find(self, jobs: Iterable[Job]) -> None:
        """Look for the models of all jobs, so that one that is not there ends a run before it begins.

        Raises:
            MMKDError: one is not there or no model, or it would replace the results of another one.
        """
        refuse_other_models(self._settings.results, [self._facts(job) for job in jobs])

    def _facts(self, job: Job) -> ModelFacts:
        if job.address is None:
            return ModelFacts(name=OWN_FEATURES, address=f"dataset:{job.entry.name}", role="other", digest=UNREAD)
        if job.address not in self._known:
            self._known[job.address] = facts_of(job.address, teachers=self._settings.teachers)
        return self._known[job.address]

    def _encoder(self, job: Job, facts: ModelFacts) -> Encoder | None:
        if job.address is None:
            return None
        if self._model is None or self._model[0] != job.address:
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
            self._model = (job.address, cached)
        return self._model[1]

    def _dataset(self, entry: DatasetEntry) -> LoadedDataset:
        if entry.name not in self._datasets:
            try:
                self._datasets[entry.name] = load_dataset(entry, self._settings.data_root, allow=self._settings.allow)
            except MMKDError as error:
                # It is not read again for the next model, to be refused for the same reason.
                self._datasets[entry.name] = error
        found = self._datasets[entry.name]
        if isinstance(found, MMKDError):
            raise found
        return found

    def _overlap(self, dataset: LoadedDataset) -> Overlap | None:
        store = self._settings.overlap
        bags = dataset.test.bags or []
        if store is None or (dataset.test.images is None and not any(bag.images for bag in bags)):
            return None
        name = dataset.entry.name
        if name not in self._overlaps:
            found = find_overlap(store, dataset, threads=self._settings.threads)
            self._overlaps[name] = Overlap(exact=len(found.exact), near=len(found.near), store=store.location.uri)
        return self._overlaps[name]

    def _existing(self, job: Job, facts: ModelFacts, dataset: LoadedDataset) -> ResultRecord | None:
        found = kept_result(
            self._settings.results, model=facts.name, task=FIRST_RESULT[job.task], dataset=job.entry.name
        )
        if found is None or (self._settings.overlap is not None and found.overlap is None):
            return None
        same = (found.model.digest, found.dataset.digest, found.dataset.split_digest, found.request_digest)
        wanted = (facts.digest, dataset.digest, dataset.split_digest, self._request(job))
        return found if same == wanted else None

    def _skip(self, job: Job, facts: ModelFacts, reason: str, task: str) -> SkippedRecord:
        """Write why there is no result; one that is there and still true is left."""
        log.warning("%s: %s on %s: %s", facts.name, task, job.entry.name, reason)
        known = self._datasets.get(job.entry.name)
        dataset = known if isinstance(known, LoadedDataset) else None
        record = SkippedRecord(model=facts, task=task, dataset=_facts_of(job.entry, dataset), skipped=reason)
        there = kept_result(self._settings.results, model=facts.name, task=task, dataset=job.entry.name)
        if there is not None and still_true(there, record):
            log.warning("the result that is there stays: %s", there.cite(there.primary))
        else:
            write_result(self._settings.results, record)
        return record


def _reason(error: MMKDError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


def _facts_of(entry: DatasetEntry, dataset: LoadedDataset | None) -> DatasetFacts:
    return DatasetFacts(
        name=entry.name,
        title=entry.title,
        modality=entry.modality,
        provenance=_weakest(entry),
        licence=entry.licence,
        digest=dataset.digest if dataset else None,
        split_digest=dataset.split_digest if dataset else None,
        findings=tuple(dataset.findings) if dataset else (),
    )


def _weakest(entry: DatasetEntry) -> Origin:
    """Return whose the split, the classes and the prompts are; ``ours`` if any of them is."""
    said = {entry.provenance.split, entry.provenance.classes, entry.provenance.templates}
    return "ours" if "ours" in said else "inferred" if "inferred" in said else "official"
