"""From a student's section to its objective, on a real store."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest

from store.errors import ConfigError
from train.config import StudentRun, TrainPipeline
from train.data.pair_source import taught_pairs
from train.data.run_teachers import RunTeachers
from train.recipes.choose import objective_maker, sampling_of, shuffles, teacher_facts
from train.recipes.improved import ImprovedObjective
from train.recipes.paper import PaperObjective
from train.recipes.projection import Projection
from train.recipes.teacher_statistics import STATISTICS_FILE
from train.trainer import stages as runs

SCALES = {"alpha": 20.0, "beta": 50.0}


def student_of(tmp_path, tiny_model, **changes):
    optimization = {"steps": 4, "batch_size": 16, "lr": 1e-3, "log_every": 1}
    section = {"out": str(tmp_path / "student"), "model": tiny_model, "optimization": optimization, **changes}
    return StudentRun.model_validate(section)


@pytest.fixture
def store(make_store):
    return make_store()


def identity(store):
    hashes = {name: store.spec(name).hash for name in store.teachers}
    return Projection.identity(hashes, latent_dim=32)


def target_reader(run, store):
    teachers = RunTeachers(selection="all", names=tuple(store.teachers))
    settings = {"seed": run.optimization.seed, "shuffle": shuffles(run), "window_blocks": run.window_blocks}
    return taught_pairs(store, None, teachers=teachers, sampling=sampling_of(run), **settings).targets()


def test_each_recipe_has_its_objective_and_reads_what_it_needs(store, tmp_path, tiny_model):
    available_NT = store.available("all")
    rows, epochs = np.flatnonzero(available_NT.all(axis=1))[:6], np.zeros(6, np.int64)
    found = {}
    for recipe in ("paper", "improved", "task_only"):
        run = student_of(tmp_path, tiny_model, recipe=recipe, improved={"logit_scales": SCALES})
        objective = objective_maker(run, identity(store), store, available_NT, teachers=store.teachers)(tmp_path, 32)
        reader = target_reader(run, store)
        read = reader and sum(len(part.places_K) for part in reader.read(rows, epochs).teachers.values())
        found[recipe] = type(objective).__name__, read
    assert found == {
        "paper": (PaperObjective.__name__, 6),
        "improved": (ImprovedObjective.__name__, 12),
        "task_only": ("TaskObjective", None),
    }
    everyone = student_of(tmp_path, tiny_model, recipe="paper", paper={"teacher_sampling": "all"})
    read = target_reader(everyone, store).read(rows, epochs)
    assert [len(part.places_K) for part in read.teachers.values()] == [6, 6]


def test_only_the_paper_recipe_can_leave_shuffling_out(tmp_path, tiny_model):
    def shuffled(recipe, **paper):
        return shuffles(student_of(tmp_path, tiny_model, recipe=recipe, paper=paper))

    assert shuffled("paper")
    assert not shuffled("paper", shuffle=False)
    assert shuffled("improved", shuffle=False)


def test_a_teacher_that_may_teach_nothing_has_no_head(store, tmp_path, tiny_model):
    available_NT = store.available("all")
    available_NT[:, 0] = False
    run = student_of(tmp_path, tiny_model, recipe="improved", improved={"logit_scales": SCALES})
    objective = objective_maker(run, None, store, available_NT, teachers=store.teachers)(tmp_path, 32)
    assert {name.split(".")[2] for name, _ in objective.named_parameters()} == {"beta"}


def test_logit_scales_come_from_specs_or_else_from_the_recipe(store, tmp_path, tiny_model):
    run = student_of(tmp_path, tiny_model, recipe="improved", improved={"logit_scales": {"alpha": 20.0}})
    facts = teacher_facts(store, store.teachers, run.improved)
    assert {name: (fact.width, fact.logit_scale) for name, fact in facts.items()} == {
        "alpha": (12, 20.0),
        "beta": (20, None),
    }
    with pytest.raises(ConfigError, match="specs of beta do not say it"):
        objective_maker(run, None, store, store.available("all"), teachers=store.teachers)(tmp_path, 32)


def test_statistics_are_fitted_only_where_they_are_needed(store, tmp_path, tiny_model):
    improved = {"logit_scales": SCALES, "phi_s": False, "balance": "uniform"}
    run = student_of(tmp_path, tiny_model, recipe="improved", improved=improved)
    objective_maker(run, None, store, store.available("all"), teachers=store.teachers)(tmp_path, 32)
    assert not (tmp_path / STATISTICS_FILE).exists()


def test_an_improved_student_trains_and_leaves_a_model_without_heads(make_store, phantom, tmp_path, tiny_model):
    make_store()
    model = {**tiny_model, "config": {**tiny_model["config"], "embed_dim": 32}}
    student = student_of(tmp_path, model, recipe="improved", improved={"logit_scales": SCALES})
    pipeline = TrainPipeline.model_validate(
        {
            "corpora": {"phantom": {"files": phantom}},
            "store": {"path": str(tmp_path / "store"), "corpus": "phantom"},
            "train": {"students": {"improved": student.model_dump()}},
        }
    )
    assert runs.distill(pipeline, "improved", pipeline.train.students["improved"])
    lines = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "task_loss", "feature_loss", "relational_loss"} <= set(lines[0])
    assert (tmp_path / "student" / STATISTICS_FILE).is_file()
    made, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'student'}")
    assert not [name for name in made.state_dict() if "head" in name and "alpha" in name]
