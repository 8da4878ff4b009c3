"""The known evaluation datasets, the data root, and whether files are present."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluate.datasets.formats.rules import FolderFiles, any_suffix, needed_patterns
from store.config.problems import suggest
from store.errors import ConfigError
from store.files import find_paths

from .entry import DatasetEntry, read_entry

SHIPPED = Path(__file__).parent / "entries"
"""The registry of this repository: one YAML file per dataset."""

DATA_VARIABLE = "MMKD_DATA"
"""Environment variable with the data root; an option overrides it."""

DEFAULT_ROOT = Path("data")
"""Data root without option and variable, relative to the current folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A dataset, and the patterns relative to the data root that no file matches."""

    entry: DatasetEntry
    missing: list[str]

    @property
    def present(self) -> bool:
        """Return whether every pattern matches a file."""
        return not self.missing


def data_root(option: Path | None = None) -> Path:
    """Return the data root: an option's, else the environment's, else ``data``."""
    if option is not None:
        return option.expanduser()
    stated = os.environ.get(DATA_VARIABLE)
    return Path(stated).expanduser() if stated else DEFAULT_ROOT


def read_registry(folders: Iterable[Path] = ()) -> dict[str, DatasetEntry]:
    """Return every dataset by name; those of the given folders, or files, replace shipped ones of the same name.

    Raises:
        ConfigError: files are wrong (every problem of every file at once), or a folder has none.
    """
    entries: dict[str, DatasetEntry] = {}
    problems: list[str] = []
    for folder in (SHIPPED, *folders):
        paths = [folder] if folder.is_file() else sorted(find_paths(folder, "*.yaml"))
        if not paths:
            problems.append(f"{folder}: there is no dataset here: no file ends with .yaml")
        for path in paths:
            try:
                entry = read_entry(path)
            except ConfigError as error:
                problems.append(str(error))
            else:
                entries[entry.name] = entry
    if problems:
        raise ConfigError("\n".join(problems), hint="python -m evaluate new NAME writes a commented template")
    return entries


def find_dataset(name: str, entries: Mapping[str, DatasetEntry]) -> DatasetEntry:
    """Return a dataset by name; the ConfigError for an unknown name suggests a similar one."""
    if name not in entries:
        raise ConfigError(
            f"no dataset {name!r}{suggest(name, entries)}",
            hint="python -m evaluate list shows all; python -m evaluate new NAME begins a new one",
        )
    return entries[name]


def missing_files(entry: DatasetEntry, root: Path) -> list[str]:
    """Return the patterns of a dataset that no file below the data root matches."""
    any_case = isinstance(entry.read, FolderFiles)
    return [pattern for pattern in needed_patterns(entry.read) if not _some_file(root, pattern, any_case=any_case)]


def _some_file(root: Path, pattern: str, *, any_case: bool) -> bool:
    """Return whether a file matches a pattern, with ``any_case`` also one whose suffix is in capitals."""
    wide = any_suffix(pattern)
    if not any_case or wide == pattern:
        return next(root.glob(pattern), None) is not None
    return any(path.suffix.lower() == Path(pattern).suffix.lower() for path in root.glob(wide))


def status(entry: DatasetEntry, root: Path) -> Status:
    """Return whether a dataset's files are below the data root; none is opened."""
    return Status(entry=entry, missing=missing_files(entry, root))
