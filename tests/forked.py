"""Runs our programs in processes of their own that are forked from one with the libraries loaded.

Starting a Python that imports torch, open_clip and transformers takes ten seconds, which a test of two dozen kills
cannot afford.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["extract.cli.program", "extract.run.run", "extract.teachers.open_clip_model"])


def run_forked(program: str, *arguments: object, log: Path, **environment: str) -> int:
    """Run a program to its end, and return its exit code, which is negative if a signal ended it.

    Args:
        program: one of the top level folders.
        log: is given what the program prints.
    """
    process = _context.Process(target=_run, args=(program, [*map(str, arguments)], log, environment))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(program: str, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", **environment}
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [program, *arguments]
    importlib.import_module(f"{program}.cli.program").app()
