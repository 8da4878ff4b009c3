"""The pipelines.yaml of `first_results`: corpora, teachers, store, students, held-out phantom images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from store.config.yaml_tree import parse

from .corpora import REAL_PARTS

ROOT = Path(__file__).resolve().parents[3]

PHANTOMS = {"oct": 250, "histopathology": 150, "dermatology": 250}
"""Drawn modalities beside the real ones, with their teachers' steps: those of the demo on 2026-11-23.

Models are those that the demo has today, so that a new run gives other numbers than docs/first-results.md.
"""

REAL_STEPS = {"ct": 200, "xray": 200, "mri": 150, "breast_ultrasound": 300, "child_xray": 300}
"""Steps of the specialists, set beforehand; what the validation splits said gave no reason to change them."""

RECIPES = ("task_only", "paper", "improved")


def student_names(seeds: list[int], steps: int) -> list[str]:
    """Return the students of the gated pipeline."""
    return [f"{recipe}_{steps}_{seed}" for seed in seeds for recipe in RECIPES]


def control_names(seeds: list[int], steps: int) -> list[str]:
    """Return the students of the ungated pipeline."""
    return [f"ungated_{steps}_{seed}" for seed in seeds]


def longer_names(seeds: list[int], steps: int) -> list[str]:
    """Return the task-only students of three times the steps: what distillation gives may be had by patience."""
    return [f"task_only_{3 * steps}_{seed}" for seed in seeds]


def make_pipelines(*, seeds: list[int], steps: list[int], shrink: int) -> dict[str, Any]:
    """Return two pipelines over one store: teachers gated by part, and, as the negative control, all on every pair.

    Args:
        seeds: of students.
        steps: of students; the control has the first.
        shrink: divides all steps and phantom rows, to try the script.
    """
    demo = parse((ROOT / "pipelines.yaml").read_text()).data["demo"]
    gated: dict[str, Any] = {
        "corpora": _corpora(shrink),
        "teachers": {f"tiny_{part}": {"folder": f"teachers/tiny_{part}", "embed_dim": 64} for part in _parts()},
        "store": {"path": "store", "corpus": "distill", "range_rows": 256, "chunk_rows": 64},
        "extract": {"batch_size": 128, "workers": 2},
        "select": {f"tiny_{part}": {"modalities": [part]} for part in _parts()},
        "train": {
            "pretrain": _pretrain(demo, shrink),
            "project": demo["train"]["project"] | {"out": "projection", "steps": max(2, 300 // shrink)},
            "students": {
                f"{recipe}_{number}_{seed}": _student(demo, recipe, seed, max(2, number // shrink))
                for number in steps
                for recipe in RECIPES
                for seed in seeds
            },
        },
        "evaluate": {"out": ".", "zero_shot": {"phantom_test": _phantom_test(demo)}},
    }
    for seed, name in zip(seeds, longer_names(seeds, steps[0]), strict=True):
        gated["train"]["students"][name] = _student(demo, "task_only", seed, max(2, 3 * steps[0] // shrink))
    for name, section in gated["train"]["students"].items():
        section["out"] = f"students/{name}"
    ungated = copy.deepcopy(gated)
    ungated["select"] = "all"
    ungated["train"]["pretrain"] = {}
    ungated["train"]["project"]["out"] = "projection_ungated"
    ungated["train"]["students"] = {
        name: _student(demo, "paper", seed, max(2, steps[0] // shrink)) | {"out": f"students/{name}"}
        for seed, name in zip(seeds, control_names(seeds, steps[0]), strict=True)
    }
    ungated["evaluate"]["out"] = "ungated"
    return {"gated": gated, "ungated": ungated}


def _parts() -> list[str]:
    return [*REAL_PARTS, *PHANTOMS]


def _corpora(shrink: int) -> dict[str, Any]:
    """Return the corpora; keys of drawn ones begin with the corpus's name, so that they can share a store."""
    phantom: dict[str, Any] = {}
    for place, part in enumerate(PHANTOMS):
        drawn = {"modality": part}
        phantom |= {
            f"phantom_distill_{part}": drawn | {"rows": 200, "seed": 1},
            f"phantom_test_{part}": drawn | {"rows": 200, "seed": 3, "split": "test"},
            f"phantom_private_{part}": drawn | {"rows": max(300, 3000 // shrink), "seed": 21 + place, "others": 0.15},
        }
    corpora = {
        name: {"files": [f"corpora/{name}/*.tar"], "phantom": section | {"size_px": 64}}
        for name, section in phantom.items()
    }
    files = "corpora/{}/*.tar", "corpora/{}/*.parquet"
    corpora |= {f"private_{part}": {"files": [file.format(part) for file in files]} for part in REAL_PARTS}
    drawn_files = [f"corpora/phantom_distill_{part}/*.tar" for part in PHANTOMS]
    corpora["distill"] = {"files": [file.format("distill") for file in files] + drawn_files}
    corpora["phantom_test"] = {"files": [f"corpora/phantom_test_{part}/*.tar" for part in PHANTOMS]}
    return corpora


def _pretrain(demo: dict[str, Any], shrink: int) -> dict[str, Any]:
    example = demo["train"]["pretrain"]["tiny_ct"]
    runs = {}
    for place, (part, steps) in enumerate((REAL_STEPS | PHANTOMS).items()):
        corpus = f"private_{part}" if part in REAL_STEPS else f"phantom_private_{part}"
        optimization = example["optimization"] | {"steps": max(2, steps // shrink), "seed": 101 + place}
        optimization["warmup_steps"] = min(20, optimization["steps"] // 2)
        out = f"teachers/tiny_{part}"
        runs[f"tiny_{part}"] = example | {"corpus": corpus, "out": out, "optimization": optimization}
    return runs


def _student(demo: dict[str, Any], recipe: str, seed: int, steps: int) -> dict[str, Any]:
    section = copy.deepcopy(demo["train"]["students"]["distilled"])
    section["recipe"] = recipe
    section["optimization"] |= {"seed": seed, "steps": steps, "warmup_steps": min(20, steps // 2)}
    return section


def _phantom_test(demo: dict[str, Any]) -> dict[str, Any]:
    section = copy.deepcopy(demo["evaluate"]["zero_shot"]["phantom_test"]) | {"corpus": "phantom_test"}
    for key in ("classes", "group_names"):
        section[key] = {group: value for group, value in section[key].items() if group in PHANTOMS}
    return section
