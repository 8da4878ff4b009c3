from __future__ import annotations

import json
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from store.config.pipeline_file import ConfigPath, Section
from store.config.problems import explain, show, suggest
from store.config.yaml_tree import parse
from tests.store.config.sections import Device, Rule, Table, Tars


class Teacher(Section):
    name: str
    embed_dim: int = Field(gt=0)
    weight: float = Field(default=1.0, ge=0, le=1)


class Extract(Section):
    batch_size: int = Field(default=64, gt=0, multiple_of=2)
    dtype: Literal["float16", "float32"] = "float16"
    device: Device = Device.CPU
    workers: int | Literal["auto"] = "auto"
    pixels: bool = False
    teachers: list[Teacher] = []


class Student(Section):
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    steps: int = Field(default=100, gt=0)
    warmup: int = 0
    init: ConfigPath | None = None

    @model_validator(mode="after")
    def _warmup_ends(self) -> Student:
        if self.warmup > self.steps:
            raise ValueError(f"warmup must end within {self.steps} steps, got {self.warmup}")
        return self


class Ranks(Section):
    by_name: dict[Literal["first", "second"], int] = {}
    by_number: dict[int, Teacher] = {}
    optional: Annotated[Teacher | None, Field()] = None
    either: Teacher | Student | list[Teacher] | None = None
    limited: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    name: str = Field(default="a", pattern="^[a-z]+$")


class Pipeline(Section):
    corpora: dict[str, Annotated[Tars | Table, Field(discriminator="kind")]] = {}
    extract: Extract = Extract()
    select: Literal["all"] | dict[str, Rule] = "all"
    student: Student | None = None
    ranks: Ranks | None = None


