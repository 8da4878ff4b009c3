"""From a pipeline to results: every teacher and every student on every dataset, and the oracle beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from extract.config import TeacherEntry
from extract.geometry import Geometry, fit
from extract.model_folder import read_model_folder, teacher_spec
from extract.teacher import Teacher, load_teacher
from store.corpus import corpus_files
from store.errors import ConfigError, CorpusError
from store.files import write_atomic
from store.images import decode_image
from store.pipeline import Corpus
from store.webdataset import read_tar

from .config import EvaluatePipeline, ZeroShotDataset
from .zero_shot import Embeddings, ZeroShotResult, class_embeddings, classify, oracle

log = logging.getLogger(__name__)

ORACLE = "oracle"


@dataclass(kw_only=True, frozen=True, slots=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        role: ``teacher``, ``student`` or ``task_only``.
        entry: where it lies.
    """

    role: str
    entry: TeacherEntry


@dataclass(kw_only=True, slots=True)
class LabelledImages:
    """A dataset in memory: encoded images with label and group."""

    images: list[bytes]
    labels: list[str]
    groups: list[str]


def candidates(pipeline: EvaluatePipeline) -> dict[str, Candidate]:
    """Return the pipeline's teachers and students by name."""
    found = {name: Candidate(role="teacher", entry=entry) for name, entry in pipeline.teachers.items()}
    for name, run in pipeline.train.students.items():
        if name in found:
            raise ConfigError(f"train.students.{name}: a teacher has that name already")
        role = "student" if run.recipe == "paper" else "task_only"
        width = read_model_folder(Path(run.out)).config["model_cfg"]["embed_dim"]
        found[name] = Candidate(role=role, entry=TeacherEntry(folder=run.out, embed_dim=width))
    return found


def evaluate(pipeline: EvaluatePipeline, dataset_name: str, *, models: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate models on one dataset, write the result file and return its content.

    Args:
        pipeline: where models and datasets come from.
        dataset_name: one of its zero-shot datasets.
        models: names; all teachers and students if left out.
    """
    section = pipeline.evaluate
    torch.set_num_threads(section.threads)
    dataset = section.zero_shot[dataset_name]
    if dataset.corpus not in pipeline.corpora:
        raise ConfigError(f"evaluate.zero_shot.{dataset_name}.corpus: the pipeline has no corpus {dataset.corpus!r}")
    known = candidates(pipeline)
    unknown = sorted(set(models or []) - set(known))
    if unknown:
        raise ConfigError(f"no model {', '.join(unknown)} in the pipeline; it has {', '.join(known)}")
    labelled = read_labelled(pipeline.corpora[dataset.corpus], dataset)
    pixels: dict[Geometry, npt.NDArray[np.uint8]] = {}
    results, roles = {}, {}
    for name in models or known:
        candidate = known[name]
        model = load_teacher(teacher_spec(name, candidate.entry), candidate.entry)
        if model.geometry not in pixels:
            pixels[model.geometry] = _fitted(labelled.images, model.geometry, max_pixels=pipeline.max_pixels)
        results[name] = zero_shot(model, pixels[model.geometry], labelled, dataset, batch_size=section.batch_size)
        roles[name] = candidate.role
        log.info("%s on %s: macro accuracy %.3f", name, dataset_name, results[name].macro_accuracy)
    teachers = {name: result for name, result in results.items() if roles[name] == "teacher"}
    if teachers:
        results[ORACLE], roles[ORACLE] = oracle(teachers), "oracle"
    content = {
        "dataset": dataset_name,
        "task": "zero_shot",
        "images": next(iter(results.values())).images,
        "models": {name: _model_entry(roles[name], result) for name, result in results.items()},
    }
    write_atomic(Path(section.out) / f"{dataset_name}.json", (json.dumps(content, indent=1) + "\n").encode())
    return content


def _model_entry(role: str, result: ZeroShotResult) -> dict[str, Any]:
    return {"role": role, "macro_accuracy": result.macro_accuracy, "by_modality": result.by_group}


def read_labelled(corpus: Corpus, dataset: ZeroShotDataset) -> LabelledImages:
    """Read a labelled corpus.

    Raises:
        CorpusError: a pair has no image or lacks the label or group field.
    """
    found = LabelledImages(images=[], labels=[], groups=[])
    for file in corpus_files(corpus.files):
        for pair in read_tar(file):
            label, group = pair.metadata.get(dataset.label), pair.metadata.get(dataset.group)
            if not pair.image or not isinstance(label, str) or not isinstance(group, str):
                raise CorpusError(
                    f"{file}: {pair.key}: expected an image and the text fields {dataset.label!r} and "
                    f"{dataset.group!r} in its .json"
                )
            found.images.append(pair.image)
            found.labels.append(label)
            found.groups.append(group)
    return found


def _fitted(images: Sequence[bytes], geometry: Geometry, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    return np.stack([fit(decode_image(data, max_pixels=max_pixels), geometry) for data in images])


def zero_shot(
    model: Teacher,
    pixels_NHWC: npt.NDArray[np.uint8],
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
