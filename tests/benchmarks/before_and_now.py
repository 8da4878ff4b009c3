"""The parts of benchmarks that run an earlier commit and the present code in turns."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def parser_of(text: str) -> argparse.ArgumentParser:
    """Return the options of such a benchmark."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--before", metavar="COMMIT", help="run that commit, too, in turns with the present code")
    return parser


def codes_of(options: argparse.Namespace, work: Path) -> dict[str, Path]:
    """Return the folders of the code by name, the earlier commit's below ``work``."""
    codes = {"before": _checked_out(options.before, work / "before")} if options.before else {}
    return codes | {"now": ROOT}


def _checked_out(commit: str, folder: Path) -> Path:
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{commit} cannot be read: {done.stderr.decode().strip()}; fetch the whole history, or name another")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder
