from __future__ import annotations

import json
import math
import string
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from store.config.pipeline_file import ConfigPath, Section, dump_resolved, read_pipeline
from store.errors import ConfigError
from tests.store.config.sections import Device, Rule, Table, Tars


class Teacher(Section):
    name: str
    embed_dim: int = Field(gt=0)


class Store(Section):
    path: ConfigPath
    range_rows: int = 8192


class Extract(Section):
    batch_size: int = Field(default=64, gt=0)
    dtype: Literal["float16", "float32"] = "float16"
    device: Device = Device.CPU
    pixels: bool = False
    teachers: list[Teacher] = []


class Student(Section):
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    steps: int = Field(default=100, gt=0)
    init: ConfigPath | None = None


class Train(Section):
    students: dict[str, Student] = {}
    out: ConfigPath = "runs/out"


class Pipeline(Section):
    corpora: dict[str, Annotated[Tars | Table, Field(discriminator="kind")]]
    store: Store
    extract: Extract = Extract()
    select: Literal["all"] | dict[str, Rule] = "all"
    train: Train | None = None
    note: str = ""
    evaluate: Any = None


GOOD = """\
demo:
  corpora:
    private: {kind: tars, files: [a/*.tar]}
    public:
      kind: table
      file: pairs.parquet
  store:
    path: runs/store
  extract:
    batch_size: 128
    dtype: float32
    teachers:
      - {name: plip, embed_dim: 512}
      - name: bmca
        embed_dim: 768
  select:
    plip: {modalities: [histology]}
  train:
    students:
      distilled: {lr: 3e-4}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write pipelines.yaml into the working folder."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str | bytes) -> Path:
        path = Path("pipelines.yaml")
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return path

    return write_file


def problems(path: Path, name: str = "demo", **options) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_pipeline(path, name, Pipeline, **options)
    return str(raised.value).splitlines()


def test_a_good_file_becomes_the_model(write, tmp_path):
    loaded = read_pipeline(write(GOOD), "demo", Pipeline)
    assert loaded.extract.teachers[1] == Teacher(name="bmca", embed_dim=768)
    assert loaded.train.students["distilled"].lr == 3e-4
    assert loaded.store.path == str(tmp_path / "runs/store")


def test_all_problems_are_told_at_once_in_the_order_of_the_file(write):
    path = write("""\
        demo:
          note: 3
          extract:
            batch_sise: 64
            dtype: fp16
            teachers: [{name: plip, embed_dim: 0}]
          store:
            range_rows: many
          corpora: {}
        """)
    assert problems(path) == [
        "pipelines.yaml:2: note: expected text, got 3; in quotes it is text",
        "pipelines.yaml:4: extract.batch_sise: unknown key; did you mean 'batch_size'?",
        "pipelines.yaml:5: extract.dtype: expected one of 'float16', 'float32', got 'fp16'; did you mean 'float16'?",
        "pipelines.yaml:6: extract.teachers.0.embed_dim: must be greater than 0, got 0",
        "pipelines.yaml:7: store: missing key 'path'",
        "pipelines.yaml:8: store.range_rows: expected a whole number, got 'many'",
    ]


def test_an_unknown_pipeline_is_answered_with_the_known_ones(write):
    path = write(".holder: {}\nx-holder: {}\ndemo: {}\nmmkd: {}\n")
    assert problems(path, "dmeo") == [
        "pipelines.yaml: no pipeline 'dmeo'; did you mean 'demo'?; the file has 'demo', 'mmkd'"
    ]
    assert problems(path, "x-holder") == ["pipelines.yaml: no pipeline 'x-holder'; the file has 'demo', 'mmkd'"]


@pytest.mark.parametrize("body", ["demo:\n", "demo: 3\n", "demo: [a]\n"])
def test_a_pipeline_that_is_no_mapping_is_refused(write, body):
    assert problems(write(body))[0].startswith("pipelines.yaml:1: expected a mapping, got ")


def test_a_missing_section_is_told_at_the_pipelines_line(write):
    assert problems(write("x-a: 1\n\ndemo: {corpora: {}}\n")) == ["pipelines.yaml:3: missing key 'store'"]


def test_a_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError) as raised:
            read_pipeline(path, "demo", Pipeline)
        assert str(raised.value).startswith(f"{path}: ")
        assert raised.value.hint == "name the file with --config"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("demo:\n  a: [1, 2\n  b: 3\n", ":3:4: not YAML: "),
        ("demo: !!python/object/apply:os.getcwd []\n", ":1:7: not YAML: could not determine a constructor"),
        (b"demo: \xff\n", ": not YAML: "),
        ("", ":1: expected a mapping of pipeline names to sections, got nothing"),
        ("- demo\n", ":1: expected a mapping of pipeline names to sections, got a list"),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_place(write, text, place):
    (found,) = problems(write(text))
    assert found.startswith(f"pipelines.yaml{place}")


def test_a_duplicate_key_is_refused_naming_both_lines(write):
    path = write(GOOD + "      distilled: {lr: 1.0, lr: 2.0}\n  note: a\n\ndemo: {}\nother: {a: [{b: 1, b: 2}]}\n")
    with pytest.raises(ConfigError) as raised:
        read_pipeline(path, "demo", Section)
    assert [line for line in str(raised.value).splitlines() if "duplicate" in line] == [
        "pipelines.yaml:21: train.students.distilled: duplicate key, first on line 20",
        "pipelines.yaml:21: train.students.distilled.lr: duplicate key, first on line 21",
        "pipelines.yaml:24: demo: duplicate key, first on line 1",
        "pipelines.yaml:25: a.0.b: duplicate key, first on line 25",
    ]


def test_duplicates_are_told_together_with_other_problems(write):
    path = write("demo:\n  corpora: {}\n  corpora: {}\n  store: {}\n")
    assert problems(path) == [
        "pipelines.yaml:3: corpora: duplicate key, first on line 2",
        "pipelines.yaml:4: store: missing key 'path'",
    ]


def test_merged_keys_give_way_to_own_ones_and_keep_their_lines(write):
    path = write("""\
        .student: &student {lr: 1e-2, steps: 7}
        x-bad: &bad
          setps: 7
        demo:
          corpora: {}
          store: {path: s}
          train:
            students:
              a: {<<: *student, steps: 8}
              b: *student
        mmkd:
          corpora: {}
          store: {path: s}
          train:
            students:
              a: {<<: [*student, *bad], lr: -1}
        """)
    students = read_pipeline(path, "demo", Pipeline).train.students
    assert students == {"a": Student(lr=0.01, steps=8), "b": Student(lr=0.01, steps=7)}
    assert problems(path, "mmkd") == [
        "pipelines.yaml:3: train.students.a.setps: unknown key; did you mean 'steps'?",
        "pipelines.yaml:16: train.students.a.lr: must be greater than 0, got -1",
    ]


def test_a_section_of_another_program_passes_untouched(write):
    path = write("demo:\n  corpora: {}\n  store: {path: s}\n  evaluate: {a: [1, {b: .nan}, null], path: x/y}\n")
    evaluate = read_pipeline(path, "demo", Pipeline).evaluate
    assert math.isnan(evaluate["a"][1].pop("b"))
    assert evaluate == {"a": [1, {}, None], "path": "x/y"}


def test_a_relative_path_starts_at_the_files_folder_and_a_url_stays(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "p.yaml").write_text(
        "demo:\n  store: {path: s}\n  corpora:\n    a: {kind: tars, files: [s3://b/*.tar, /data/x, ~/y, ../z, 'memory://']}\n"
        "  train: {students: {a: {init: w.pt}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    loaded = read_pipeline(Path("project/p.yaml"), "demo", Pipeline)
    assert loaded.store.path == str(folder / "s")
    assert loaded.corpora["a"].files == ["s3://b/*.tar", "/data/x", "/home/ada/y", str(tmp_path / "z"), "memory://"]
    assert loaded.train.students["a"].init == str(folder / "w.pt")
    assert loaded.train.out == str(folder / "runs/out")


def test_the_home_of_a_stranger_is_refused(write):
    path = write("demo:\n  corpora: {}\n  store: {path: ~nobody-of-that-name/x}\n")
    assert problems(path) == [
        "pipelines.yaml:3: store.path: there is no such home folder, got '~nobody-of-that-name/x'"
    ]


def test_overrides_are_applied_in_order_before_validation(write):
    overrides = [
        "train.students.distilled.lr=1e-2",
        "train.students.second={lr: 5e-1}",
        "train.students.second.steps=3",
        "extract.teachers.1.embed_dim=9",
        "select=all",
        "note=a=b",
        "extract.batch_size=2",
        "extract.batch_size=4",
    ]
    loaded = read_pipeline(write(GOOD), "demo", Pipeline, overrides=overrides)
    assert loaded.train.students == {"distilled": Student(lr=0.01), "second": Student(lr=0.5, steps=3)}
    assert [teacher.embed_dim for teacher in loaded.extract.teachers] == [512, 9]
    assert (loaded.select, loaded.note, loaded.extract.batch_size) == ("all", "a=b", 4)


def test_an_override_may_fill_a_section_that_the_file_lacks_or_leaves_empty(write):
    path = write("demo:\n  corpora: {}\n  store: {path: s}\n  train:\n")
    loaded = read_pipeline(path, "demo", Pipeline, overrides=["train.students.a.lr=2", "extract.pixels=true"])
    assert (loaded.train.students, loaded.extract.pixels) == ({"a": Student(lr=2.0)}, True)


def test_an_override_leaves_other_users_of_an_anchor_alone(write):
    path = write("""\
        demo:
          corpora: {}
          store: {path: s}
          train: {students: {a: &a {lr: 1.0}, b: *a}}
        """)
    students = read_pipeline(path, "demo", Pipeline, overrides=["train.students.a.lr=2.0"]).train.students
    assert (students["a"].lr, students["b"].lr) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("extract.batch_sise=3", "extract.batch_sise: unknown key; did you mean 'batch_size'?"),
        ("extract.batch_size=abc", "extract.batch_size: expected a whole number, got 'abc'"),
        ("extrakt.batch_size=3", "extrakt: unknown key; did you mean 'extract'?"),
        ("train.students.new={lr: -1}", "train.students.new.lr: must be greater than 0, got -1"),
        ("corpora.new.kind=tars", "corpora.new: missing key 'files'"),
        ("store={}", "store: missing key 'path'"),
        ("store=", "store: expected a mapping, got nothing"),
        ("extract.teachers.2.name=x", "expected a position below 2 in a list, got '2'"),
        ("extract.teachers.plip.name=x", "expected a position below 2 in a list, got 'plip'"),
        ("extract.dtype.name=x", "'name' needs a mapping to be in, got 'float32'"),
        ("extract.batch_size", "expected a key and a value, as in train.lr=3e-4"),
        ("=3", "expected a key and a value, as in train.lr=3e-4"),
        ("a..b=3", "expected a key and a value, as in train.lr=3e-4"),
        ("store={a: 1, a: 2}", "a: duplicate key"),
    ],
)
def test_a_problem_of_an_override_names_the_option_in_place_of_the_line(write, override, problem):
    assert problems(write(GOOD), overrides=[override]) == [f"--set {override}: {problem}"]


def test_an_override_that_is_no_yaml_is_told_after_the_problems_of_the_file(write):
    found = problems(write(GOOD + "  noet: 3\n"), overrides=["note=[1", "note=*x"])
    assert found[0] == "pipelines.yaml:21: noet: unknown key; did you mean 'note'?"
    assert found[1].startswith("--set note=[1: not YAML: ")
    assert found[2].startswith("--set note=*x: not YAML: ")


def test_a_missing_key_of_the_file_is_not_blamed_on_an_override_beside_it(write):
    path = write("demo:\n  corpora: {}\n  store:\n    range_rows: 3\n")
    assert problems(path, overrides=["store.range_rows=4"]) == ["pipelines.yaml:3: store: missing key 'path'"]


def test_the_resolved_configuration_reads_back_as_the_same(write):
    loaded = read_pipeline(write(GOOD), "demo", Pipeline)
    dumped = dump_resolved(loaded)
    assert Pipeline.model_validate_json(dumped) == loaded
    assert list(json.loads(dumped)) == sorted(json.loads(dumped))
    assert json.loads(dumped)["extract"]["device"] == "cpu"


def test_what_is_dumped_follows_the_values_and_not_their_order(write):
    first = read_pipeline(write(GOOD), "demo", Pipeline)
    lines = yaml.safe_load(GOOD)["demo"]
    reordered = write(yaml.safe_dump({"demo": dict(reversed(lines.items()))}))
    second = read_pipeline(reordered, "demo", Pipeline, overrides=["train.students.distilled.lr=3e-4"])
    third = read_pipeline(reordered, "demo", Pipeline, overrides=["train.students.distilled.lr=4e-4"])
    assert dump_resolved(first) == dump_resolved(second) != dump_resolved(third)


def test_a_set_is_dumped_alike_in_every_process():
    code = (
        "from store.config.pipeline_file import Section, dump_resolved\n"
        "class Names(Section):\n    names: frozenset[str]\n"
        "print(dump_resolved(Names(names=frozenset('abcdefgh'))))"
    )
    dumped = {
        subprocess.check_output(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[3], text=True
        )
        for seed in ("1", "2")
    }
    assert len(dumped) == 1


def test_a_section_cannot_be_changed_and_converts_nothing():
    store = Store(path="s")
    with pytest.raises(ValueError, match="frozen"):
        store.path = "t"
    with pytest.raises(ValueError, match="valid string"):
        Store(path=3)
    assert Student(lr=1).lr == 1.0


def mappings(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The key paths of all mappings whose keys the model fixes, in the realistic file."""
    if isinstance(value, list):
        return [found for number, item in enumerate(value) for found in mappings(item, (*at, number))]
    if not isinstance(value, dict):
        return []
    below = [found for key, item in value.items() for found in mappings(item, (*at, key))]
    named_by_the_user = at in {("corpora",), ("select",), ("train", "students")}
    return below if named_by_the_user else [at, *below]


TREE = yaml.safe_load(GOOD)["demo"]
TREE["train"]["students"]["distilled"] = {"lr": 3e-4}


@given(
    st.sampled_from(mappings(TREE)),
    st.text(string.ascii_lowercase, min_size=1, max_size=8).map(lambda name: f"{name}_zq"),
    st.booleans(),
    st.integers(min_value=0, max_value=5),
)
def test_any_unknown_key_anywhere_is_one_problem_on_its_line(tmp_path_factory, at, key, flow, blank_lines):
    tree = json.loads(json.dumps(TREE))
    inside = tree
    for part in at:
        inside = inside[part]
    inside[key] = {"deeper": [1]} if flow else 3
    text = "\n" * blank_lines + yaml.safe_dump({"demo": tree}, default_flow_style=False, sort_keys=False)
    path = tmp_path_factory.getbasetemp() / "any_unknown_key.yaml"
    path.write_text(text)
    line = next(
        number for number, content in enumerate(text.splitlines(), 1) if content.lstrip(" -").startswith(f"{key}:")
    )
    (found,) = problems(path)
    assert found.startswith(f"{path}:{line}: {'.'.join(map(str, (*at, key)))}: unknown key; ")
