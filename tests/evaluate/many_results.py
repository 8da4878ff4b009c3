"""Drawn results of nine teachers, a student and its rival on twelve test sets, in all kinds of tasks.

python -m tests.evaluate.many_results FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from evaluate.metrics.predictions import Predictions
from evaluate.results.assemble import record_of
from evaluate.results.files import write_result
from evaluate.results.record import DatasetFacts, ModelFacts, SkippedRecord
from evaluate.results.task_result import result_of
from evaluate.tasks.survival import kaplan_meier
from tests.evaluate.synthetic import details_of, picture, run_facts

TEACHERS = (
    *("bmca", "biomedclip", "unimedclip", "quiltnet", "genmedclip", "plip", "pubmedclip", "pmc_clip", "medclip"),
)
ROLES = {"mmkd_clip": "student", "mmkd_clip_task_only": "task_only"} | dict.fromkeys(TEACHERS, "teacher")
SKILL = {"mmkd_clip": 0.9, "mmkd_clip_task_only": 0.55} | {name: 0.4 + 0.05 * n for n, name in enumerate(TEACHERS)}
CLASSIFIED = {
    "pneumonia": ("xray", 2, "Pneumonia in chest X-rays of children"),
    "breasts": ("ultrasound", 2, "Breast ultrasound"),
    "retinas": ("fundus", 5, "Diabetic retinopathy in five grades"),
    "colon": ("histopathology", 9, "Colorectal tissue in nine classes"),
    "skins": ("dermatology", 7, "Dermatoscopic images of pigmented lesions"),
    "oct": ("oct", 4, "Optical coherence tomography"),
    "organs": ("ct", 11, "Organs in abdominal CT"),
    "brains": ("mri", 4, "Brain tumours"),
}
SHOTS = (1, 2, 4, 8, 16)
FEW = ("breasts", "skins")
"""Test sets with probes that have few training items."""


def facts_of(name, title, modality):
    return DatasetFacts(
        name=name,
        title=title,
        modality=modality,
        provenance="ours",
        licence="CC BY 4.0",
        digest=f"data-of-{name}",
        split_digest=f"split-of-{name}",
    )


def seed_of(*parts):
    return list(" ".join(map(str, parts)).encode())


def classified(model, name, *, skill, count=120, seeds=1):
    """Return predictions on items that are the same for every model."""
    classes = CLASSIFIED[name][1]
    target = np.random.default_rng(seed_of(name)).permutation(np.arange(count) % classes)
    columns = {"target": target} | ({"positive": target == 1} if classes == 2 else {})
    for seed in range(seeds):
        noise = np.random.default_rng(seed_of(model, name, seed)).normal(size=(count, classes))
        score = noise + 2 * skill * np.eye(classes)[target]
        suffix = f".{seed}" if seed else ""
        columns[f"score{suffix}"] = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
        if classes == 2:
            columns[f"margin{suffix}"] = score[:, 1] - score[:, 0]
    return Predictions(ids=[f"{name}/{item:04d}.png" for item in range(count)], columns=columns, strata="target")


def write(folder, model, task, dataset, result):
    facts = run_facts()
    who = ModelFacts(name=model, address=f"drawn:{model}", role=ROLES[model], digest=f"{model}-digest")
    write_result(folder, record_of(result, model=who, dataset=dataset, facts=facts, resamples=200), result.predictions)


def write_classified(folder, model, name):
    modality, classes, title = CLASSIFIED[name]
    dataset, skill = facts_of(name, title, modality), SKILL[model]
    primary = "auroc" if classes == 2 else "balanced_accuracy"
    names = [f"class number {number}" for number in range(classes)]
    measured = ["auroc", "balanced_accuracy", "accuracy", "macro_f1"]

    def add(task, found, details):
        write(
            folder,
            model,
            task,
            dataset,
            result_of(task, primary=primary, names=measured, predictions=found, details=details),
        )

    found = classified(model, name, skill=skill)
    add("zero_shot", found, details_of(found, names))
    add("linear_probe", classified(model, name, skill=skill + 0.4), {"runs": [{"num_train": 800}]})
    for shots in SHOTS if name in FEW else ():
        few = classified(model, name, skill=skill * (0.4 + 0.1 * np.log2(2 * shots)), seeds=5)
        add(f"linear_probe_{shots}shot", few, {"runs": [{"num_train": shots * classes}] * 5})


def write_retrieval(folder, model, name):
    ranks = np.random.default_rng(seed_of(model, name)).geometric(0.1 + 0.2 * SKILL[model], size=200)
    columns = {"rank": ranks, "side": np.arange(200) % 2}
    found = Predictions(ids=[f"{name}/{item}" for item in range(200)], columns=columns)
    names = [f"{side}_recall_at_{k}" for side in ("i2t", "t2i") for k in (1, 5, 10)]
    candidates = [{"text": "a caption " * 8, "correct": place == 1, "score": 0.5} for place in range(3)]
    example = {
        "id": "image 7",
        "kind": "retrieval",
        "target": "a caption",
        "predicted": "another",
        "candidates": candidates,
    }
    details = {"examples": [example | {"thumbnail_jpeg_base64": picture(4)}]}
    result = result_of(
        "retrieval", primary="mean_recall", names=[*names, "mean_recall"], predictions=found, details=details
    )
    write(folder, model, "retrieval", facts_of(name, "Captions of figures", "mixed"), result)


def write_survival(folder, model, name):
    rng = np.random.default_rng(seed_of(name))
    time, event = rng.exponential(40, size=120), rng.random(120) < 0.6
    risk = -SKILL[model] * np.log(time) + np.random.default_rng(seed_of(model, name)).normal(size=120)
    found = Predictions(
        ids=[f"patient {item}" for item in range(120)],
        columns={"time": time, "event": event.astype(np.int64), "risk": risk},
    )
    high = risk > np.median(risk)
    details = kaplan_meier(time, event.astype(np.int64), high)
    result = result_of("survival_cox", primary="harrell_c", names=["harrell_c"], predictions=found, details=details)
    write(folder, model, "survival_cox", facts_of(name, "Survival of drawn patients", "other"), result)


def write_many(folder, models=tuple(ROLES)):
    """Write the results; return the folder."""
    for model in models:
        for name in CLASSIFIED:
            write_classified(folder, model, name)
        for name in ("figures", "reports"):
            write_retrieval(folder, model, name)
        write_survival(folder, model, "cohort")
        who = ModelFacts(name=model, address=f"drawn:{model}", role=ROLES[model], digest=f"{model}-digest")
        nowhere = facts_of("vqa", "Questions about images", "mixed").model_copy(
            update={"digest": None, "split_digest": None}
        )
        reason = "its files are missing: fetch them from https://example.org"
        write_result(folder, SkippedRecord(model=who, task="vqa", dataset=nowhere, skipped=reason))
    return folder


if __name__ == "__main__":
    write_many(Path(sys.argv[1]))
