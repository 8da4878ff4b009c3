"""Fitting projections on a store: only small weights are kept, and the store stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from store.errors import IncompleteStoreError
from train.config import TrainPipeline
from train.recipes.fit_projections import project
from train.recipes.projection import Projection

WIDTHS = {"alpha": 12, "beta": 20}


@pytest.fixture
def make_pipeline(tmp_path, phantom, make_store):
    make_store()

    def make(*, select="all", **settings):
        section = {
            "out": str(tmp_path / "projection"),
            "latent_dim": 32,
            "hidden_dim": 16,
            "steps": 3,
            "batch_size": 16,
        }
        return TrainPipeline.model_validate(
            {
                "corpora": {"phantom": {"files": phantom}},
                "store": {"path": str(tmp_path / "store"), "corpus": "phantom"},
                "select": select,
                "train": {"project": {**section, **settings}},
            }
        )

    return make


def run(pipeline):
    return project(pipeline, pipeline.train.project)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_the_small_weights_are_kept_and_the_store_is_left_alone(tmp_path, make_pipeline):
    pipeline, before = make_pipeline(), content(tmp_path / "store")
    assert run(pipeline)
    assert content(tmp_path / "store") == before
    assert sorted(path.name for path in (tmp_path / "projection").iterdir()) == ["projection.safetensors", "train.json"]
    projection = Projection.load(tmp_path / "projection" / "projection.safetensors")
    assert {name: tuple(weight.shape) for name, weight in projection.weights.items()} == {
        name: (32, width) for name, width in WIDTHS.items()
    }
    weights = sum((width + 1) * 32 * 4 for width in WIDTHS.values())
    assert weights < (tmp_path / "projection" / "projection.safetensors").stat().st_size < weights + 2000


def test_a_fit_is_done_once_and_bound_to_the_specs_of_the_store(tmp_path, make_pipeline):
    assert run(make_pipeline())
    assert not run(make_pipeline())
    assert set(Projection.load(tmp_path / "projection" / "projection.safetensors").spec_hashes) == set(WIDTHS)


def test_max_rows_bounds_what_is_read_and_changes_the_result(tmp_path, make_pipeline):
    run(make_pipeline(max_rows=16, out=str(tmp_path / "few")))
    run(make_pipeline(out=str(tmp_path / "all")))
    few, everything = (Projection.load(tmp_path / name / "projection.safetensors") for name in ("few", "all"))
    assert not torch.equal(few.weights["alpha"], everything.weights["alpha"])
    assert np.isfinite(few.weights["alpha"].numpy()).all()


def test_a_selection_that_leaves_nothing_is_said(make_pipeline):
    with pytest.raises(IncompleteStoreError, match="the selection leaves no feature"):
        run(make_pipeline(select={"alpha": {"min_similarity": 1.0}}))
