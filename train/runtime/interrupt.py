"""Ctrl-C and SIGTERM during training: the current step is finished, so that a checkpoint can be written."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stop:
    """A request to stop, by the user or a scheduler."""

    requested: bool = False


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Record the first Ctrl-C or SIGTERM instead of ending at once; the second one ends the program.

    Only the main thread can handle signals in Python; in other threads this does nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(_signum: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        log.info("stopping: this step is finished and a checkpoint is written; once more ends at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
