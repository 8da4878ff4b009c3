"""The JSON schemas accept what the programs accept, and refuse a misspelt key and a wrong type as they do."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from evaluate.config import EvaluatePipeline
from evaluate.datasets.entry import read_entry
from evaluate.datasets.making.template import template
from evaluate.datasets.registry import SHIPPED
from store.cli.commands_schema import Kind, schema_of
from store.config.pipeline_file import read_pipeline
from store.config.yaml_tree import parse
from store.errors import ConfigError

ROOT = Path(__file__).parents[3]
FORMATS = ("table", "vqa_json", "survival_table")
PIPELINES = parse((ROOT / "pipelines.yaml").read_bytes()).data


def problems(kind, content):
    return [
        f"{list(one.absolute_path)}: {one.message}"
        for one in Draft202012Validator(schema_of(kind)).iter_errors(content)
    ]


@pytest.mark.parametrize("kind", Kind)
def test_the_schema_that_files_name_is_what_the_command_prints(kind):
    Draft202012Validator.check_schema(schema_of(kind))
    path = f"docs/schema/{kind}.json"
    current = json.loads((ROOT / path).read_text()) == schema_of(kind)
    assert current, f"python -m store schema {kind} > {path}"


def test_the_shipped_pipelines_are_valid_and_name_the_schema():
    assert problems(Kind.PIPELINES, PIPELINES) == []
    assert (
        (ROOT / "pipelines.yaml").read_text().startswith("# yaml-language-server: $schema=docs/schema/pipelines.json")
    )


def test_every_dataset_is_valid_and_names_the_schema():
    paths = sorted(SHIPPED.glob("*.yaml"))
    assert len(paths) > 100
    for path in paths:
        text = path.read_text()
        assert problems(Kind.DATASETS, parse(text.encode()).data) == [], path
        named = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        assert (path.parent / named).resolve() == ROOT / "docs/schema/datasets.json"


@pytest.mark.parametrize("format_", FORMATS)
def test_a_new_dataset_is_valid_and_names_the_schema_from_where_it_lies(format_):
    text = template("new", format_=format_, path=str(ROOT / "datasets/new.yaml"))
    assert problems(Kind.DATASETS, parse(text.encode()).data) == []
    assert text.splitlines()[0] == "# yaml-language-server: $schema=../docs/schema/datasets.json"


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("extract", "batchsize"), 8),
        (("extract", "batch_size"), "8"),
        (("store", "dtype"), "float61"),
        (("evaluate", "thread"), 1),
        (("train", "students", "distilled", "optimization", "steps"), 0),
        (("teachers", "tiny_ct", "quick_gelu"), "yes"),
        (("teachers", "tiny_ct"), {"embed_dim": 3}),
        (("pictures",), {}),
    ],
)
def test_what_a_program_refuses_of_a_pipeline_the_schema_refuses(tmp_path, at, value):
    content = {"demo": deepcopy(PIPELINES["demo"])}
    place = content["demo"]
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = value
    assert len(problems(Kind.PIPELINES, content)) == 1
    path = tmp_path / "pipelines.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError):
        read_pipeline(path, "demo", EvaluatePipeline)


@pytest.mark.parametrize(("key", "value"), [("licenze", "MIT"), ("licence", 3), ("modality", "smell")])
def test_what_a_program_refuses_of_a_dataset_the_schema_refuses(tmp_path, key, value):
    content = parse((SHIPPED / "breastmnist.yaml").read_bytes()).data | {key: value}
    assert len(problems(Kind.DATASETS, content)) == 1
    path = tmp_path / "breastmnist.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError):
        read_entry(path)


def test_anchors_hold_anything_and_a_pipeline_may_lack_the_sections_of_other_programs():
    assert problems(Kind.PIPELINES, {".any": {"batchsize": 1}, "x-any": 3, "mine": {"store": {"path": "store"}}}) == []
    assert len(problems(Kind.PIPELINES, {"mine": {}})) == 1
