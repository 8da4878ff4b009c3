"""One writer per store: a lock that the operating system releases however its holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError


@contextlib.contextmanager
def exclusive(store: Path) -> Iterator[None]:
    """Hold a store for writing.

    Raises:
        StoreError: another program holds it; the message names it.
    """
    path = store / "writer.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StoreError(
                f"{store}: another extraction is writing to this store ({file.read().strip() or 'unknown'})",
                hint="wait for it or stop it; what it has committed stays",
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
