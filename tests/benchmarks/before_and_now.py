"""The parts of benchmarks that run an earlier commit and the present code in turns."""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def parser_of(text: str, before: str) -> argparse.ArgumentParser:
    """Return the options of such a benchmark; ``before`` is the commit it compares with by default."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--before", default=before, help="commit to compare with")
    parser.add_argument("--only-now", action="store_true", help="leave the earlier commit out")
    return parser


def codes_of(options: argparse.Namespace, work: Path) -> dict[str, Path]:
    """Return the folders of the code by name, the earlier commit's below ``work``."""
    codes = {} if options.only_now else {"before": _checked_out(options.before, work / "before")}
    return codes | {"now": ROOT}


def _checked_out(commit: str, folder: Path) -> Path:
    done = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{commit} cannot be read: {done.stderr.decode().strip()}; fetch the whole history, or give --before")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def write_figures(options: argparse.Namespace, name: str, figures: Mapping[str, Any], *, load: float) -> None:
    """Write figures beside what they were measured on, and print the latter; ``load`` is that of the beginning."""
    about = {
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_before_and_after": [round(one, 1) for one in (load, os.getloadavg()[0])],
        "before_commit": None if options.only_now else options.before,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / name).write_text(json.dumps({**about, **figures}, indent=1) + "\n")
    print(f"{about['cores']} cores, load {about['load_before_and_after']}")


def print_figures(keys: str, shown: Mapping[str, str], rows: Iterable[tuple[str, Mapping[str, float]]]) -> None:
    """Print a table in Markdown.

    Args:
        keys: headings of the first columns, with bars between them.
        shown: figures and their headings.
        rows: the cells of the first columns, with bars between them, and figures.
    """
    print(f"\n| {keys} | {' | '.join(shown.values())} |\n|{'---|' * (keys.count('|') + 1 + len(shown))}")
    for cells, values in rows:
        print(f"| {cells} | " + " | ".join(f"{values[key]:,.2f}" for key in shown) + " |")
