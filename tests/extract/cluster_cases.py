"""Programs and stores for the tests of extraction on Ray: started as a user does, watched by their receipts."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]

PATIENCE_S = 420
"""For a program, on a machine that does much else."""


def environment(**extra):
    """Return the environment of a program of ours, with one thread as the workers have."""
    quiet = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    return kept | quiet | extra


class Run:
    """``python -m extract run`` over a pipeline, as a process of its own.

    Args:
        config: the pipelines.yaml.
        arguments: further ones.
        extra: environment variables.
    """

    def __init__(self, config, *arguments, **extra):
        self.store = Path(config).parent / "store"
        command = [sys.executable, "-m", "extract", "run", "--pipeline", "tiny", "--config", str(config), *arguments]
        # To a file: a pipe would be held open by what Ray leaves behind for a moment.
        self._log = (Path(config).parent / f"run-{time.monotonic_ns()}.log").open("w+")
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(**extra), stdout=subprocess.DEVNULL, stderr=self._log
        )

    def until(self, happened):
        """Wait until something is so; fail if the program ends before, or it never is."""
        deadline = time.monotonic() + PATIENCE_S
        while not (result := happened()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)
        return result

    def until_receipts(self, count):
        """Wait until so many units are committed."""
        return self.until(lambda: len(receipts(self.store)) >= count)

    def workers(self):
        """Return the processes of the actors of a cluster that it started itself, the oldest first."""
        return actors_below(self.process.pid)

    def kill(self):
        """Kill the driver and wait until its actors have ended: until then they may commit what they have in work."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive

    def end(self):
        """Wait for its end and return (exit code, stderr)."""
        code = self.process.wait(PATIENCE_S)
        return code, self.said()

    def said(self):
        """Return what it has written to stderr so far."""
        return Path(self._log.name).read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(psutil.NoSuchProcess):
            everyone = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            for process in everyone:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(30)
        self._log.close()


def actors_below(pid):
    """Return the processes of Ray actors that descend from a process, the oldest first."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "RangeActor" in " ".join(process.cmdline()) or "RangeActor" in process.name():
                    found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def receipts(store):
    """Return every receipt of a store: bytes by path."""
    return {path: path.read_bytes() for path in Path(store).glob("receipts/*/r*.json")}


def progress(store):
    """Return what the latest run of a store said last, None if there is none yet."""
    said = sorted(Path(store).glob("runs/*/progress.json"))
    return json.loads(said[-1].read_text()) if said else None
