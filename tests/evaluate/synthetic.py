"""Seeded results of models that do not exist, for tests of what is made of results."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from evaluate.metrics.predictions import Predictions
from evaluate.results.assemble import record_of
from evaluate.results.files import write_result
from evaluate.results.record import DatasetFacts, ModelFacts, Overlap, RunFacts, SkippedRecord
from evaluate.results.task_result import result_of
from store.images.thumbnail import thumbnail

MODELS = {"biomedclip": ("teacher", 0.55), "pmc_clip": ("teacher", 0.35), "mmkd": ("student", 0.8)}
"""Name to role and skill: how far the right class scores above the others."""
DATASETS = {
    "lungs": ("histopathology", 3),
    "breasts": ("ultrasound", 2),
    "chests": ("xray", 2),
    "skins": ("dermatology", 4),
}
"""Name to modality and number of classes."""


def model_facts(name, *, digest=None, role=None):
    known = MODELS[name][0] if name in MODELS else "other"
    return ModelFacts(name=name, address=f"teacher:{name}", role=role or known, digest=digest or f"{name}-digest")


def dataset_facts(name, *, split="split-1", **changes):
    facts = {
        "name": name,
        "title": name.capitalize(),
        "modality": DATASETS[name][0] if name in DATASETS else "xray",
        "provenance": "ours",
        "licence": "CC-BY-4.0",
        "digest": f"data-of-{name}",
        "split_digest": f"{split}-of-{name}",
    }
    return DatasetFacts(**{**facts, **changes})


def predictions(dataset, *, skill, seed, count=90, classes=3, clustered=False):
    """Return predictions on the same test items for every model: targets depend on the dataset alone."""
    target = np.random.default_rng(len(dataset)).permutation(np.arange(count) % classes)
    score = np.random.default_rng(seed).normal(size=(count, classes)) + 2 * skill * np.eye(classes)[target]
    columns = {"target": target, "score": score}
    if classes == 2:
        columns |= {"margin": score[:, 1] - score[:, 0], "positive": target == 1}
    clusters = [f"{dataset}-patient-{item // 3}" for item in range(count)] if clustered else None
    return Predictions(
        ids=[f"{dataset}/{item:04d}.png" for item in range(count)], clusters=clusters, columns=columns, strata="target"
    )


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return thumbnail(Image.fromarray(noise).resize((160, 120)))


def details_of(found, names, *, examples=2):
    """Return what a zero-shot task keeps: classes, confusion, some failures."""
    target, chosen = found.columns["target"], found.columns["score"].argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (target, chosen), 1)
    wrong = np.flatnonzero(target != chosen)[:examples]
    shown = [
        {
            "id": found.ids[item],
            "target": names[target[item]],
            "predicted": names[chosen[item]],
            "thumbnail_jpeg_base64": picture(int(item)),
        }
        for item in wrong
    ]
    return {"classes": names, "confusion": confusion.tolist(), "examples": shown}


def zero_shot(
    model, dataset, *, skill=None, seed=None, split="split-1", count=90, classes=None, clustered=False, **more
):
    """Return a record of zero-shot classification, and its predictions."""
    classes = classes or DATASETS[dataset][1]
    seed = seed if seed is not None else sum(map(ord, model + dataset))
    skill = MODELS[model][1] if skill is None else skill
    found = predictions(dataset, skill=skill, seed=seed, count=count, classes=classes, clustered=clustered)
    names = [f"class {number}" for number in range(classes)]
    result = result_of(
        "zero_shot",
        primary=more.pop("primary", "auroc"),
        names=["auroc", "balanced_accuracy", "accuracy"],
        predictions=found,
        details=more.pop("details", None) or details_of(found, names),
    )
    options = {name: more.pop(name) for name in ("mode", "resamples") if name in more}
    facts = run_facts(**more)
    where = dataset_facts(dataset, split=split)
    return record_of(
        result, model=model_facts(model), dataset=where, facts=facts, **{"resamples": 200} | options
    ), found


def run_facts(**changes):
    facts = {"versions": {"numpy": np.__version__}, "seconds": 1.5, "excluded": {}}
    facts |= {"prompts_digest": None, "logit_scale": None, "overlap": None}
    return RunFacts(**facts | changes)


def skipped(model, dataset, *, reason="its files are missing: fetch them from https://example.org"):
    facts = dataset_facts(dataset, digest=None, split_digest=None)
    return SkippedRecord(model=model_facts(model), task="zero_shot", dataset=facts, skipped=reason)


def write_all(folder, *, models=tuple(MODELS), datasets=tuple(DATASETS), **options):
    """Write results of some models on some datasets, and a dataset that is missing; return the folder."""
    overlap = Overlap(exact=3, near=12, store="demo")
    for model in models:
        for dataset in datasets:
            record, found = zero_shot(model, dataset, overlap=overlap if dataset == "lungs" else None, **options)
            write_result(folder, record, found)
        write_result(folder, skipped(model, "brains"))
    return folder


def jpeg_bytes(size):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
