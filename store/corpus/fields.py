"""A pair as a corpus has it, and how its record is mapped to the columns of the pair table, by dotted paths."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import Field, field_validator

from store.config.pipeline_file import Section
from store.config.problems import suggest
from store.config.template import is_template, parse_template
from store.errors import CorpusError

Record = Mapping[str, Any]
"""One pair's data in a corpus: ``txt`` and ``json`` of a tar, or the columns of a table."""

FILE_NAMES = ("__folder__", "__file__")
"""Names by which a record of a table has the name of the folder and the file, without suffix, that it lies in."""

NAMES_SHOWN = 12
"""Number of a record's names that an error lists."""


@dataclass(kw_only=True, slots=True)
class SourcePair:
    """One image of a corpus and its record, before fields are mapped.

    Attributes:
        record: what the corpus says of it: a tar's ``txt`` and ``json``, or the columns of a table.
        uri: path or URL of the file that holds the image; None where it has none.
        member: where in that file: ``offset`` and ``nbytes`` in a tar, ``column`` and ``row`` in a Parquet file; None
            where the file is the image.
        passed, changed: reasons and examples for the account, without the pair's key.
    """

    key: str
    record: dict[str, Any]
    image: bytes | None = None
    uri: str | None = None
    member: dict[str, Any] | None = None
    passed: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """A tar's ``.json``, a table's columns."""
        found = self.record.get("json", self.record)
        return found if isinstance(found, Mapping) else {}


class Fields(Section):
    """Dotted paths from a record to the columns of the pair table.

    A path leads through mappings and over lists; a number in it is a position in a list. A path that no record of a
    file has is an error, unless it ends with ``?``. A text with paths in braces is filled with the record's values.
    """

    key: str | None = Field(default=None, min_length=1)
    image: str | None = Field(default=None, min_length=1)
    caption: str | None = Field(default=None, min_length=1)
    modality: str | None = Field(default=None, min_length=1)
    split: str | None = Field(default=None, min_length=1)
    source: str | None = Field(default=None, min_length=1)
    license: str | None = Field(default=None, min_length=1)
    json_file: str | None = Field(default=None, min_length=1)
    text_file: str | None = Field(default=None, min_length=1)

    @field_validator("*")
    @classmethod
    def _template(cls, text: str | None) -> str | None:
        if text is not None and is_template(text):
            parse_template(text)
        return text


TAR_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "caption": ("txt", "caption", "text", "json.caption"),
    "modality": ("json.modality",),
    "split": ("json.split",),
    "source": ("json.source",),
    "license": ("json.license",),
}
"""Paths in a tar's records that are used where no mapping is given."""

TABLE_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "key": ("key", "__key__", "id", "image_id"),
    "image": ("image", "jpg", "jpeg", "png", "webp", "image_path", "file_name", "path", "url", "image_url"),
    "caption": ("caption", "captions", "text", "txt"),
    "modality": ("modality",),
    "split": ("split",),
    "source": ("source",),
    "license": ("license", "licence"),
}
"""The same for columns of Parquet and CSV and names of JSON lines."""


def values_at(node: Any, path: Sequence[str]) -> list[Any] | None:
    """Return the values at a path, as a flat list without nulls; None where the path does not exist."""
    if isinstance(node, list) and not (path and path[0].isdecimal()):
        found = [values_at(item, path) for item in node]
        present = [values for values in found if values is not None]
        return [value for values in present for value in values] if present or not node else None
    if not path:
        return [] if node is None else [node]
    if isinstance(node, Mapping):
        whole = ".".join(path)  # a column may have dots in its name
        if whole in node:
            return values_at(node[whole], ())
        return values_at(node[path[0]], path[1:]) if path[0] in node else None
    if isinstance(node, list):
        position = int(path[0])
        return values_at(node[position], path[1:]) if position < len(node) else []
    return [] if node is None else None


def as_text(value: object) -> str | None:
    """Return a value as the pair table keeps it, None if it is no text or number."""
    text = as_written(value)
    # JSON can spell half of a surrogate pair, which no Arrow string can hold.
    return text if text is None or text.isascii() else text.encode("utf-8", "replace").decode()


