"""``python -m store verify``: words, JSON and exit code, and that no command of checks loads a learning library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from store.format.arrays import shard_key
from tests.store import damage

ROOT = Path(__file__).parents[3]
IMAGE_1 = shard_key("alpha", "image", 1)


def run(*arguments):
    command = [sys.executable, "-m", "store", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.end_to_end
def test_the_command_says_what_is_damaged_and_ends_with_one(full):
    sound = run("verify", full.path, "--deep")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.splitlines()[-1] == (
        "valid; incomplete: 2 of 6 units are to be extracted (python -m extract run)"
    )
    damage.flip(full.location, IMAGE_1)
    assert run("verify", full.path).returncode == 0
    done = run("verify", full.path, "--deep")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"damage: alpha, range 1, rows 4 to 7, {IMAGE_1}: the bytes are not those that were committed" in done.stdout
    assert f"next: python -m store repair {full.path} --deep && python -m extract run --pipeline NAME" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("damaged: 1 problems, 1 units")


LOADED = """
import runpy, sys
try:
    runpy.run_module("store", run_name="__main__")
except SystemExit:
    pass
print(*sorted({"torch", "ray", "torchvision", "open_clip", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("command", ["verify --deep", "repair --dry-run", "quarantine", "diff", "export"])
def test_no_command_loads_a_learning_library(full, tmp_path, command):
    name, *options = command.split()
    more = {"diff": [full.path], "export": ["--out", tmp_path / "out", "--format", "parquet"]}.get(name, [])
    arguments = [sys.executable, "-c", LOADED, name, full.path, *more, *options, "--json"]
    done = subprocess.run([*map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)
    assert done.stderr.splitlines()[-1] == ""


@pytest.mark.end_to_end
def test_the_command_gives_the_documented_json(full):
    full.location.delete([IMAGE_1])
    done = run("verify", full.path, "--teacher", "alpha", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    (problem,) = report.pop("problems")
    assert report == {
        "store": str(full.path),
        "deep": False,
        "valid": False,
        "complete": False,
        "rows": 10,
        "ranges": 3,
        "teachers": {"alpha": {"verified": 2, "outgrown": 0, "missing": 0, "damaged": 1}},
    }
    assert problem == {
        "severity": "damage",
        "kind": "object-missing",
        "teacher": "alpha",
        "range": 1,
        "rows": [4, 8],
        "key": IMAGE_1,
        "message": problem["message"],
        "next": problem["next"],
    }
