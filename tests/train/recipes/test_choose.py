"""From a student's section to its objective, on a real store."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import open_clip
import pytest
from torch.nn import functional

from store.errors import ConfigError
from tests.train.teacher_case import identity_projection
from train.config import StudentRun, TrainPipeline
from train.data.pair_source import taught_pairs
from train.data.store_rows import RunTeachers
from train.losses.contrastive import clip_loss
from train.losses.distillation import relation_sum
from train.losses.objective import Objective
from train.recipes.choose import RECIPES, Recipe, TeacherData, teacher_facts
from train.recipes.improved import ImprovedObjective
from train.recipes.paper import PaperObjective
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
    return identity_projection(hashes, 32)


def made(run, store, available_NT, folder, *, projection=None):
    data = TeacherData(store=store, teachers=store.teachers, available_NT=available_NT, projection=projection)
    return RECIPES[run.recipe].objective(run, data, folder, 32)


def target_reader(run, store):
    recipe = RECIPES[run.recipe]
    return taught_pairs(
        store,
        None,
        window_blocks=run.window_blocks,
        teachers=RunTeachers(selection="all", names=tuple(store.teachers)),
        sampling=recipe.sampling(run),
        seed=run.optimization.seed,
        shuffle=recipe.shuffles(run),
    ).targets()


def test_each_recipe_has_its_objective_and_reads_what_it_needs(store, tmp_path, tiny_model):
    available_NT = store.available("all")
    rows, epochs = np.flatnonzero(available_NT.all(axis=1))[:6], np.zeros(6, np.int64)
    found = {}
    for recipe in ("paper", "improved", "task_only"):
        run = student_of(tmp_path, tiny_model, recipe=recipe, improved={"logit_scales": SCALES})
        objective = made(run, store, available_NT, tmp_path, projection=identity(store))
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
        return RECIPES[recipe].shuffles(student_of(tmp_path, tiny_model, recipe=recipe, paper=paper))

    assert shuffled("paper")
    assert not shuffled("paper", shuffle=False)
    assert shuffled("improved", shuffle=False)


def test_a_teacher_that_may_teach_nothing_has_no_head(store, tmp_path, tiny_model):
    available_NT = store.available("all")
    available_NT[:, 0] = False
    run = student_of(tmp_path, tiny_model, recipe="improved", improved={"logit_scales": SCALES})
    objective = made(run, store, available_NT, tmp_path)
    assert {name.split(".")[2] for name, _ in objective.named_parameters()} == {"beta"}


def test_logit_scales_come_from_specs_or_else_from_the_recipe(store, tmp_path, tiny_model):
    run = student_of(tmp_path, tiny_model, recipe="improved", improved={"logit_scales": {"alpha": 20.0}})
    facts = teacher_facts(store, store.teachers, run.improved)
    assert {name: (fact.width, fact.logit_scale) for name, fact in facts.items()} == {
        "alpha": (12, 20.0),
        "beta": (20, None),
    }
    with pytest.raises(ConfigError, match="specs of beta do not say it"):
        made(run, store, store.available("all"), tmp_path)


def test_statistics_are_fitted_only_where_they_are_needed(store, tmp_path, tiny_model):
    improved = {"logit_scales": SCALES, "phi_s": False, "balance": "uniform"}
    run = student_of(tmp_path, tiny_model, recipe="improved", improved=improved)
    made(run, store, store.available("all"), tmp_path)
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


def test_a_recipe_of_its_own_is_an_objective_and_an_entry(make_store, phantom, tmp_path, tiny_model, monkeypatch):
    """This follows the steps of CONTRIBUTING.md; the name in StudentRun is the third place."""

    class Relational(Objective):
        def forward(self, image_BE, text_BE, logit_scale, given):
            task = clip_loss(image_BE, text_BE, logit_scale)
            teacher = given.targets.teachers["alpha"]
            student_KE = functional.normalize(image_BE[teacher.places_K])
            feature_KD = teacher.image_KD.float()
            relation = relation_sum(student_KE @ student_KE.T, feature_KD @ feature_KD.T) / max(1, len(feature_KD))
            return {"loss": task + relation, "relation_loss": relation}

    entry = Recipe(objective=lambda run, data, folder, embed_dim: Relational(), sampling=lambda run: "all")
    monkeypatch.setitem(RECIPES, "relational", entry)
    make_store()
    model = {**tiny_model, "config": {**tiny_model["config"], "embed_dim": 32}}
    run = student_of(tmp_path, model, recipe="task_only").model_copy(update={"recipe": "relational"})
    store = {"path": str(tmp_path / "store"), "corpus": "phantom"}
    sections = {"corpora": {"phantom": {"files": phantom}}, "store": store, "train": {}}
    assert runs.distill(TrainPipeline.model_validate(sections), "relational", run)
    lines = [json.loads(line) for line in (tmp_path / "student" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["relation_loss"] > 0 for line in lines)


def test_the_configuration_names_exactly_the_recipes_there_are():
    assert set(get_args(StudentRun.model_fields["recipe"].annotation)) == set(RECIPES)
