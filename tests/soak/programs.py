"""The programs of a soak, started as a user does."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import psutil

from tests.extract.cluster_cases import REPOSITORY, actors_below

PATIENCE_S = 3600
"""A program that takes so long hangs; beside other work a training of one minute took ten."""


class Program:
    """``python -m ...`` as a process whose messages go to a file.

    Args:
        name: of the file, to which programs of the same name append.
    """

    def __init__(self, world, name, *arguments):
        self.name = name
        self.log = world.out / "logs" / f"{name}.log"
        self.log.parent.mkdir(exist_ok=True)
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        self._file = self.log.open("a")
        command = [sys.executable, "-m", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=world.environment(), stdout=self._file, stderr=self._file
        )

    def said(self):
        """Return what it has written so far."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    def ended(self):
        return self.process.poll() is not None

    def code(self):
        """Wait for its end and return the exit code."""
        code = self.process.wait(PATIENCE_S)
        self._file.close()
        return code

    def workers(self):
        """Return the processes of Ray actors that it started, the oldest first."""
        return actors_below(self.process.pid)

    def interrupt(self):
        """Ask it to end, as a scheduler does, and return the exit code."""
        if not self.ended():
            self.process.send_signal(signal.SIGTERM)
        return self.code()

    def kill(self):
        """Kill it, wait until its workers have ended by themselves, and kill what else it leaves.

        Returns:
            Names of the processes that were left.
        """
        below = []
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
        workers = self.workers()
        self.process.kill()
        self.code()
        # Until then they may commit what they have in work.
        psutil.wait_procs(workers, timeout=60)
        left = []
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.append(process.name())
                process.kill()
        return left
