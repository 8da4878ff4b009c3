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
from evaluate.tasks.classified import classified
from evaluate.tasks.inputs import LabelledFeatures
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


def items_of(name, *, count=120):
    """Return test items that are the same for every model, of patients of two sexes."""
    classes = CLASSIFIED[name][1]
    rng = np.random.default_rng(seed_of(name))
    target = rng.permutation(np.arange(count) % classes)
    sexes = rng.choice(["F", "M"], size=count).tolist()
    ids = [f"{name}/{item:04d}.png" for item in range(count)]
    subgroups = {"sex": sexes} if name in FEW else {}
    return LabelledFeatures(ids=ids, features=np.zeros((count, 2)), target=target, subgroups=subgroups)


def scores_of(model, name, target, *, skill, seeds=1):
    """Return by training seed probabilities, and the logits that they come from."""
    found = []
    for seed in range(seeds):
        noise = np.random.default_rng(seed_of(model, name, len(target), seed)).normal(
            size=(len(target), CLASSIFIED[name][1])
        )
        logits = noise + 2 * skill * np.eye(CLASSIFIED[name][1])[target]
        found.append((np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), logits))
    return found


def write(folder, model, task, dataset, result):
    facts = run_facts()
    who = ModelFacts(name=model, address=f"drawn:{model}", role=ROLES[model], digest=f"{model}-digest")
    write_result(folder, record_of(result, model=who, dataset=dataset, facts=facts, resamples=200), result.predictions)


def write_classified(folder, model, name):
    modality, classes, title = CLASSIFIED[name]
    dataset, skill, test = facts_of(name, title, modality), SKILL[model], items_of(name)
    names = [f"class number {number}" for number in range(classes)]
    held = np.arange(60) % classes

    def add(task, skill, details, *, seeds=1):
        scores = scores_of(model, name, test.target, skill=skill, seeds=seeds)
        result = classified(
            task,
            test,
            scores,
            classes=names,
            positive=names[1] if classes == 2 else None,
            primary="auroc" if classes == 2 else "balanced_accuracy",
            details={"classes": names, **details},
            validation=[(held, logits) for _, logits in scores_of(model, name, held, skill=skill, seeds=seeds)],
        )
        write(folder, model, task, dataset, result)

    templates = [{"template": f"an image of {{label}} {number}", "value": 0.1 * number} for number in range(6)]
    prompts = {"templates": templates, "spread": {"sd": 0.187, "low": 0.0, "high": 0.5}}
    shown = details_of(
        test.predictions({"target": test.target, "score": np.eye(classes)[(test.target + 1) % classes]}), names
    )
    add("zero_shot", skill, {"prompts": prompts, "examples": shown["examples"]})
    add("linear_probe", skill + 0.4, {"amount": {"kind": "all", "value": 1, "num_train": 800.0}})
    for shots in SHOTS if name in FEW else ():
        few = {"amount": {"kind": "shots", "value": shots, "num_train": float(shots * classes)}}
        add(f"linear_probe_{shots}shot", skill * (0.4 + 0.1 * np.log2(2 * shots)), few, seeds=5)


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
