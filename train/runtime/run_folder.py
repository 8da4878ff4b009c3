"""A run's folder: it appears whole or not at all, by one run at a time, and says what it was made from.

Until then the run works in ``.NAME.partial`` beside it, where its checkpoints lie. A run that was killed goes on there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from store.errors import ConfigError, MMKDError, SpecMismatchError
from store.files import write_atomic

log = logging.getLogger(__name__)

RECORD = "train.json"

UNFINISHED = "unfinished.json"
"""What the record is called until the run is complete."""

CHECKPOINTS = "checkpoints"
"""Folder of checkpoints in the working folder; the result has none."""

GROWS = "ranges"
"""The one part of a run's identity that may change while it is trained: what is committed of a store that grows."""


def is_done(out: Path, identity: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether a folder already holds the result of exactly this run.

    Args:
        identity: everything that decides the result, as JSON values.
        overwrite: another run's result may be replaced; anything else never is.

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
    if not differences(found, identity):
        # A run that was killed between its last two steps left them.
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        if found != json.loads(json.dumps(identity)):
            log.info("%s: the store has grown since it was made; --overwrite makes it anew", out)
        return True
    if not overwrite:
        raise ConfigError(
            f"{out} holds the result of another run (other settings, corpus or features): "
            f"{'; '.join(differences(found, identity)[:SHOWN])}",
            hint="--overwrite replaces it once the new run is complete; or set another out",
        )
    return False


SHOWN = 5
"""Differences that an error names."""


def differences(found: Any, identity: Any, *, key: str = "") -> list[str]:
    """Return in which values two records differ, one text per key; lists count as values.

    That a store has grown since is no difference.
    """
    found, identity = (json.loads(json.dumps(record)) for record in (found, identity))
    if isinstance(found, dict) and isinstance(identity, dict):
        names = [*found, *(name for name in identity if name not in found)]
        return [
            text
            for name in names
            for text in differences(found.get(name), identity.get(name), key=f"{key}.{name}" if key else name)
        ]
    if found == identity or (f".{key}".rpartition(f".{GROWS}.")[1] and _has_grown(found, identity)):
        return []
    return [f"{key}: {json.dumps(found)} then, {json.dumps(identity)} now"]


def _has_grown(before: Any, now: Any) -> bool:
    return isinstance(now, int) and (before is None or (isinstance(before, int) and before <= now))


@contextlib.contextmanager
def appearing(
    out: Path, identity: Mapping[str, Any], *, overwrite: bool = False, resume: bool = True
) -> Iterator[Path]:
    """Yield a folder to work in that takes the place of ``out`` when the block ends without an error.

    If the same run was interrupted and left checkpoints, it is its folder, as it was left; otherwise an empty one.

    Args:
        identity: everything that decides the result, as JSON values.
        resume: if false, the leftovers of an interrupted run are deleted.

    Raises:
        MMKDError: another program is at work on the same folder; the message names it.
        ConfigError: meanwhile something is there that may not be replaced, or another run was interrupted there.
        SpecMismatchError: the store's features are not those that the interrupted run was trained on.
    """
    with _alone(out):
        # Asked again, now that nobody else can finish: another run may have, since this one was asked for.
        is_done(out, identity, overwrite=overwrite)
        partial = out.with_name(f".{out.name}.partial")
        if not (resume and _can_go_on(partial, out, identity)):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_atomic(partial / UNFINISHED, json.dumps(identity, indent=1).encode())
        yield partial
        (partial / UNFINISHED).rename(partial / RECORD)
        # The old result is moved aside, not deleted, until the new one is in its place.
        replaced = out.with_name(f".{out.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
        # Last: until the result is in its place, a run that is killed needs them.
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def begun_as(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what this run was made from when it began, if it was interrupted and left checkpoints; else None.

    Args:
        identity: of the run now; the store may have grown since.
    """
    partial = out.with_name(f".{out.name}.partial")
    records = [partial / name for name in (UNFINISHED, RECORD) if (partial / name).is_file()]
    if not records or not _has_checkpoints(partial):
        return None
    found: dict[str, Any] = json.loads(records[0].read_text())
    return None if differences(found, identity) else found


def _has_checkpoints(partial: Path) -> bool:
    return any((partial / CHECKPOINTS).glob("*.pt"))


def _can_go_on(partial: Path, out: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether an interrupted run left something to go on with, and see that it was this one."""
    if not _has_checkpoints(partial):
        return False
    record = partial / UNFINISHED
    if not record.is_file():
        # It was killed between the last steps below: only the renaming is missing.
        record = partial / RECORD
        record.rename(partial / UNFINISHED)
        record = partial / UNFINISHED
    found = differences(json.loads(record.read_text()), identity)
    if not found:
        return True
    specs = [text for text in found if text.startswith("store.specs.")]
    kind = SpecMismatchError if specs else ConfigError
    raise kind(
        f"{out}: a run was interrupted there that is not this one: {'; '.join((specs or found)[:SHOWN])}",
        hint="give it what it was begun with and it goes on; --resume never drops it and begins anew",
    )


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
