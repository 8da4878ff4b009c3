"""Which files a teacher's entry names, and where they go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .entry import Download, TeacherEntry


@dataclass(kw_only=True, frozen=True, slots=True)
class Wanted:
    """One file to be fetched.

    Attributes:
        item: where it comes from.
        name: there.
        path: here.
        optional: whether the teacher can do without it.
    """

    item: Download
    name: str
    path: Path
    optional: bool


def wanted(entry: TeacherEntry) -> Iterator[Wanted]:
    """Yield every file that an entry names, there or not."""
    for item in entry.download:
        folder = Path(entry.folder) / (item.into or "")
        for name in (*item.files, *item.optional):
            yield Wanted(item=item, name=name, path=folder / name, optional=name in item.optional)
