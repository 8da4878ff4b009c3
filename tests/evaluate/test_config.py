"""Faults of a dataset's prompts are reported when the file is read."""

from __future__ import annotations

import pytest
import yaml

from evaluate.config import EvaluatePipeline
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """Read a pipeline file with one dataset of two templates, the second of which is given."""

    def read_file(template):
        dataset = {"corpus": "c", "label": "l", "group": "g", "classes": {"ct": ["cyst"]}}
        pipeline = {
            "corpora": {"c": {"files": ["*.tar"]}},
            "store": {"path": "store", "corpus": "c"},
            "teachers": {"a": {"folder": "a", "embed_dim": 4}},
            "train": {},
            "evaluate": {"out": "out", "zero_shot": {"test": {**dataset, "templates": ["{label}", template]}}},
        }
        path = tmp_path / "pipelines.yaml"
        path.write_text(yaml.safe_dump({"mine": pipeline}, sort_keys=False))
        return read_pipeline(path, "mine", EvaluatePipeline)

    return read_file


@pytest.mark.parametrize("template", ["{group} with {label}", "{label:>9}", "{{not a field}} {label}"])
def test_templates_of_group_and_label_are_read(read, template):
    assert read(template).evaluate.zero_shot["test"].templates == ["{label}", template]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{grup} with {label}", "unknown field 'grup' in braces; did you mean 'group'?"),
        ("{} with {label}", "unknown field '' in braces"),
        ("{label.colour}", "unknown field 'label.colour' in braces"),
        ("a {label", "not a template"),
        ("{label!x}", "not a template"),
        ("{label:>2000000000}", "not a template: expected padding such as >12 after a colon, got '>2000000000'"),
        ("{label.__class__}", "unknown field 'label.__class__' in braces"),
        ("a {group}", "lacks {label}: every class would have the same prompt"),
    ],
)
def test_a_template_that_cannot_be_filled_is_named_with_its_line(read, tmp_path, template, message):
    with pytest.raises(ConfigError) as caught:
        read(template)
    lines = (tmp_path / "pipelines.yaml").read_text().splitlines()
    line = 1 + max(number for number, text in enumerate(lines) if text.lstrip().startswith("- "))
    place = f"{tmp_path / 'pipelines.yaml'}:{line}: evaluate.zero_shot.test.templates.1: "
    assert str(caught.value).startswith(place + message)
