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
def logging_to(
    folder: Path, *, start: int, tensorboard: bool, about: Mapping[str, Any] | None = None
) -> Iterator[MetricsLog]:
    """Yield a log that continues at step ``start``; lines of later steps, left by a killed run, are dropped.

    Args:
        about: what the run is made from, as JSON values; TensorBoard shows it as text.
    """
    kept = [line for line in read_metrics(folder) if line["step"] < start]
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in kept))
    events = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        events = SummaryWriter(str(folder / EVENTS), purge_step=start)
        # Four spaces make it a block of code.
        text = json.dumps(about or {}, indent=1).replace("\n", "\n    ")
        events.add_text("configuration", f"    {text}", global_step=start)
    log = MetricsLog(folder, events=events)
    try:
        yield log
    finally:
        log.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics, each with its ``step``; none if there is no such file."""
    found = []
    if (path := folder / METRICS).is_file():
        for line in path.read_text().splitlines():
            # The last line of a killed run may be half a line.
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found
