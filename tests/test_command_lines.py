"""Every command of the four programs shows an example that it understands, and shells complete commands and options."""

from __future__ import annotations

import importlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
APPS = {name: importlib.import_module(f"{name}.cli.program").app for name in ("store", "extract", "train", "evaluate")}
COMMANDS = {(program, name): each for program, app in APPS.items() for name, each in get_command(app).commands.items()}
PREFIX = "Example: python -m "


def understood(program, words):
    """Return the parameters of a command line as the program reads it; raise what it says of a wrong one."""
    command = COMMANDS[program, words[0]]
    return command.make_context(words[0], list(words[1:])).params


@pytest.mark.parametrize(("program", "name"), COMMANDS, ids=" ".join)
def test_the_help_of_a_command_ends_with_an_example_that_it_understands(program, name):
    example = COMMANDS[program, name].epilog or ""
    assert example.startswith(f"{PREFIX}{program} {name}")
    words = shlex.split(example.removeprefix(PREFIX).partition(" > ")[0])[1:]
    params = understood(program, words)
    pipelines = yaml.safe_load((ROOT / "pipelines.yaml").read_text())
    assert (params.get("pipeline") or "demo") in pipelines
    shown = CliRunner().invoke(APPS[program], [name, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert shown.output.split()[-len(example.split()) :] == example.split()


SEEDED = [key for key, command in COMMANDS.items() if "seed" in {option.name for option in command.params}]


@pytest.mark.parametrize(("program", "name"), SEEDED, ids=" ".join)
def test_a_seed_is_a_number_of_64_bits(program, name):
    words = shlex.split(COMMANDS[program, name].epilog.removeprefix(PREFIX).partition(" > ")[0])[1:]
    assert understood(program, [*words, "--seed", str(2**64 - 1)])["seed"] == 2**64 - 1
    for seed in (-1, 2**64):
        with pytest.raises(Exception, match=r"not in the range|(greater|less) than or equal to (0|1844674407)"):
            understood(program, [*words, "--seed", str(seed)])


def test_an_example_with_an_option_that_is_not_there_would_be_found():
    with pytest.raises(Exception, match="No such option"):
        understood("store", ["info", "runs/demo/store", "--jsn"])


@pytest.mark.end_to_end
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("-m extract do", ["doctor"]),
        ("-m store info --js", ["--json"]),
        ("-m train export --res", ["--results"]),
        ("-m store schema p", ["pipelines"]),
        ("-m pytest --js", []),
    ],
)
def test_bash_completes_commands_options_and_values(typed, expected):
    words = typed.split()
    script = (
        f"source docs/completion.bash; COMP_WORDS=(python {typed}); COMP_CWORD={len(words)}; "
        f'_mmkd_completion {shlex.quote(sys.executable)}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected
