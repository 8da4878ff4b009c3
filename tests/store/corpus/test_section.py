"""The section ``corpora`` of a pipeline."""

from __future__ import annotations

import re

import pytest
import yaml

from store.config.pipeline_file import read_section
from store.corpus.section import Corpus
from store.errors import ConfigError


@pytest.mark.parametrize("seed", [-1, 2**64, 2**80])
def test_a_seed_that_does_not_fit_into_64_bits_is_one_clear_problem(tmp_path, seed):
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump({"files": ["*.tar"], "phantom": {"rows": 3, "seed": seed}}))
    bound = "must be at least 0" if seed < 0 else f"must be at most {2**64 - 1}"
    with pytest.raises(ConfigError) as caught:
        read_section(path, Corpus)
    assert str(caught.value) == f"{path}:5: phantom.seed: {bound}, got {seed}"


def test_the_largest_seed_is_accepted(tmp_path):
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump({"files": ["*.tar"], "phantom": {"rows": 3, "seed": 2**64 - 1}}))
    assert read_section(path, Corpus).phantom.seed == 2**64 - 1


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"files": ["a\0.csv"]}, "files.0: no path holds a NUL"),
        ({"lists": {"labels": ""}}, "lists.labels: string should have at least 1 character"),
        ({"join": [{"file": "o.csv", "on": {}}]}, "join.0.on: expected at least 1 item"),
        ({"join": [{"file": "o.csv", "on": {"study": "s{a"}}]}, "join.0.on: expected '}' before end of string"),
    ],
)
def test_a_separator_or_a_join_without_meaning_is_a_problem_of_the_pipeline(tmp_path, settings, problem):
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump({"files": ["*.csv"], **settings}))
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read_section(path, Corpus)
