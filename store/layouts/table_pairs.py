"""Turns records of tables into pairs: finds the image of each, by its bytes, path or URL, and files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from store.corpus.corpus_files import CorpusFile, resolve_uri
from store.corpus.fields import FieldReader, SourcePair, as_text
from store.corpus.image_source import ImageSource
from store.errors import LocationError, PairDecodeError
from store.io.fetching import fetch_ahead
from store.io.folder import Folder
from store.io.location import is_url, require_no_credentials

from .records.json_records import parse_json
from .records.npz_records import PlacedImage

PATH_LETTERS = 4096
"""Letters of an image's path or URL at most."""


Item: TypeAlias = tuple[int, dict[str, Any], tuple[str, list[Any]]]
"""A record's number, the record, and the path and the values of its image."""


class PairReader:
    """Makes pairs of the records of one table.

    Args:
        images: reads files that records name.
    """

    def __init__(self, file: CorpusFile, fields: FieldReader, images: ImageSource) -> None:
        self._file, self._fields, self._images = file, fields, images
        self._names_files = any(fields.maps(name) for name in ("json_file", "text_file"))

    def pairs(self, records: Iterable[dict[str, Any]]) -> Iterator[SourcePair]:
        """Yield the pairs of records in order."""
        here = isinstance(self._file.folder, Folder)

        def is_near(item: Item) -> bool:
            values = item[2][1]
            return (here or all(map(_holds_image, values))) and not any(
                isinstance(v, str) and is_url(v) for v in values
            )

        items = (
            (number, record, self._fields.find(record, "image") or ("", [])) for number, record in enumerate(records)
        )
        for pairs in fetch_ahead(lambda item: self._pairs_of(*item), items, is_near=is_near):
            yield from pairs

    def _pairs_of(self, number: int, record: dict[str, Any], image: tuple[str, list[Any]]) -> list[SourcePair]:
        """Return the pair of a record; several where images and captions are lists of the same length.

        Args:
            image: path and values of the field, as `FieldReader.find` returns them.
        """
        key = self._fields.text(record, "key") or f"{self._file.stem}-{number:08d}"
        pairs = self._by_position(number, record, key, image[0])
        if pairs:
            return pairs
        pair = SourcePair(key=key, record=record)
        path, values = image
        if self._names_files:
            self._add_files(pair)
            path, values = self._fields.find(pair.record, "image") or ("", [])
        # A template has no place in the record.
        found = list(_placed(pair.record, path.split("."))) if path else [("", value) for value in values]
        self._add_image(pair, number, *(found[0] if found else (path, None)))
        pair.passed += [("second image of a list", place) for place, _ in found[1:]]
        return [pair]

    def _by_position(self, number: int, record: dict[str, Any], key: str, path: str) -> list[SourcePair]:
        """Return a pair for each image of a list that has a list of as many captions beside it."""
        images = record.get(path)
        if not isinstance(images, list) or len(images) < 2:
            return []
        caption, _ = self._fields.find(record, "caption") or ("", None)
        captions = record.get(caption)
        if not isinstance(captions, list) or len(captions) != len(images):
            return []
        pairs = []
        for position, (image, text) in enumerate(zip(images, captions, strict=True)):
            pair = SourcePair(key=f"{key}#{position + 1}", record={**record, caption: text})
            self._add_image(pair, number, f"{path}.{position}", image)
            pairs.append(pair)
        return pairs

    def _add_files(self, pair: SourcePair) -> None:
        """Add what lies in files of its own that the record names."""
        for field, name, kind, read in (
            ("json_file", "json", "JSON", parse_json),
            ("text_file", "txt", "text", _decoded),
        ):
            path = self._fields.text(pair.record, field)
            if path is None:
                continue
            try:
                content = self._images.image(resolve_uri(path, self._file.folder.uri))
                pair.record = {**pair.record, name: read(content)}
            except PairDecodeError as error:
                pair.passed.append((f"no {kind} file", str(error)))
            except ValueError as error:
                pair.passed.append((f"not {kind}", f"{path}: {error}"))

    def _add_image(self, pair: SourcePair, number: int, place: str, value: Any) -> None:
        if isinstance(value, PlacedImage):
            pair.uri, pair.image = self._file.uri, value.data
            pair.member = {"column": value.column, "row": value.row}
            return
        if isinstance(value, dict) and value.get("bytes") is not None:
            place, value = f"{place}.bytes", value["bytes"]
        elif isinstance(value, dict):
            value = value.get("path")
        if isinstance(value, bytes):
            pair.uri, pair.image, pair.member = self._file.uri, value, {"column": place, "row": number}
        elif isinstance(value, str) and value:
            self._add_file(pair, value)
        elif value is None or value == "":
            pair.passed.append(("no image in the record", ""))
        else:
            pair.passed.append(("neither image bytes nor a path", place))

    def _add_file(self, pair: SourcePair, path: str) -> None:
        if len(path) > PATH_LETTERS:
            pair.passed.append((f"image's path is longer than {PATH_LETTERS} letters", ""))
            return
        # The row keeps the path: extraction looks again, and says the same of it, or finds what came meanwhile.
        path = as_text(path) or path
        try:
            require_no_credentials(path)
            pair.uri = resolve_uri(path, self._file.folder.uri)
            pair.image = self._images.image(pair.uri)
        except LocationError as error:
            pair.passed.append(("image's URL holds a credential", f"{error}; {error.hint}"))
        except PairDecodeError as error:
            pair.passed.append((error.why, f"{error}{f'; {error.hint}' if error.hint else ''}"))


def _is_url(value: object) -> bool:
    return isinstance(value, str) and is_url(value)


def _holds_image(value: Any) -> bool:
    return isinstance(value, bytes | PlacedImage) or (isinstance(value, dict) and value.get("bytes") is not None)


def _placed(node: Any, path: Sequence[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values at a path with the place of each, in which lists have positions: ``images.1``."""
    before = f"{place}." if place else ""
    if isinstance(node, list) and not (path and path[0].isdecimal()):
        for position, item in enumerate(node):
            yield from _placed(item, path, f"{before}{position}")
    elif not path:
        if node is not None:
            yield place, node
    elif isinstance(node, dict):
        taken = len(path) if ".".join(path) in node else 1
        name = ".".join(path[:taken])
        if name in node:
            yield from _placed(node[name], path[taken:], before + name)
    elif isinstance(node, list) and int(path[0]) < len(node):
        yield from _placed(node[int(path[0])], path[1:], before + path[0])


def _decoded(content: bytes) -> str:
    return content.decode("utf-8-sig")
