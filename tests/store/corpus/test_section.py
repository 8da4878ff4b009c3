"""The section ``corpora`` of a pipeline."""

from __future__ import annotations

import pytest
import yaml

from store.config.pipeline_file import read_section
from store.corpus.section import Corpus
from store.errors import ConfigError


@pytest.mark.parametrize("seed", [-1, 2**64, 2**80])
def test_a_seed_that_does_not_fit_into_64_bits_is_one_clear_problem(tmp_path, seed):
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump({"files": ["*.tar"], "phantom": {"rows": 3, "seed": seed}}))
    bound = "must be at least 0" if seed < 0 else f"must be less than {2**64}"
    with pytest.raises(ConfigError) as caught:
        read_section(path, Corpus)
    assert str(caught.value) == f"{path}:5: phantom.seed: {bound}, got {seed}"


def test_the_largest_seed_is_accepted(tmp_path):
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump({"files": ["*.tar"], "phantom": {"rows": 3, "seed": 2**64 - 1}}))
    assert read_section(path, Corpus).phantom.seed == 2**64 - 1
