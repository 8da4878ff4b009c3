"""Settings that the trainer refuses because no run can mean them, with what would do."""

from __future__ import annotations

import re

import pytest
import yaml
from pydantic import ValidationError

from extract.config import ExtractPipeline
from store.config.pipeline_file import read_pipeline
from store.corpus.section import Phantom
from store.errors import ConfigError
from tests.train.vit import loaded, vit_pipeline
from train.cli.commands_train import _chosen
from train.config import ModelSection, Optimization, ProjectSection, TrainPipeline
from train.recipe_sections import ImprovedRecipe, PaperRecipe

SECTIONS = {
    Optimization: {"steps": 1, "batch_size": 2, "lr": 0.1},
    ProjectSection: {"out": "projection", "latent_dim": 2, "hidden_dim": 2, "steps": 1},
    Phantom: {"rows": 9},
}
OPTIMIZATION = "train.students.vit.optimization"


@pytest.mark.parametrize(("section", "values"), SECTIONS.items())
def test_a_seed_has_64_bits(section, values):
    assert section(seed=2**64 - 1, **values).seed == 2**64 - 1
    for seed in (-1, 2**64):
        with pytest.raises(ValidationError, match="seed"):
            section(seed=seed, **values)


@pytest.fixture
def refused(tmp_path):
    """Return what is said of a pipeline with some settings."""
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"mine": vit_pipeline(tmp_path, ["a.tar"])}))

    def refuse(*settings, model=TrainPipeline):
        with pytest.raises(ConfigError) as caught:
            read_pipeline(tmp_path / "pipelines.yaml", "mine", model, overrides=settings)
        return str(caught.value)

    return refuse


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"{OPTIMIZATION}.seed=18446744073709551616", "seed: must be at most 18446744073709551615, got"),
        (f"{OPTIMIZATION}.seed=-1", "seed: must be at least 0, got -1"),
        ("train.project.seed=18446744073709551616", "seed: must be at most 18446744073709551615, got"),
        (f"{OPTIMIZATION}.lr=.inf", "lr: must be finite, got inf"),
        (f"{OPTIMIZATION}.weight_decay=.nan", "weight_decay: must be finite, got nan"),
        (f"{OPTIMIZATION}.logit_scale_init=0.07", "what cosines are multiplied by .*, got 0.07; a new model has 14"),
        (f"{OPTIMIZATION}.logit_scale_init=1000", "which each step keeps within 1 and 100, got 1000"),
        (f"{OPTIMIZATION}.warmup_steps=10", "warmup_steps: 10 are not fewer than steps: 10.*; give at most 9, or more"),
        (f"{OPTIMIZATION}.ema=0.99", "ema: 0.99 averages over 100 steps and the run has 10.*; give at most 0.9, or"),
        (f"{OPTIMIZATION}.cached_rows=16", "cached_rows: 16 hold the whole batch of 16, .*; give at most 15, or"),
        ("train.students.vit.paper={feature_weight: 0, interactive_weight: 0}", "one of them a weight, or .*task_only"),
        ("train.students.vit.improved={feature_weight: 0, relational_weight: 0}", "give one a weight, or .*task_only"),
        ("train.students.vit.improved.logit_scales={alpha: 0}", "logit_scales.alpha: must be greater than 0, got 0"),
        ("train.students.vit.improved.statistics_rows=1", "statistics_rows: must be greater than 1, got 1"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_with_what_would_do(refused, setting, said):
    found = refused(setting)
    assert re.search(said, found), found
    assert found.startswith(f"--set {setting}: train.")
    assert "\n" not in found


def test_runs_that_share_a_folder_are_refused_before_the_first_one_trains(tmp_path):
    made = loaded(vit_pipeline(tmp_path, ["a.tar"])).train.students["vit"]
    other = made.model_copy(update={"out": "elsewhere"})
    assert list(_chosen({"one": made, "two": other}, None, "train.students", "mine")) == ["one", "two"]
    with pytest.raises(ConfigError, match=r"train\.students\.two\.out: one has the same folder; give each run its own"):
        _chosen({"one": made, "two": made}, None, "train.students", "mine")
    assert list(_chosen({"one": made, "two": made}, ["two"], "train.students", "mine")) == ["two"]
    begun = made.model_copy(update={"model": ModelSection(init=made.out)})
    with pytest.raises(ConfigError, match=r"one\.out: it is the folder that model\.init starts from; give another"):
        _chosen({"one": begun}, None, "train.students", "mine")


def test_the_seed_of_a_phantom_corpus_has_64_bits_too(refused):
    drawn = "corpora.phantom.phantom={rows: 9, seed: 18446744073709551616}"
    assert "seed: must be at most 18446744073709551615" in refused(drawn, model=ExtractPipeline)


def test_the_largest_values_that_are_named_are_accepted():
    sizes = {"steps": 1, "batch_size": 16, "lr": 0.1}
    assert Optimization(**sizes, cached_rows=15, logit_scale_init=100, seed=2**64 - 1).cached_rows == 15
    assert PaperRecipe(feature_weight=0).interactive_weight
    assert ImprovedRecipe(feature_weight=0, relational_weight=0, interactive_weight=1).interactive_weight
