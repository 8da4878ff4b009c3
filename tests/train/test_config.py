"""Bounds of the sections that the trainer owns."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from train.config import Optimization, ProjectSection

SECTIONS = {
    Optimization: {"steps": 1, "batch_size": 2, "lr": 0.1},
    ProjectSection: {"out": "projection", "latent_dim": 2, "hidden_dim": 2, "steps": 1},
}


@pytest.mark.parametrize(("section", "values"), SECTIONS.items())
def test_a_seed_has_64_bits(section, values):
    assert section(seed=2**64 - 1, **values).seed == 2**64 - 1
    for seed in (-1, 2**64):
        with pytest.raises(ValidationError, match="seed"):
            section(seed=seed, **values)
