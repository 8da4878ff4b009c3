"""docs/training.md: its options and keys are those of the programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.main import get_command

from train.cli.program import app
from train.config import Optimization
from train.trainer.validation import RECALL_AT

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "training.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_every_command_and_option_is_one_of_the_trainers():
    commands = get_command(app).commands
    for name in ("pretrain", "project", "distill"):
        assert re.search(rf"^\| `{name} ", TEXT, re.MULTILINE)
    for line in re.findall(r"^\$ .*-m train (.*)", TEXT, re.MULTILINE):
        words = line.split()
        options = {option for parameter in commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    for option in ("--overwrite", "--resume", "--corpus-root"):
        assert option in {option for parameter in commands["distill"].params for option in parameter.opts}


def test_every_setting_that_is_named_exists():
    table = TEXT[TEXT.index("| setting |") : TEXT.index("## Metrics")]
    named = set(re.findall(r"^\| `(\w+):", table, re.MULTILINE))
    assert named
    assert named <= set(Optimization.model_fields)


def test_the_lines_of_metrics_have_the_keys_that_are_written():
    (block,) = blocks("json")
    train, validation = (json.loads(line) for line in block.splitlines())
    assert set(train) == {"step", "loss", "lr", "logit_scale", "text_columns", "step_flops", "seconds"}
    ways = {f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in RECALL_AT}
    assert set(validation) == {"step", *ways}
