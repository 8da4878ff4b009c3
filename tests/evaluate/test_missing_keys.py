"""A message about a missing key shows lines that make the file valid, for every section that a program needs."""

from __future__ import annotations

import copy
from functools import reduce

import pytest
import yaml
from typer.testing import CliRunner

import extract.cli.program
import train.cli.program
from evaluate.config import EvaluatePipeline
from extract.config import ExtractPipeline
from store.config.pipeline_file import read_pipeline
from store.config.yaml_tree import parse
from store.errors import ConfigError
from store.pipeline import Pipeline
from train.config import TrainPipeline

WHOLE = {
    "corpora": {
        "pairs": {"files": ["a/*.tar"]},
        "drawn": {"files": ["b.tar"], "phantom": {"rows": 9, "seed": 1}},
        "joined": {"files": ["c.csv"], "join": [{"file": "d.csv", "on": "id"}]},
    },
    "store": {"path": "s", "corpus": "pairs"},
    "image": {"window": {"center": 40, "width": 400}},
    "teachers": {"alpha": {"folder": "weights/alpha"}},
    "train": {
        "pretrain": {
            "first": {"out": "p", "model": {"init": "x"}, "optimization": {"steps": 9, "batch_size": 2, "lr": 1}}
        },
        "project": {"out": "q", "latent_dim": 8, "hidden_dim": 8, "steps": 2},
        "students": {
            "one": {
                "recipe": "paper",
                "out": "r",
                "model": {"init": "x"},
                "optimization": {"steps": 9, "batch_size": 2, "lr": 1},
            }
        },
    },
    "evaluate": {
        "out": "e",
        "zero_shot": {
            "set": {
                "corpus": "pairs",
                "label": "l",
                "group": "g",
                "classes": {"ct": ["a", "b"]},
                "templates": ["{label}"],
            }
        },
        "retrieval": {"pairs": {"corpus": "pairs"}},
    },
}
AT = [
    "store",
    "store.path",
    "image.window.center",
    "image.window.width",
    "teachers",
    "teachers.alpha.folder",
    "corpora.pairs.files",
    "corpora.drawn.phantom.rows",
    "corpora.drawn.phantom.seed",
    "train",
    "evaluate",
    "evaluate.out",
    "evaluate.retrieval.pairs.corpus",
    *(f"evaluate.zero_shot.set.{key}" for key in ("corpus", "label", "group", "classes", "templates")),
    *(f"train.project.{key}" for key in ("out", "latent_dim", "hidden_dim", "steps")),
    *(f"train.pretrain.first.{key}" for key in ("out", "model", "optimization", "optimization.lr")),
    *(f"train.students.one.{key}" for key in ("recipe", "out", "model", "optimization", "optimization.steps")),
]


def merged(there, more):
    if not isinstance(there, dict) or not isinstance(more, dict):
        return more
    return {**there, **{key: merged(there.get(key), value) for key, value in more.items()}}


def lines_in(hint):
    """The lines of YAML that a hint shows, as a user would copy them."""
    lines = hint.splitlines()
    assert lines[0].endswith("these lines would do; change what they say:")
    return "\n".join(line.removeprefix("  ") for line in lines[1:] if line.startswith("  "))


def written(path, content):
    path.write_text(yaml.safe_dump({"mine": content}))
    return path


@pytest.mark.parametrize("key", AT)
def test_the_lines_for_a_missing_key_are_few_and_make_the_file_valid(tmp_path, key):
    content = copy.deepcopy(WHOLE)
    *above, last = key.split(".")
    del reduce(dict.__getitem__, above, content)[last]
    path = written(tmp_path / "pipelines.yaml", content)
    with pytest.raises(ConfigError, match=f"missing key '{last}'") as caught:
        read_pipeline(path, "mine", EvaluatePipeline)
    lines = lines_in(caught.value.hint)
    assert len(lines.splitlines()) <= 12
    pasted = parse(lines).data
    assert list(pasted) == ["mine"]
    assert reduce(dict.__getitem__, key.split("."), pasted["mine"]) is not None
    read_pipeline(written(path, merged(content, pasted["mine"])), "mine", EvaluatePipeline)


@pytest.mark.parametrize("model", [Pipeline, ExtractPipeline, TrainPipeline, EvaluatePipeline])
def test_one_message_shows_all_lines_that_an_empty_pipeline_lacks(tmp_path, model):
    path = written(tmp_path / "pipelines.yaml", {})
    with pytest.raises(ConfigError) as caught:
        read_pipeline(path, "mine", model)
    content = parse(lines_in(caught.value.hint)).data["mine"]
    assert set(content) == {name for name, field in model.model_fields.items() if field.is_required()}
    read_pipeline(written(path, content), "mine", model)


@pytest.mark.parametrize(
    ("app", "command", "without", "message", "adds"),
    [
        (train.cli.program.app, "pretrain", "train.pretrain", "has nothing in train.pretrain", ["pretrain"]),
        (train.cli.program.app, "distill", "train.students", "has nothing in train.students", ["students"]),
        (train.cli.program.app, "project", "train.project", "pipeline mine has no train.project", ["project"]),
        (extract.cli.program.app, "index", "store.corpus", "store.corpus: missing", ["corpus"]),
        (extract.cli.program.app, "index", "corpora", "the pipeline has no corpus 'pairs'", ["files"]),
        (extract.cli.program.app, "append", "corpora.pairs", "the pipeline has no corpus 'pairs'", ["files"]),
        (extract.cli.program.app, "pixels", "pixels", "does not say how the store keeps images", ["pixels"]),
    ],
)
def test_a_section_that_a_command_needs_is_shown_and_pasted_lines_let_it_go_on(
    tmp_path, app, command, without, message, adds
):
    content = copy.deepcopy(WHOLE)
    *above, last = without.split(".")
    reduce(dict.__getitem__, above, content).pop(last, None)
    path = written(tmp_path / "pipelines.yaml", content)

    def said():
        return CliRunner().invoke(app, [command, "--pipeline", "mine", "--config", str(path)]).exception

    first = said()
    assert message in str(first)
    lines = lines_in(first.hint)
    assert all(f"{key}:" in lines for key in adds)
    written(path, merged(content, parse(lines).data["mine"]))
    assert message not in str(said())


def test_no_lines_are_shown_for_what_is_missing_in_a_list(tmp_path):
    content = copy.deepcopy(WHOLE)
    del content["corpora"]["joined"]["join"][0]["on"]
    with pytest.raises(ConfigError, match=r"corpora\.joined\.join\.0: missing key 'on'") as caught:
        read_pipeline(written(tmp_path / "pipelines.yaml", content), "mine", EvaluatePipeline)
    assert caught.value.hint is None
