"""The pipelines.yaml of the claim: for each draw corpora, teachers, store and students; variants of draw 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from store.config.yaml_tree import parse

from .arms import ABLATIONS, ARMS, DRAWS, OF_STORE, PRIMARY, Arm, draw_of
from .corpora import REAL_PARTS

ROOT = Path(__file__).resolve().parents[3]

DRAWN = ("oct", "histopathology", "dermatology")
"""Drawn modalities beside the real ones."""

REAL_STEPS = {"ct": 200, "xray": 200, "mri": 150, "breast_ultrasound": 300, "child_xray": 300}
"""Steps of the specialists, as they were set in November; drawn ones have those of the demo."""

QUANTILE = 0.25
"""Share of a teacher's pairs, by its similarity, that it teaches in the arm ``quantile``."""

IMAGE_TEACHER_STEPS = 300

Section = dict[str, Any]


def teacher_names(draw: int) -> list[str]:
    """Return the names of the teachers of a draw."""
    return [f"tiny_{part}_{draw}" for part in (*REAL_PARTS, *DRAWN)]


def pipeline_of(arm: Arm, seed: int) -> str:
    """Return the pipeline of a student."""
    return arm.kind or f"draw{draw_of(seed)}"


def make_pipelines(*, shrink: int = 1) -> dict[str, Section]:
    """Return a pipeline for each draw, and one for each kind of difference to that of draw 1.

    Args:
        shrink: divides all steps and drawn rows, to try the experiment.
    """
    demo = parse((ROOT / "pipelines.yaml").read_text()).data["demo"]
    made = {f"draw{draw}": _of_draw(demo, draw, shrink) for draw in DRAWS}
    for kind in dict.fromkeys(arm.kind for arm in ARMS.values() if arm.kind):
        made[kind] = _variant(demo, kind, shrink)
    for arm in (*PRIMARY, *ABLATIONS, *OF_STORE):
        for seed in arm.seeds:
            students = made[pipeline_of(arm, seed)]["train"]["students"]
            students[arm.student(seed)] = _student(demo, arm, seed, shrink)
    return made


def _of_draw(demo: Section, draw: int, shrink: int) -> Section:
    parts = (*REAL_PARTS, *DRAWN)
    return {
        "corpora": _corpora(draw, shrink),
        "teachers": {
            f"tiny_{part}_{draw}": {"folder": f"draw{draw}/teachers/tiny_{part}_{draw}", "embed_dim": 64}
            for part in parts
        },
        "store": {"path": f"draw{draw}/store", "corpus": "distill", "range_rows": 256, "chunk_rows": 8},
        "pixels": {"short_side_px": 64, "format": "jpeg", "quality": 90},
        "extract": {"batch_size": 128, "workers": 1},
        "select": {f"tiny_{part}_{draw}": {"modalities": [part]} for part in parts},
        "train": {
            "pretrain": {f"tiny_{part}_{draw}": _teacher(demo, part, draw, shrink) for part in reversed(parts)},
            "project": _projection(demo, f"draw{draw}/projection", shrink),
            "students": {},
        },
        "evaluate": {"out": f"draw{draw}", "threads": 1, "zero_shot": {"phantom_test": _phantom_test(demo)}},
    }