def explained(text: str) -> list[str]:
    """The problems of a pipeline given as YAML."""
    with pytest.raises(ValidationError) as raised:
        Pipeline.model_validate_json(json.dumps(parse(text).data))
    return [f"{'.'.join(at)}: {problem}" for at, problem in explain(raised.value, Pipeline)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("batch_size: '64'", "batch_size: expected a whole number, got '64'"),
        ("batch_size: 1e3", "batch_size: expected a whole number, got 1000.0; did you mean 1000?"),
        ("batch_size: true", "batch_size: expected a whole number, got true"),
        ("batch_size:", "batch_size: expected a whole number, got nothing"),
        ("batch_size: -2", "batch_size: must be greater than 0, got -2"),
        ("batch_size: 3", "batch_size: must be a multiple of 2, got 3"),
        ("pixels: no", "pixels: expected true or false, got 'no'; did you mean false?"),
        ("pixels: 1", "pixels: expected true or false, got 1"),
        ("device: CUDA", "device: expected one of 'cpu', 'cuda', got 'CUDA'; did you mean 'cuda'?"),
        ("dtype: [float16]", "dtype: expected one of 'float16', 'float32', got a list"),
        ("workers: atuo", "workers: expected a whole number or 'auto', got 'atuo'; did you mean 'auto'?"),
        ("teachers: plip", "teachers: expected a list, got 'plip'"),
        ("teachers: [plip]", "teachers.0: expected a mapping, got 'plip'"),
        ("teachers: [{name: a, embed_dim: 1, weight: 2}]", "teachers.0.weight: must be at most 1, got 2"),
        ("teachers: [{embed_dim: 1}]", "teachers.0: missing key 'name'"),
        (
            "zzz: 1",
            "zzz: unknown key; expected one of 'batch_size', 'dtype', 'device', 'workers', 'pixels', 'teachers'",
        ),
        (f"dtype: {'x' * 80}", f"dtype: expected one of 'float16', 'float32', got '{'x' * 56}..."),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(line, problem):
    assert explained(f"extract:\n  {line}") == [f"extract.{problem}"]


@pytest.mark.parametrize(
    ("corpus", "found"),
    [
        ("{kind: tars, flies: [a], files: [b]}", "corpora.x.flies: unknown key; did you mean 'files'?"),
        ("{kind: tars}", "corpora.x: missing key 'files'"),
        (
            "{kind: tras, files: [a]}",
            "corpora.x.kind: expected one of 'tars', 'table', got 'tras'; did you mean 'tars'?",
        ),
        ("{files: [a]}", "corpora.x: missing key 'kind'"),
        ("a.tar", "corpora.x: expected a mapping, got 'a.tar'"),
        ("{kind: tars, files: []}", "corpora.x.files: expected at least 1 item, got 0"),
        ("{kind: tars, files: ['']}", "corpora.x.files.0: expected a path or URL, got ''"),
        ("{kind: table, file: a, columns: [x]}", "corpora.x.columns: missing item 1"),
        ("{kind: table, file: a, columns: [x, y, z]}", "corpora.x.columns: expected at most 2 items, got 3"),
        ("{kind: table, file: a, columns: [x, 1]}", "corpora.x.columns.1: expected text, got 1; in quotes it is text"),
    ],
)
def test_a_union_with_a_kind_is_judged_by_that_kind_alone(corpus, found):
    assert explained(f"corpora: {{x: {corpus}}}") == [found]


@pytest.mark.parametrize(
    ("select", "found"),
    [
        ("al", "select: expected 'all' or a mapping, got 'al'; did you mean 'all'?"),
        ("3", "select: expected 'all' or a mapping, got 3"),
        ("{plip: {quantil: 0.5}}", "select.plip.quantil: unknown key; did you mean 'quantile'?"),
        ("{plip: {quantile: 1.5}}", "select.plip.quantile: must be at most 1, got 1.5"),
        ("{plip: {modalities: [1]}}", "select.plip.modalities.0: expected text, got 1; in quotes it is text"),
        ("{all: {dict: 1}}", "select.all.dict: unknown key; expected one of 'modalities', 'quantile'"),
    ],
)
def test_a_plain_union_gives_one_message(select, found):
    assert explained(f"select: {select}") == [found]


@pytest.mark.parametrize(
    ("ranks", "found"),
    [
        ("by_name: {frist: 1}", "by_name.frist: expected one of 'first', 'second', got 'frist'; did you mean 'first'?"),
        ("by_number: {one: {name: a, embed_dim: 1}}", "by_number.one: expected a whole number, got 'one'"),
        (
            "by_number: {1: {name: a, embed_dim: 1, wieght: 1}}",
            "by_number.1.wieght: unknown key; did you mean 'weight'?",
        ),
        ("optional: {name: a, embedim: 1, embed_dim: 2}", "optional.embedim: unknown key; did you mean 'embed_dim'?"),
        ("either: {name: plip, embed_dim: 0}", "either.embed_dim: must be greater than 0, got 0"),
        ("either: {lr: 0.1, stesp: 1}", "either.stesp: unknown key; did you mean 'steps'?"),
        ("either: [{name: a}]", "either.0: missing key 'embed_dim'"),
        ("either: 3", "either: expected a mapping or a list, got 3"),
        ("limited: -1", "limited: must be greater than 0, got -1"),
        ("name: A1", "name: string should match pattern '^[a-z]+$', got 'A1'"),
    ],
)
def test_keys_and_members_of_every_kind_of_container_are_followed(ranks, found):
    assert explained(f"ranks:\n  {ranks}") == [f"ranks.{found}"]


def test_a_models_own_check_is_told_in_its_own_words():
    assert explained("student: {steps: 3, warmup: 9}") == ["student: warmup must end within 3 steps, got 9"]


def test_a_number_must_be_finite_where_the_model_says_so():
    assert explained("student: {lr: .inf}") == ["student.lr: must be finite, got inf"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "nothing"), (True, "true"), ({}, "a mapping"), ([], "a list"), ("it's", '"it\'s"'), (1e-4, "0.0001")],
)
def test_values_are_quoted_in_the_words_of_yaml(value, shown):
    assert show(value) == shown


def test_a_name_is_suggested_whatever_its_case_if_it_is_like_enough():
    assert suggest("BioMedClip", ["plip", "biomedclip"]) == "; did you mean 'biomedclip'?"
    assert suggest("xyz", ["plip", "biomedclip"]) == ""
