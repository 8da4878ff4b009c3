"""docs/parity.md: every test that it names exists, and every setting takes the value that it gives."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from store.pipeline import StoreSection
from train.config import Optimization, StudentRun
from train.recipe_sections import PaperRecipe

ROOT = Path(__file__).parents[2]
LINES = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in (ROOT / "docs/parity.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| what |")
]
SECTIONS = {"optimization": Optimization, "paper": PaperRecipe, "store": StoreSection, "": StudentRun}


def proofs_of(line):
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line[-1])


def settings_of(line):
    """Return section, key and value (or None) of each setting that a line's last column names."""
    return re.findall(r"`(?:(\w+)\.)?(\w+)(?:: ([\w.]+))?`", line[-1])


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_a_line_is_proved_or_says_how_it_can_be_had(line):
    assert len(line) == 5, line
    proofs, settings = proofs_of(line), settings_of(line)
    assert line[3] in ("equal", "decision")
    assert proofs if line[3] == "equal" else settings or "no setting" in line[4]
    for file, name in proofs:
        defined = {part.name for part in ast.parse((ROOT / file).read_text()).body if isinstance(part, ast.FunctionDef)}
        assert name in defined, f"{file} has no {name}"
    for section, key, value in settings:
        field = SECTIONS[section].model_fields.get(key)
        assert field is not None, f"{section} has no {key}"
        if value:
            TypeAdapter(field.annotation).validate_python(yaml.safe_load(value), strict=True)


def test_the_ledger_speaks_of_everything_that_it_must():
    told = " ".join(line[0] for line in LINES)
    words = {"order", "crop", "conversion", "tokens", "dtype", "logits", "AdamW", "decays", "rate", "scale", "gather"}
    assert words <= set(told.split())
    assert len(LINES) == len({line[0] for line in LINES})
