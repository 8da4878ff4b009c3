"""From a pipeline to results: every teacher and every student on every dataset, and the oracle beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluate.config import EvaluatePipeline, ZeroShotDataset
from evaluate.tasks.group_accuracy import Embeddings, ZeroShotResult, class_embeddings, classify
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Geometry, Preprocessing
from extract.teacher_files.model_folder import read_model_folder
from extract.teacher_files.specs import teacher_spec
from extract.teachers.base import FrozenTeacher
from extract.teachers.loading import load_teacher
from store.errors import ConfigError, WeightsNotFoundError
from store.format.records import Spec

from .labelled import LabelledImages, Pixels, dataset_digest, read_labelled
from .results import ORACLE, ResultFile

log = logging.getLogger(__name__)


@dataclass(kw_only=True, frozen=True, slots=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        role: ``teacher``, ``student`` or ``task_only``.
        folder: where it lies.
        stated: the pipeline's entry, if it is a teacher.
    """

    role: str
    folder: str
    stated: TeacherEntry | None = None

    def entry(self) -> TeacherEntry:
        """Return where it lies and how wide it is, as a teacher's entry.

        Raises:
            TeacherError: no width is stated, and the folder is none of a model.
        """
        if self.stated:
            return self.stated
        width = read_model_folder(Path(self.folder))["model_cfg"]["embed_dim"]
        return TeacherEntry(folder=self.folder, embed_dim=width)


def candidates(pipeline: EvaluatePipeline) -> dict[str, Candidate]:
    """Return the pipeline's teachers and students by name; no folder is read."""
    found = {
        name: Candidate(role="teacher", folder=entry.folder, stated=entry) for name, entry in pipeline.teachers.items()
    }
    for name, run in pipeline.train.students.items():
        if name in found:
            raise ConfigError(f"train.students.{name}: a teacher has that name already")
        found[name] = Candidate(role="student" if run.recipe == "paper" else "task_only", folder=run.out)
    if ORACLE in found:
        raise ConfigError(f"no model may be called {ORACLE}: results of the best teacher of each group have that name")
    return found


def choose(known: Mapping[str, Candidate], names: Sequence[str] | None) -> dict[str, Candidate]:
    """Return the models that are named; without names all, but for students that are not trained yet.

    Raises:
        ConfigError: the pipeline has no such model.
        WeightsNotFoundError: a student that is named is not trained yet.
    """
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        raise ConfigError(f"no model {', '.join(unknown)} in the pipeline; it has {', '.join(known)}")
    untrained = {}
    for name in names or known:
        if known[name].role != "teacher":
            try:
                read_model_folder(Path(known[name].folder))
            except WeightsNotFoundError as error:
                untrained[name] = error
    command = f"python -m train distill --pipeline NAME {' '.join(f'--student {name}' for name in untrained)}"
    if untrained and names:
        raise WeightsNotFoundError("\n".join(f"{name}: {why}" for name, why in untrained.items()), hint=command)
    if untrained:
        log.warning("not trained yet, so left out: %s; %s trains what is missing", ", ".join(untrained), command)
    return {name: known[name] for name in names or known if name not in untrained}


def evaluate(
    pipeline: EvaluatePipeline, dataset_name: str, *, models: Sequence[str] | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Evaluate models on one dataset, put their results into its file, and return that file's content.

    Args:
        pipeline: where models and datasets come from.
        dataset_name: one of its zero-shot datasets.
        models: names; all teachers and students if left out.
        overwrite: evaluate models whose results are up to date too.
    """
    section, dataset = pipeline.evaluate, pipeline.evaluate.zero_shot[dataset_name]
    torch.set_num_threads(section.threads)
    if dataset.corpus not in pipeline.corpora:
        raise ConfigError(f"evaluate.zero_shot.{dataset_name}.corpus: the pipeline has no corpus {dataset.corpus!r}")
    known = candidates(pipeline)
    entries = {name: candidate.entry() for name, candidate in choose(known, models).items()}
    out, corpus, max_pixels = _made_folder(section.out), pipeline.corpora[dataset.corpus], pipeline.max_pixels
    specs = {name: teacher_spec(name, entry) for name, entry in entries.items()}
    file = ResultFile(
        path=out / f"{dataset_name}.json",
        dataset=dataset_name,
        digest=dataset_digest(corpus, dataset, max_pixels=max_pixels),
        roles={name: candidate.role for name, candidate in known.items()},
    )
    done = file.up_to_date({name: spec.hash for name, spec in specs.items()})
    if overwrite:
        done = set()
    todo = {name: spec for name, spec in specs.items() if name not in done}
    if done:
        log.info("%s: %d of %d models are evaluated already%s", dataset_name, len(done), len(specs), _rest(todo))
    if todo:
        labelled = read_labelled(corpus, dataset, {_geometry(spec) for spec in todo.values()}, max_pixels=max_pixels)
    for name, spec in todo.items():
        model = load_teacher(spec, entries[name])
        pixels_NHWC = labelled.pixels[model.geometry]
        result = zero_shot(model, pixels_NHWC, labelled, dataset, batch_size=section.batch_size)
        file.add(name, result, spec_hash=spec.hash, excluded=labelled.excluded)
        log.info("%s on %s: macro accuracy %.3f", name, dataset_name, result.macro_accuracy)
    return file.settle()


def _rest(todo: Mapping[str, Spec]) -> str:
    return "" if todo else ": nothing to do (--overwrite evaluates them anew)"


def _made_folder(out: str) -> Path:
    # Before anything is computed: a file in that place would otherwise be noticed at the end.
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"evaluate.out: {folder} cannot be a folder: {error.strerror}") from error
    return folder


def _geometry(spec: Spec) -> Geometry:
    return Preprocessing.model_validate(spec.preprocessing).geometry


def zero_shot(
    model: FrozenTeacher,
    pixels_NHWC: Pixels,
    labelled: LabelledImages,
    dataset: ZeroShotDataset,
    *,
    batch_size: int,
) -> ZeroShotResult:
    """Return a model's zero-shot accuracy on a dataset whose images are fitted to it."""
    starts = range(0, len(pixels_NHWC), batch_size)
    image_NE: Embeddings = np.concatenate([model.encode_image(pixels_NHWC[i : i + batch_size]) for i in starts])
    prompts = {
        group: class_embeddings(
            model.encode_text, names, group_name=dataset.group_names.get(group, group), templates=dataset.templates
        )
        for group, names in dataset.classes.items()
    }
    return classify(image_NE, labelled.labels, labelled.groups, classes=dataset.classes, class_embedding=prompts)
