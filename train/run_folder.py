"""A run's folder: it appears whole or not at all, and says what it was made from."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from store.errors import ConfigError

RECORD = "train.json"


def is_done(out: Path, identity: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether a folder already holds the result of exactly this run.

    Args:
        out: the run's folder.
        identity: everything that decides the result, as JSON values.
        overwrite: let another run's result be replaced.

    Raises:
        ConfigError: the folder holds something else, and ``overwrite`` is not given.
    """
    if not out.exists():
        return False
    record = out / RECORD
    if record.is_file() and json.loads(record.read_text()) == json.loads(json.dumps(identity)):
        return True
    if not overwrite:
        raise ConfigError(
            f"{out} holds the result of another run (other settings, corpus or features)",
            hint="--overwrite replaces it once the new run is complete; or set another out",
        )
    return False


@contextlib.contextmanager
def appearing(out: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder to work in that takes the place of ``out`` when the block ends without an error.

    What an interrupted run left is cleared away by the next one.
    """
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
