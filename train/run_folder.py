"""A run's folder: it appears whole or not at all, by one run at a time, and says what it was made from."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from store.errors import ConfigError, MMKDError

RECORD = "train.json"


def is_done(out: Path, identity: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether a folder already holds the result of exactly this run.

    Args:
        out: the run's folder.
        identity: everything that decides the result, as JSON values.
        overwrite: let another run's result be replaced; what is no result is never replaced.

    Raises:
        ConfigError: something else is there, and it is no result or ``overwrite`` is not given.
    """
    nearest = next(parent for parent in out.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{out}: {nearest} is a file, expected a folder", hint="set another out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = out / RECORD
    if not record.is_file():
        kind = f"folder that is not the result of a run (it has no {RECORD})" if out.is_dir() else "file"
        raise ConfigError(f"{out} is a {kind}, so nothing is put in its place", hint="move it, or set another out")
    try:
        found = json.loads(record.read_text())
    except ValueError as error:
        if overwrite:
            return False
        raise ConfigError(
            f"{record} is damaged ({error}), so it does not say what {out} was made from",
            hint="--overwrite replaces the result once the new run is complete; or set another out",
        ) from error
    if found == json.loads(json.dumps(identity)):
        return True
    if not overwrite:
        raise ConfigError(
            f"{out} holds the result of another run (other settings, corpus or features)",
            hint="--overwrite replaces it once the new run is complete; or set another out",
        )
    return False


@contextlib.contextmanager
def appearing(out: Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder to work in that takes the place of ``out`` when the block ends without an error.

    What an interrupted run left is cleared away by the next one.

    Raises:
        MMKDError: another program is at work on the same folder; the message names it.
        ConfigError: meanwhile something is there that may not be replaced.
    """
    with _alone(out):
        # Asked again, now that nobody else can finish: another run may have, since this one was asked for.
        is_done(out, identity, overwrite=overwrite)
        partial = out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        (partial / RECORD).write_text(json.dumps(identity, indent=1))
        # The old result is moved aside, not deleted, until the new one is in its place.
        replaced = out.with_name(f".{out.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; it ends with its holder, however that ends, and leaves no file behind."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise MMKDError(
                    f"{out}: another program is training into this folder ({file.read() or 'unknown'})",
                    hint="wait for it or stop it, or set another out",
                ) from error
            # Its last holder removed the file after it was opened here: what is locked then is no longer that path.
            if not _is_at(file, path):
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
