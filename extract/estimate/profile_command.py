"""``python -m extract teachers --profile``: what to measure on this machine, and the table of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from extract.config import ExtractSection
from extract.teacher_files.entry import TeacherEntry
from store.cli.options import wide_console
from store.console import progress

if TYPE_CHECKING:
    from .speed import Profile

CPU_BATCH = 8
"""A CPU gains nothing from more rows at once, and a batch of the slowest teacher takes seconds."""


def run_profile(
    entries: Mapping[str, TeacherEntry],
    section: ExtractSection,
    *,
    rows: int,
    batch_size: int | None,
    seconds: float,
    random_weights: bool,
) -> Profile:
    """Profile teachers on the present device: a GPU if there is one.

    Args:
        entries: by id.
        section: the pipeline's ``extract``, for threads and batch size.
        rows: that hours are for.
        batch_size: of a forward pass, instead of the pipeline's on a GPU and of 8 on a CPU.
        seconds: of each measurement.
        random_weights: profile teachers whose weights are not here, too.
    """
    import torch

    from .speed import Settings, profile

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = os.cpu_count() or 1
    settings = Settings(
        device=device,
        threads=min(section.threads_per_worker, cores),
        decode_threads=min(section.decode_threads, cores),
        batch_size=batch_size or (section.batch_size if device == "cuda" else min(section.batch_size, CPU_BATCH)),
        seconds=seconds,
        rows=rows,
        random_weights=random_weights,
    )
    with progress(len(entries), label="profile", noun="teachers") as advance:
        return profile(entries, settings, advance=advance)


def print_profile(found: Profile) -> None:
    """Print a profile as a table and what follows from it."""
    from rich.table import Table
    from rich.text import Text

    numbers = ("images/s", "captions/s", "CPU share", "parameters MB", "peak MB", "load s", "hours")
    console, table = wide_console(), Table("teacher", "weights", "precision", *numbers)
    for name, speed in found.teachers.items():
        sizes = (f"{nbytes / 1e6:,.0f}" for nbytes in (speed.parameter_bytes, speed.peak_bytes))
        pairs = (speed.images_per_s, speed.captions_per_s), (speed.load_s, speed.hours)
        first, last = ([f"{number:,.1f}" for number in pair] for pair in pairs)
        share = "" if speed.cpu_share is None else f"{speed.cpu_share:.0%}"
        table.add_row(name, speed.weights, speed.precision, *first, share, *sizes, *last)
    console.print(table)
    for line in (
        f"{found.device}, {found.threads} threads, batches of {found.batch_size}",
        f"all {len(found.teachers)} resident: parameters {found.parameter_bytes / 1e6:,.0f} MB, "
        f"held {found.resident_bytes / 1e6:,.0f} MB",
        f"decoding: {found.decoded_per_s:,.0f} images/s and thread, {found.decode_hours:,.1f} hours of one thread",
        f"{found.rows:,} rows by all of them, each image decoded once: {found.hours:,.1f} hours",
        *([] if found.hours_alone is None else [f"with these threads to itself about {found.hours_alone:,.1f} hours"]),
        *(f"{name}: not profiled: {reason}" for name, reason in found.not_profiled.items()),
    ):
        console.print(Text(line), soft_wrap=True)
