"""A run's metrics: JSON lines in ``metrics.jsonl`` and optional event files for TensorBoard."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"

EVENTS = "tensorboard"
"""Folder of the event files."""


class MetricsLog:
    """Writes the metrics of a run line by line.

    Args:
        events: writer of TensorBoard, or None.
    """

    def __init__(self, folder: Path, *, events: Any = None) -> None:
        self._file = (folder / METRICS).open("a")
        self._events = events

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line of metrics."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items() if self._events else ():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events:
            self._events.close()


@contextlib.contextmanager
def logging_to(folder: Path, *, start: int, tensorboard: bool) -> Iterator[MetricsLog]:
    """Yield a log that continues at step ``start``; lines of later steps, left by a killed run, are dropped."""
    _cut(folder / METRICS, start)
    events = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        events = SummaryWriter(str(folder / EVENTS), purge_step=start)
    log = MetricsLog(folder, events=events)
    try:
        yield log
    finally:
        log.close()


def _cut(path: Path, start: int) -> None:
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        # The last line of a killed run may be half a line.
        with contextlib.suppress(ValueError):
            if json.loads(line)["step"] < start:
                kept.append(line + "\n")
    path.write_text("".join(kept))
