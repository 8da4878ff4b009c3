"""A model of random weights that is small enough for a test."""

from __future__ import annotations

import torch

from train.config import ModelSection
from train.models.model_folder import begin_model, save_weights

SIZE = 64
MODEL = {
    "vocabulary": 300,
    "config": {
        "embed_dim": 32,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": SIZE, "head_width": 32},
        "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
    },
}


def write_model(folder, captions=("a cat", "a dog"), *, seed=1):
    """Write a model folder; its vocabulary is that of the captions."""
    student = begin_model(folder, ModelSection(**MODEL), list(captions), seed=seed)
    with torch.no_grad():  # as in evaluation: batch statistics are of images, not of nothing
        drawn = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        student.model.train().encode_image(drawn)
    save_weights(student, folder)
