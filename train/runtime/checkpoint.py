"""Checkpoints: one file with the whole state of a run, from which it resumes exactly.

They are read with ``weights_only=True``, which runs no code from the file.
"""

from __future__ import annotations

import functools
import logging
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from store.errors import MMKDError
from store.files import sweep_temporary, write_atomic

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of a checkpoint's content; other versions are refused."""

_NAME = re.compile(r"step-(\d+)\.pt")

State = dict[str, Any]
"""Content of a checkpoint: ``step`` (the next one), ``model``, ``optimizer``, ``scaler``, ``objective``, ``ema``
(or None), ``data`` (the feed's state), ``seed`` and ``run`` (the run's identity, as JSON).

It holds no state of random generators: randomness in a step is a function of seed, step and rank.
"""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Args:
        folder: is made with the first checkpoint.
        kept: number of checkpoints that stay.
    """

    def __init__(self, folder: Path, *, kept: int) -> None:
        self._folder, self._kept = folder, kept

    def save(self, state: State) -> Path:
        """Write a checkpoint atomically, then delete old ones; returns its file."""
        path = self._folder / f"step-{state['step']:09d}.pt"
        # Straight into the file: a checkpoint may be as large as what is left of the host's memory.
        try:
            write_atomic(path, functools.partial(torch.save, {"format": FORMAT, **state}))
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's own words for what the disk says
                raise error.__context__ from None
            raise
        for old in self._files()[: -self._kept]:
            old.unlink()
        sweep_temporary(self._folder)
        return path

    def latest(self) -> State | None:
        """Return the latest checkpoint that can be read, on the CPU; None where there is none.

        Raises:
            MMKDError: there are some, and none can be read.
        """
        files = self._files()
        for path in reversed(files):
            try:
                state = _read(path)
            except (OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
                if isinstance(error, OSError) and error.errno:
                    # A disk that fails says nothing of the file; an older one would be taken, and this one deleted.
                    raise MMKDError(f"{path}: {error.strerror}", hint="mend the disk; nothing was changed") from error
                log.warning("%s cannot be read (%s); an older one is taken", path, str(error).splitlines()[0])
                continue
            if state.get("format") != FORMAT:
                raise MMKDError(
                    f"{path}: a checkpoint of format {state.get('format')}, this program reads {FORMAT}",
                    hint="go on with the version that wrote it, or begin anew with --resume never",
                )
            return state
        if files:
            raise MMKDError(f"{self._folder}: no checkpoint can be read", hint="begin anew with --resume never")
        return None

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if _NAME.fullmatch(path.name))


def _read(path: Path) -> State:
    # torch may read a damaged file as wrong numbers, or fail in many ways, so checksums are verified first.
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state
