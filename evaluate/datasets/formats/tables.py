"""Tables, questions about images, and bags of features: records that say where their image or features lie."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from store.corpus.corpus_files import as_corpus_file
from store.corpus.fields import as_text, values_at
from store.corpus.image_source import ImageSource
from store.errors import EvaluationError
from store.files import find_paths
from store.layouts.records.text_lines import name_within
from store.layouts.tables import TABLE_SUFFIXES, TableFormat, read_records

from .images import path_parts, read_webdataset
from .record import BagFile, Record, StoredImage
from .rules import BagFiles, ListFiles, VqaFiles, wild

Values = dict[str, Any]


def rows(path: Path, *, columns: Sequence[str] | None = None, separator: str | None = None) -> Iterator[Values]:
    """Yield the records of a table: CSV (``columns`` if it has no header), TSV, Parquet, JSON lines, or a JSON list.

    Whatever its name does not tell is read as CSV, since old tables end in ``.data`` or ``.txt``.

    Raises:
        CorpusError: it cannot be read.
    """
    file = as_corpus_file(path)
    name = name_within(file)
    kind: TableFormat = next((kind for suffix, kind in TABLE_SUFFIXES.items() if name.endswith(suffix)), "csv")
    yield from read_records(file, kind, header=columns, separator=separator)


def filled(pattern: str, values: Mapping[str, Any], *, where: str) -> str:
    """Return a pattern with a record's columns in place of its parts in braces; refuse columns that it lacks."""
    try:
        return pattern.format_map({name: as_text(value) or "" for name, value in values.items()})
    except KeyError as error:
        known = ", ".join(list(values)[:12])
        raise EvaluationError(f"{where}: {pattern!r} asks for the column {error}; there are {known}") from error


def read_table(
    root: Path,
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    image: str | Sequence[str] | None = None,
    separator: str | None = None,
) -> Iterator[Record]:
    """Yield the records of a table with their images."""
    source, file = ImageSource(root), path.relative_to(root).as_posix()
    patterns = [image] if isinstance(image, str) else list(image or ())
    for number, values in enumerate(rows(path, columns=columns, separator=separator)):
        record = Record(id=f"{file}:{number}", file=file, values=values)
        if patterns and "{" in patterns[0]:
            _put_file(record, source, root, _places(root, patterns, values, file))
        elif patterns:
            _put_column(record, source, root, patterns[0], number)
        yield record


def read_list(root: Path, path: Path, rule: ListFiles) -> Iterator[Record]:
    """Yield the images of a list: ``name`` and ``label`` as a line says them, ``split`` as the list is called.

    Their ids are in the order of the lines.

    Raises:
        EvaluationError: a line has not two words, or the list is no text.
    """
    source, file = ImageSource(root), path.relative_to(root).as_posix()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{file}: expected a text with a line 'name label' for each image: {error}") from None
    for number, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise EvaluationError(
                f"{file}:{number + 1}: expected 'name label', two words with a space between them, got {line!r}",
                hint="names with spaces cannot stand in such a list; a CSV with the format 'table' can hold them",
            )
        values = {"name": words[0], "label": words[1], "split": path.stem}
        record = Record(id=f"{path.stem}-{number:06d} {words[0]}", file=file, values=values)
        _put_file(record, source, root, [filled(rule.image, values, where=file)])
        yield record


def _places(root: Path, patterns: Sequence[str], values: Values, file: str) -> list[str]:
    """Return the paths of an image; ``*`` in a pattern stands for any folder, in a column's value for itself."""
    names = []
    for pattern in patterns:
        if "*" in pattern:
            plain = {name: glob.escape(as_text(value) or "") for name, value in values.items()}
            found = sorted(find_paths(root, filled(pattern, plain, where=file)))
            names += [path.relative_to(root).as_posix() for path in found]
        else:
            names.append(filled(pattern, values, where=file))
    return names


def _put_file(record: Record, source: ImageSource, root: Path, names: Sequence[str]) -> None:
    found = next((name for name in names if (root / name).is_file()), None)
    if found is None:
        record.problem = "the image file is missing"
    else:
        record.image = StoredImage(source, found)


def _put_column(record: Record, source: ImageSource, root: Path, column: str, number: int) -> None:
    """Take an image from a column: bytes of a Parquet file, or a path relative to the table."""
    node: Any = record.values.get(column)
    if column not in record.values:
        found = values_at(record.values, column.split("."))
        if found is None:
            known = ", ".join(list(record.values)[:12])
            raise EvaluationError(f"{record.file}: there is no column {column!r}; there are {known}")
        node = found[0] if found else None
    if isinstance(node, Mapping):
        column, node = (f"{column}.bytes", node["bytes"]) if node.get("bytes") else (column, node.get("path"))
    if isinstance(node, bytes):
        record.image = StoredImage(source, record.file, {"column": column, "row": number})
        record.sha256 = hashlib.sha256(node).hexdigest()
        # The bytes would otherwise stay in memory with the record.
        record.values = {name: value for name, value in record.values.items() if name != column.split(".")[0]}
    elif isinstance(node, str) and node:
        _put_file(record, source, root, [(Path(record.file).parent / node).as_posix()])
    else:
        record.problem = "there is no image"


def read_vqa(root: Path, path: Path, rule: VqaFiles, images: Mapping[str, Record]) -> Iterator[Record]:
    """Yield questions with their images; ``images`` is empty if they are files of their own."""
    if not rule.images:
        yield from read_table(root, path, image=[rule.image])
        return
    for record in read_table(root, path):
        name = filled(rule.image, record.values, where=record.file)
        found = images.get(name) or images.get(Path(name).stem)
        if found is None:
            yield replace(record, problem="the image is in none of the tars")
        else:
            values = {**record.values, "image": found.values}
            yield replace(record, values=values, image=found.image, sha256=found.sha256, problem=found.problem)


def images_by_name(root: Path, tars: Sequence[Path]) -> dict[str, Record]:
    """Return the images of tars by key."""
    source = ImageSource(root)
    found = (record for tar in tars for record in read_webdataset(tar, tar.relative_to(root).as_posix(), source))
    return {record.id: record for record in found}


def read_bags(root: Path, rule: BagFiles, tables: Sequence[Path]) -> Iterator[Record]:
    """Yield slides with where their features lie; without tables the paths say everything."""
    if not tables:
        parts = path_parts(rule.bags)
        for path in sorted(find_paths(root, wild(rule.bags))):
            name = path.relative_to(root).as_posix()
            found = parts.fullmatch(name)
            if found:
                array = filled(rule.array, found.groupdict(), where=name)
                yield Record(id=name, file=name, values=found.groupdict(), bag=BagFile(path, array))
    for table in tables:
        for record in read_table(root, table):
            path = root / filled(rule.bags, record.values, where=record.file)
            if path.exists():
                yield replace(record, bag=BagFile(path, filled(rule.array, record.values, where=record.file)))
            else:
                yield replace(record, problem="the file of the bag is missing")
