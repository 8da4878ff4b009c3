"""Runs several models on several datasets in all their tasks; results that are up to date are kept."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from evaluate.datasets.entry import DatasetEntry, Origin
from evaluate.datasets.loaded import LoadedDataset
from evaluate.datasets.loading import load_dataset
from evaluate.datasets.task_kinds import can_do
from evaluate.models.addresses import OWN_FEATURES, Address
from evaluate.models.embedding_cache import CachedEncoder
from evaluate.models.encoders import Encoder
from evaluate.models.opening import facts_of, open_encoder
from evaluate.results.assemble import record_of
from evaluate.results.files import read_result, results_on, write_result
from evaluate.results.record import DatasetFacts, ModelFacts, Overlap, Result, ResultRecord, RunFacts, SkippedRecord
from store.console import progress
from store.errors import MMKDError

from .oracle import write_oracle
from .overlap import find_overlap
from .plan import Evaluation, Settings
from .task_runs import run_task
from .up_to_date import UNREAD, kept_result, refuse_other_models, request_digest, resampling_mode, still_true

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "open_clip_torch", "numpy", "scikit-learn", "scipy", "lifelines", "pillow")


class Suite:
    """Runs evaluations, and keeps the model and the datasets that several of them need."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._datasets: dict[str, LoadedDataset | MMKDError] = {}
        self._overlaps: dict[str, Overlap | None] = {}
        self._known: dict[Address, ModelFacts] = {}
        self._model: tuple[Address, Encoder] | None = None

    def run_all(self, evaluations: Sequence[Evaluation]) -> list[Result]:
        """Run evaluations, then update the oracles of their datasets with groups; return all records.

        All models are looked for first, so that a missing one ends a run before it begins.

        Raises:
            MMKDError: a model is missing or cannot be loaded, or it would replace the results of another one.
        """
        self.find(evaluations)
        for one in evaluations:
            if one.entry.groups:
                # The oracle reads the results of all models: a damaged one ends the run before the work.
                results_on(self._settings.results, task=one.first_result, dataset=one.entry.name)
        records: list[Result] = []
        with progress(len(evaluations), label="evaluate", noun="evaluations") as advance:
            for evaluation in evaluations:
                records += self.run(evaluation)
                advance(1)
        grouped = {
            one.dataset.name: one for one in records if isinstance(one, ResultRecord) and "groups" in one.details
        }
        oracles = [write_oracle(self._settings.results, like) for like in grouped.values()]
        return [*records, *(oracle for oracle in oracles if oracle is not None)]

    def run(self, evaluation: Evaluation) -> list[Result]:
        """Run an evaluation and write its records; what cannot be done is a record too, with the reason.

        Raises:
            MMKDError: the model cannot be found or loaded, or the store of ``overlap`` cannot be read.
        """
        facts, first = self._facts(evaluation), evaluation.first_result
        if not can_do(evaluation.task, facts.sides):
            reason = f"{evaluation.task} needs a model that encodes texts; {facts.name} encodes images alone"
            return [self._skip(evaluation, facts, reason, first)]
        if evaluation.missing:
            reason = f"not found below {self._settings.data_root}: {', '.join(evaluation.missing)}"
            return [self._skip(evaluation, facts, reason, first)]
        try:
            dataset = self._dataset(evaluation.entry)
        except MMKDError as error:
            return [self._skip(evaluation, facts, _reason(error), first)]
        if evaluation.address is None:
            facts = facts.model_copy(update={"digest": dataset.digest})
        if not self._settings.again and (found := self._existing(evaluation, facts, dataset)):
            log.info("%s: %s on %s is there already", facts.name, evaluation.task, evaluation.entry.name)
            return [found]
        overlap = self._overlap(dataset)
        began = time.monotonic()
        encoder = self._encoder(evaluation, facts)
        try:
            outcome = run_task(evaluation.task, encoder, dataset, official=self._settings.official)
            run_facts = RunFacts(
                prompts_digest=outcome.prompts_digest,
                logit_scale=outcome.logit_scale,
                versions={"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
                seconds=round(time.monotonic() - began, 3),
                excluded={**dataset.excluded, **outcome.excluded},
                overlap=overlap,
                request_digest=self._request(evaluation),
            )
            made = [
                record_of(
                    result,
                    model=facts,
                    dataset=_facts_of(evaluation.entry, dataset),
                    facts=run_facts,
                    mode=resampling_mode(evaluation.task, self._settings),
                    resamples=self._settings.resamples,
                )
                for result in outcome.results
            ]
        except MMKDError as error:
            return [self._skip(evaluation, facts, _reason(error), first)]
        records: list[Result] = []
        records += [self._skip(evaluation, facts, reason, name) for name, reason in outcome.skipped.items()]
        records += [
            self._skip(evaluation, facts, f"the same fits as {kept}, which counts", name, replaces=True)
            for name, kept in outcome.repeated.items()
        ]
        # The first result is written last: if it is there, all others of the evaluation are, which _existing relies on.
        for record, result in reversed(list(zip(made, outcome.results, strict=True))):
            written = read_result(write_result(self._settings.results, record, result.predictions))
            log.info("%s on %s, %s: %s", facts.name, evaluation.entry.name, record.task, record.cite(record.primary))
            records.append(written)
        return records[::-1]

    def _request(self, evaluation: Evaluation) -> str:
        return request_digest(evaluation.entry, evaluation.task, self._settings)

    def find(self, evaluations: Iterable[Evaluation]) -> None:
        """Look for the models of all evaluations.

        Raises:
            MMKDError: a model is missing or no model, or it would replace the results of another one.
        """
        refuse_other_models(self._settings.results, [self._facts(evaluation) for evaluation in evaluations])

    def _facts(self, evaluation: Evaluation) -> ModelFacts:
        if evaluation.address is None:
            address = f"dataset:{evaluation.entry.name}"
            return ModelFacts(name=OWN_FEATURES, address=address, role="other", digest=UNREAD)
        if evaluation.address not in self._known:
            self._known[evaluation.address] = facts_of(
                evaluation.address, teachers=self._settings.teachers, window=self._settings.window
            )
        return self._known[evaluation.address]

    def _encoder(self, evaluation: Evaluation, facts: ModelFacts) -> Encoder | None:
        if evaluation.address is None:
            return None
        if self._model is None or self._model[0] != evaluation.address:
            settings = self._settings
            encoder = open_encoder(
                evaluation.address,
                facts,
                teachers=settings.teachers,
                batch_size=settings.batch_size,
                threads=settings.threads,
                max_pixels=settings.max_pixels,
                window=settings.window,
                device=settings.device,
            )
            cached = CachedEncoder(encoder, settings.results / ".embeddings", max_pixels=settings.max_pixels)
            self._model = (evaluation.address, cached)
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

    def _existing(self, evaluation: Evaluation, facts: ModelFacts, dataset: LoadedDataset) -> ResultRecord | None:
        found = kept_result(
            self._settings.results, model=facts.name, task=evaluation.first_result, dataset=evaluation.entry.name
        )
        if found is None or (self._settings.overlap is not None and found.overlap is None):
            return None
        same = (found.model.digest, found.dataset.digest, found.dataset.split_digest, found.request_digest)
        wanted = (facts.digest, dataset.digest, dataset.split_digest, self._request(evaluation))
        return found if same == wanted else None

    def _skip(
        self, evaluation: Evaluation, facts: ModelFacts, reason: str, task: str, *, replaces: bool = False
    ) -> SkippedRecord:
        """Write why there is no result; one that is there and still true is left.

        Args:
            replaces: it is not left: another result has the same number, which would count twice.
        """
        level = logging.INFO if replaces else logging.WARNING
        log.log(level, "%s: %s on %s: %s", facts.name, task, evaluation.entry.name, reason)
        known = self._datasets.get(evaluation.entry.name)
        dataset = known if isinstance(known, LoadedDataset) else None
        record = SkippedRecord(model=facts, task=task, dataset=_facts_of(evaluation.entry, dataset), skipped=reason)
        there = kept_result(self._settings.results, model=facts.name, task=task, dataset=evaluation.entry.name)
        if there is not None and not replaces and still_true(there, record):
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
        caveats=tuple(dataset.caveats) if dataset else (),
    )


def _weakest(entry: DatasetEntry) -> Origin:
    """Return whose the split, the classes and the prompts are; ``ours`` if any of them is."""
    said = {entry.provenance.split, entry.provenance.classes, entry.provenance.templates}
    return "ours" if "ours" in said else "inferred" if "inferred" in said else "official"