def as_written(value: object) -> str | None:
    """Return a value as text without spaces around it, None if it is no text or number; it may hold half surrogates."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value) if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else None


class FieldReader:
    """Reads mapped fields of the records of one file, and reports fields that no record had.

    Args:
        defaults: candidates by column where the mapping says nothing.
        raw: further paths that must exist, those of rules.
        fixed: columns that are the same for all records.
    """

    def __init__(
        self,
        file: str,
        fields: Fields,
        defaults: Mapping[str, tuple[str, ...]],
        *,
        raw: Sequence[str] = (),
        fixed: Mapping[str, str] | None = None,
    ) -> None:
        self._file, self._fixed = file, fixed or {}
        given = {name: path for name, path in fields.model_dump().items() if path is not None}
        self._templates = {name: parse_template(text) for name, text in given.items() if is_template(text)}
        chosen = {name: () if name in self._templates else (path,) for name, path in given.items()}
        self._paths = {
            name: [_split(path) for path in candidates] for name, candidates in {**defaults, **chosen}.items()
        }
        self._holes = {path: _split(path) for template in self._templates.values() for path in template.paths}
        needed = [(name, path) for name, paths in chosen.items() for path in paths]
        needed += [(name, path) for name, template in self._templates.items() for path in template.paths]
        needed += [("keep.labels", path) for path in raw]
        self._missing = {path: name for name, path in reversed(needed) if not path.endswith("?")}
        self._raw = {path: _split(path) for path in raw}
        self._first: Record | None = None

    def names(self) -> set[str]:
        """Return the outermost names of all paths, and whole paths where a column's name may have dots."""
        paths = [path for candidates in self._paths.values() for path in candidates]
        paths += [*self._raw.values(), *self._holes.values()]
        return {path[0] for path in paths} | {".".join(path) for path in paths}

    def require(self, columns: Sequence[str]) -> None:
        """Refuse, with a CorpusError, paths that begin with none of a table's columns, before any row is read."""
        for path, name in self._missing.items():
            if not self._is_in(_split(path), columns):
                raise self._unknown(name, path, columns)

    def maps(self, name: str) -> bool:
        """Return whether a column's field may have values."""
        return name in self._paths

    def has_candidate(self, name: str, columns: Sequence[str]) -> bool:
        """Return whether one of a table's columns may hold a column's field."""
        return name in self._templates or any(self._is_in(path, columns) for path in self._paths.get(name, ()))

    def _is_in(self, path: tuple[str, ...], columns: Sequence[str]) -> bool:
        beside = {"json": "json_file", "txt": "text_file"}.get(path[0])
        from_a_file = beside in self._paths if beside else path[0] in (*FILE_NAMES, "dicom")
        return path[0] in columns or ".".join(path) in columns or from_a_file

    def find(self, record: Record, name: str) -> tuple[str, list[Any]] | None:
        """Return the path of a column's field and its values, None where the record has none of its paths."""
        if name in self._fixed:
            return "", [self._fixed[name]]
        if name in self._templates:
            filled = self._templates[name].fill(lambda path: joined_text(values_at(record, self._holes[path])))
            return "", [] if filled is None else [filled]
        for path in self._paths.get(name, ()):
            # Most candidates are no column; asked like this it takes a tenth of the time.
            found = values_at(record, path) if len(path) > 1 or path[0] in record else None
            if found is not None:
                return ".".join(path), found
        return None

    def values(self, record: Record, name: str) -> list[Any] | None:
        """Return the values of a column's field, None where the record has none of its paths."""
        found = self.find(record, name)
        return None if found is None else found[1]

    def text(self, record: Record, name: str) -> str | None:
        """Return the first text of a column's field."""
        return _first_text(self.values(record, name))

    def raw(self, record: Record, path: str) -> list[str]:
        """Return the texts at a path of a rule."""
        return [text for text in map(as_text, values_at(record, self._raw[path]) or ()) if text is not None]

    def note(self, record: Record) -> None:
        """Note which fields a record has, before its fields are read."""
        if self._first is None:
            self._first = record
        if self._missing:
            self._missing = {
                path: name for path, name in self._missing.items() if values_at(record, _split(path)) is None
            }

    def finish(self) -> None:
        """Refuse, with a CorpusError, a mapping to a path that no record of the file had."""
        if self._first is not None and self._missing:
            path, name = next(iter(self._missing.items()))
            raise self._unknown(name, path, list(_names(self._first)))

    def _unknown(self, name: str, path: str, known: Sequence[str]) -> CorpusError:
        shown = ", ".join(known[:NAMES_SHOWN]) + (", ..." if len(known) > NAMES_SHOWN else "")
        where = name if name.startswith("keep") else f"fields.{name}"
        return CorpusError(
            f"{self._file}: {where}: no record has {path!r}{suggest(path, known)}; there are {shown or 'no fields'}",
            hint="correct it in the corpus of pipelines.yaml; a path that may be missing ends with '?'",
        )


def as_name(value: object) -> str | None:
    """Return a value as it stands in names of files: a whole number without a point, as which pandas writes it."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else as_text(value)


def joined_text(values: Sequence[Any] | None) -> str | None:
    """Return the values as names, with commas between them; None where there is none."""
    return ", ".join(text for text in map(as_name, values or ()) if text is not None) or None


def _first_text(values: Sequence[Any] | None) -> str | None:
    return next((text for text in map(as_text, values or ()) if text is not None), None)


def _split(path: str) -> tuple[str, ...]:
    return tuple(path.removesuffix("?").split("."))


def _names(record: Record, prefix: str = "", depth: int = 3) -> Iterator[str]:
    """Yield the dotted names of a record, mappings inside lists by their first."""
    for name, value in record.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping) and inner and depth > 1:
            yield from _names(inner, f"{prefix}{name}.", depth - 1)
        else:
            yield f"{prefix}{name}"