def _variant(demo: Section, kind: str, shrink: int) -> Section:
    """Return the pipeline of draw 1 with one difference, and a projection fitted to what follows from it."""
    made = _of_draw(demo, 1, shrink)
    made["train"] = {"project": _projection(demo, f"{kind}/projection", shrink), "students": {}}
    made["evaluate"]["out"] = kind
    if kind == "ungated":
        made["select"] = "all"
    elif kind == "quantile":
        made["select"] = {name: {"top_quantile": QUANTILE} for name in teacher_names(1)}
    else:
        made["store"]["path"] = f"{kind}/store"
    if kind in {"float32", "int8"}:
        made["store"]["dtype"] = kind
    if kind == "one_place":
        made["store"]["chunk_rows"] = 64
    if kind == "image_teacher":
        made["teachers"]["images"] = {"timm": "./image_teacher/teacher"}
        made["select"]["images"] = {"modalities": list(REAL_PARTS)}
        made["corpora"]["private_real"] = {
            "files": [file for part in REAL_PARTS for file in made["corpora"][f"private_{part}"]["files"]]
        }
        optimization = _optimization(demo, IMAGE_TEACHER_STEPS, 100, shrink)
        tower = {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
        example = demo["train"]["pretrain"]["tiny_ct"]["model"]
        model = example | {"config": example["config"] | {"vision_cfg": tower}}
        made["train"]["pretrain"] = {
            "images": {"corpus": "private_real", "out": "image_teacher/clip", "model": model}
            | {"optimization": optimization}
        }
    return made


def _corpora(draw: int, shrink: int) -> Section:
    """Return the corpora; keys of drawn ones begin with the corpus's name, so that they can share a store."""
    own = f"draw{draw}/corpora"
    corpora: Section = {}
    for place, part in enumerate(DRAWN):
        drawn = {
            f"phantom_distill_{part}": {"rows": 200, "seed": 1000 * draw + 1},
            f"phantom_private_{part}": {"rows": max(300, 3000 // shrink), "seed": 1000 * draw + 21 + place},
        }
        for name, section in drawn.items():
            phantom = section | {"modality": part, "size_px": 64}
            corpora[name] = {"files": [f"{own}/{name}/*.tar"], "phantom": phantom}
        # All draws are tested on the same drawings.
        test = {"rows": 200, "seed": 3, "modality": part, "split": "test", "size_px": 64}
        corpora[f"phantom_test_{part}"] = {"files": [f"test/phantom_test_{part}/*.tar"], "phantom": test}
    for part in REAL_PARTS:
        corpora[f"private_{part}"] = {"files": _real(f"{own}/{part}")}
    drawn_files = [f"{own}/phantom_distill_{part}/*.tar" for part in DRAWN]
    corpora["distill"] = {"files": _real(f"{own}/distill") + drawn_files}
    corpora["phantom_test"] = {"files": [f"test/phantom_test_{part}/*.tar" for part in DRAWN]}
    return corpora


def _real(folder: str) -> list[str]:
    return [f"{folder}/*.tar", f"{folder}/*.parquet"]


def _optimization(demo: Section, steps: int, seed: int, shrink: int) -> Section:
    steps = max(2, steps // shrink)
    example: Section = demo["train"]["pretrain"]["tiny_ct"]["optimization"]
    return example | {"steps": steps, "seed": seed, "warmup_steps": min(20, steps // 2)}


def _teacher(demo: Section, part: str, draw: int, shrink: int) -> Section:
    example = demo["train"]["pretrain"]["tiny_ct"]
    runs = demo["train"]["pretrain"]
    steps = REAL_STEPS.get(part) or runs[f"tiny_{part}"]["optimization"]["steps"]
    corpus = f"private_{part}" if part in REAL_STEPS else f"phantom_private_{part}"
    seed = 100 * draw + (*REAL_PARTS, *DRAWN).index(part)
    return {
        "corpus": corpus,
        "out": f"draw{draw}/teachers/tiny_{part}_{draw}",
        "model": example["model"],
        "optimization": _optimization(demo, steps, seed, shrink),
    }


def _projection(demo: Section, out: str, shrink: int) -> Section:
    settings: Section = demo["train"]["project"]
    return settings | {"out": out, "steps": max(2, settings["steps"] // shrink)}


def _student(demo: Section, arm: Arm, seed: int, shrink: int) -> Section:
    example: Section = demo["train"]["students"]["distilled"]
    steps = max(2, arm.steps // shrink)
    optimization = {"seed": seed, "steps": steps, "warmup_steps": min(20, steps // 2)}
    # The window holds all chunks.
    section = {"recipe": arm.recipe, "out": f"students/{arm.student(seed)}", "window_blocks": 512, **arm.section}
    return example | section | {"optimization": example["optimization"] | optimization}


def _phantom_test(demo: Section) -> Mapping[str, Any]:
    section: Section = demo["evaluate"]["zero_shot"]["phantom_test"] | {"corpus": "phantom_test"}
    for key in ("classes", "group_names"):
        section[key] = {group: value for group, value in section[key].items() if group in DRAWN}
    return section
