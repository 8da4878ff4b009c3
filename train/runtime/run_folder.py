"""A run's folder: it appears atomically, belongs to one run at a time, and records what it was made from.

Until then the run works in ``.NAME.partial`` beside it, which holds the checkpoints. A killed run resumes there.
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
"""Name of the record until the run is complete."""

CHECKPOINTS = "checkpoints"
"""Folder of checkpoints in the working folder; the result has none."""

GROWS = "ranges"
"""The only part of a run's identity that may change during the run: the committed ranges of a growing store."""

ROWS = "store.rows"
"""The part of a run's identity that earlier versions did not record; the corpus's files decide it."""


def is_done(out: Path, identity: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether a folder already holds the result of exactly this run.

    Args:
        identity: everything that decides the result, as JSON values.
        overwrite: another run's result may be replaced; anything else never is.

    Raises:
        ConfigError: ``out`` holds something else, and that is no result or ``overwrite`` is not given.
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
        # A run that was killed between its last two steps leaves checkpoints behind.
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        if found.get("store", {}).get(GROWS) != identity.get("store", {}).get(GROWS):
            if overwrite:
                return False
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
"""Number of differences that an error names."""


def differences(found: Any, identity: Any, *, key: str = "") -> list[str]:
    """Return the differences of two records, one text per key; a list counts as one value.

    A store that has grown is no difference.
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
    if key == ROWS and found is None:
        return []
    return [f"{key}: {json.dumps(found)} then, {json.dumps(identity)} now"]


def _has_grown(before: Any, now: Any) -> bool:
    return isinstance(now, int) and (before is None or (isinstance(before, int) and before <= now))


@contextlib.contextmanager
def appearing(
    out: Path, identity: Mapping[str, Any], *, overwrite: bool = False, resume: bool = True
) -> Iterator[Path]:
    """Yield a folder to work in that takes the place of ``out`` when the block ends without an error.

    If the same run was interrupted and left checkpoints, it is that run's folder; otherwise an empty one.

    Args:
        identity: everything that decides the result, as JSON values.
        resume: if false, the leftovers of an interrupted run are deleted.

    Raises:
        MMKDError: another program works on the same folder; the message names it.
        ConfigError: ``out`` now holds something that may not be replaced, or another run was interrupted there.
        SpecMismatchError: the store's features are not those that the interrupted run was trained on.
    """
    with _alone(out):
        # Checked again under the lock: another run may have finished since the first check.
        is_done(out, identity, overwrite=overwrite)
        partial = partial_of(out)
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
        # Last: a run that is killed before this point needs the checkpoints.
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def partial_of(out: Path) -> Path:
    """Return the folder in which a run works until its result appears."""
    return out.with_name(f".{out.name}.partial")


def begun_as(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the identity with which an interrupted run began, if it left checkpoints; else None.

    Args:
        identity: of the run now; the store may have grown since.
    """
    found = interrupted_in(out)
    return None if found is None or differences(found, identity) else found


def interrupted_in(out: Path) -> dict[str, Any] | None:
    """Return the identity of the run that was interrupted on its way to a folder, if it left checkpoints; else None."""
    partial = partial_of(out)
    records = [partial / name for name in (UNFINISHED, RECORD) if (partial / name).is_file()]
    if not records or not _has_checkpoints(partial):
        return None
    found: dict[str, Any] = json.loads(records[0].read_text())
    return found


def _has_checkpoints(partial: Path) -> bool:
    return any((partial / CHECKPOINTS).glob("*.pt"))


def _can_go_on(partial: Path, out: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether an interrupted run left checkpoints; raise an error if it was another run."""
    if not _has_checkpoints(partial):
        return False
    record = partial / UNFINISHED
    if not record.is_file():
        # It was killed between the last steps of `appearing`: only the rename is missing.
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
    """Hold the lock of a run's folder; the system releases it when the process ends, and no file stays behind."""
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
            # The last holder may have removed the file after it was opened here; then another file has this path.
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
