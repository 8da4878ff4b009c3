"""One rule for relative paths: those inside a file start at its folder, those of a command line at the current one."""

from __future__ import annotations

import json
from functools import reduce

import pytest
from typer.testing import CliRunner

import evaluate.cli.program
import store.cli.program
from evaluate.config import EvaluatePipeline
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError, LocationError
from store.files import tidy
from store.io.location import locate
from tests.evaluate.synthetic import write_all
from tests.store.make_fixture import FIXTURE

OPTIMIZATION = {"steps": 9, "batch_size": 2, "lr": 1}
MINE = {
    "corpora": {"pairs": {"files": ["a/../a/./*.tar", "folder/"], "allow": ["./single//x", "host.org"]}},
    "store": {"path": "../runs//store"},
    "teachers": {"alpha": {"folder": "weights/../weights/alpha"}, "beta": {"transformers": "./weights/beta"}},
    "train": {
        "pretrain": {"first": {"out": "p", "model": {"init": "./init"}, "optimization": OPTIMIZATION}},
        "project": {"out": "q", "latent_dim": 8, "hidden_dim": 8, "steps": 2},
        "students": {"one": {"recipe": "paper", "out": "r", "model": {"init": "init"}, "optimization": OPTIMIZATION}},
    },
    "evaluate": {
        "out": "results",
        "datasets": ["sets/a.yaml"],
        "data_root": "data",
        "zero_shot": {
            "set": {"corpus": "pairs", "label": "l", "group": "g", "classes": {"ct": ["a"]}, "templates": ["{label}"]}
        },
    },
}
EXPECTED = {
    "corpora.pairs.files.0": "settings/a/*.tar",
    "corpora.pairs.files.1": "settings/folder/",
    "corpora.pairs.allow.0": "settings/single/x",
    "store.path": "runs/store",
    "teachers.alpha.folder": "settings/weights/alpha",
    "teachers.beta.folder": "settings/weights/beta",
    "train.pretrain.first.out": "settings/p",
    "train.pretrain.first.model.init": "settings/init",
    "train.project.out": "settings/q",
    "train.students.one.out": "settings/r",
    "train.students.one.model.init": "settings/init",
    "evaluate.out": "settings/results",
    "evaluate.datasets.0": "settings/sets/a.yaml",
    "evaluate.data_root": "settings/data",
}


def at(loaded, key):
    def step(value, part):
        return value[int(part)] if part.isdecimal() else value[part]

    return reduce(step, key.split("."), loaded.model_dump())


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration beside the current folder, full of relative paths; the command is given its relative name."""
    (tmp_path / "settings").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "settings/pipelines.yaml").write_text(json.dumps({"mine": MINE}))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here/../settings/pipelines.yaml"


@pytest.mark.parametrize("key", EXPECTED)
def test_paths_inside_a_file_start_at_its_folder_also_by_set_and_are_tidy(config, tmp_path, key):
    loaded = read_pipeline(config, "mine", EvaluatePipeline)
    assert at(loaded, key) == f"{tmp_path}/{EXPECTED[key]}"
    if not key.startswith("teachers.beta"):
        again = read_pipeline(config, "mine", EvaluatePipeline, overrides=[f"{key}=./other/../one"])
        assert at(again, key) == f"{tmp_path}/settings/one"


def test_paths_of_a_command_line_start_at_the_current_folder(config, tmp_path):
    (tmp_path / "here/s").symlink_to(FIXTURE / "store")
    write_all(tmp_path / "here/results")

    def said(app, *arguments):
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    assert f"{tmp_path}/here/s" in said(store.cli.program.app, "info", "../here/./s", "--json")
    said(evaluate.cli.program.app, "leaderboard", "--results", "../here/results")
    assert "biomedclip" in (tmp_path / "here/results/leaderboard.md").read_text()


def test_the_environment_is_as_the_command_line(config, tmp_path, monkeypatch):
    monkeypatch.setenv("MMKD_DATA", "sets")
    done = CliRunner().invoke(evaluate.cli.program.app, ["check", "breastmnist"])
    assert "not found below sets" in str(done.exception)


def test_a_path_is_tidy_unless_a_link_stands_before_its_dots(tmp_path):
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    assert tidy(tmp_path / "runs/../runs//x/.") == tmp_path / "runs/x"
    assert tidy(tmp_path / "link/../x") == tmp_path / "link/../x"
    assert tidy(tmp_path / "link/x") == tmp_path / "link/x"
    assert str(locate(f"{tmp_path}/a/../a//b")) == f"{tmp_path}/a/b"


def test_a_file_url_has_a_whole_path(config):
    with pytest.raises(ConfigError, match=r"store\.path: a URL of the scheme file has a whole path"):
        read_pipeline(config, "mine", EvaluatePipeline, overrides=["store.path=file://store"])
    with pytest.raises(LocationError, match=r"file://store: a URL of the scheme file has a whole path"):
        locate("file://store")
