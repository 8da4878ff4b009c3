"""A tiny ViT and pipelines that train it: a model without BatchNorm, which large batches and many processes need."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch

from train.config import ModelSection, TrainPipeline
from train.data.batches import Batch
from train.data.captions import Tokens
from train.models.model_folder import begin_model

WORDS = ["kidney stone", "normal brain", "colon polyp", "gallstone", "a cyst", "macular hole", "nodule", "normal lungs"]


def vit_model(**vision):
    """Return the ``model:`` section of a ViT of one layer."""
    return {
        "vocabulary": 300,
        "config": {
            "embed_dim": 32,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16, **vision},
            "text_cfg": {"context_length": 12, "width": 32, "heads": 2, "layers": 1},
        },
    }


def vit_student(folder, **vision):
    """Return such a model, begun."""
    return begin_model(folder, ModelSection(**vit_model(**vision)), WORDS, seed=0)


@functools.cache
def tokenizer():
    """Return the tokenizer of such models, which all learn from the same words."""
    with tempfile.TemporaryDirectory() as folder:
        return vit_student(Path(folder)).tokenizer


def some_batch(rows=8, *, step=0, seed=1):
    """Return a batch of random pixels and different captions."""
    pixels = np.random.default_rng(seed).integers(256, size=(rows, 32, 32, 3), dtype=np.uint8)
    tokens = Tokens.of([f"{WORDS[row % len(WORDS)]} {row}" for row in range(rows)], tokenizer())
    return Batch(step=step, rows_B=np.arange(rows), pixels_BHWC=torch.from_numpy(pixels), tokens=tokens, targets=None)


def vit_pipeline(folder, corpus, *, out="run", store=None, recipe="task_only", vision=None, **settings):
    """Return a pipeline as YAML-like data with one stage-1 run ``vit`` and one student ``vit``."""
    optimization = {"steps": 10, "batch_size": 16, "lr": 1e-3, "log_every": 1, **settings}
    run = {"model": vit_model(**(vision or {})), "optimization": optimization}
    return {
        "corpora": {"phantom": {"files": corpus}},
        "store": {"path": str(store or folder / "store"), "corpus": "phantom"},
        "train": {
            "pretrain": {"vit": {"corpus": "phantom", "out": str(folder / out), **run}},
            "project": {
                "out": str(folder / "projection"),
                "latent_dim": 32,
                "hidden_dim": 16,
                "steps": 3,
                "batch_size": 16,
            },
            "students": {"vit": {"recipe": recipe, "out": str(folder / out), "window_blocks": 2, **run}},
        },
    }


def loaded(pipeline):
    """Return such a pipeline, validated."""
    return TrainPipeline.model_validate(pipeline)
