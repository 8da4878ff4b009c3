"""Real radiographs and scans of every size, from corpora as others wrote them."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest

from store.format.records import Status
from store.inspect.summary import describe_row
from store.read.reader import FeatureStore
from train.config import TrainPipeline
from train.recipes.fit_projections import project
from train.trainer import stages as runs

PATTERNS = {"vqa_rad": "*.tar", "medical_mnist_64": "*-000000.tar"}


STUDENT = {
    "vocabulary": 600,
    "config": {
        "embed_dim": 32,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 32},
        "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
    },
}


def distil(folder, store, *, steps):
    """Distil a student from a store; its metrics, line by line."""
    training = {"steps": steps, "batch_size": 64, "lr": 1e-3, "warmup_steps": 5, "grad_clip": 1.0, "log_every": 1}
    run = {"recipe": "paper", "out": str(folder / "student"), "model": STUDENT, "optimization": training}
    projection = {"out": str(folder / "projection"), "latent_dim": 32, "hidden_dim": 32, "steps": 100, "batch_size": 64}
    pipeline = TrainPipeline.model_validate(
        {
            "corpora": {},
            "store": {"path": str(store), "corpus": "pairs"},
            "train": {"project": projection, "students": {"student": run}},
        }
    )
    project(pipeline, pipeline.train.project)
    runs.distill(pipeline, "student", pipeline.train.students["student"])
    return [json.loads(line) for line in (folder / "student" / "metrics.jsonl").read_text().splitlines()]


def test_real_pairs_go_from_tars_to_a_distilled_student(tmp_path, shared_data, teachers, write_pipeline, extract_here):
    files = [shared_data(name) / pattern for name, pattern in PATTERNS.items()]
    path, outcome = extract_here(
        write_pipeline(tmp_path, files=files, teachers=teachers, range_rows=256, chunk_rows=64, batch_size=64)
    )
    assert not outcome.bad_rows
    store = FeatureStore(path)
    assert store.info.rows > 1000
    for name in teachers:
        assert (store.status(name) == Status.OK).all()
        for side in ("image", "text"):
            features_ND = store.read(slice(None), teacher=name, side=side).astype(np.float32)
            np.testing.assert_allclose(np.linalg.norm(features_ND, axis=1), 1, atol=2e-3)
    row = describe_row(store, store.info.rows - 1)
    assert row["caption"]
    assert set(row["teachers"]) == set(teachers)
    for described in row["teachers"].values():
        assert (described["status"], described["reason"]) == ("ok", None)
        assert described["image_norm"] == pytest.approx(1, abs=2e-3)
    lines = distil(tmp_path, path, steps=40)
    first, last = (np.mean([line["feature_loss"] for line in part]) for part in (lines[:5], lines[-5:]))
    assert last < 0.9 * first
    open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'student'}")
