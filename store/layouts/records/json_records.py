"""Reads JSON lines, a JSON list, records inside a JSON document, and COCO captions, with bounds on depth and size."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.corpus.fields import as_text
from store.errors import CorpusError

from .text_lines import read_lines, read_text

MAX_DEPTH = 100
"""Lists and mappings inside each other at most: what reads them later calls itself for each."""

DOCUMENT_LETTERS = 2**30
"""Letters of a document at most that is no list and so has to be in memory whole."""

BLOCK_LETTERS = 2**20

TOO_DEEP = "a JSON record is nested too deep"
"""Reason for the account."""

Records = Iterator[dict[str, Any]]


class NestedTooDeepError(ValueError):
    """Raised when JSON is nested deeper than the bound."""


def parse_json(text: str | bytes) -> Any:
    """Return a JSON text as Python values; a number of more digits than Python converts stays a text.

    Raises:
        NestedTooDeepError: it is nested deeper than the bound.
        ValueError: it is not JSON.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    start = len(text) - len(text.lstrip())
    value, end = _decode_at(text, start)
    if text[end:].strip():
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _decode_at(text: str, start: int) -> tuple[Any, int]:
    """Return the value that begins at a letter, and where it ends."""
    try:
        try:
            value, end = _PLAIN.raw_decode(text, start)
        except json.JSONDecodeError:
            raise
        except ValueError:
            value, end = _LONG_NUMBERS.raw_decode(text, start)
    except RecursionError:
        raise NestedTooDeepError(f"nested more than {MAX_DEPTH} deep") from None
    if text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH and _is_deep(value):
        raise NestedTooDeepError(f"nested more than {MAX_DEPTH} deep")
    return value, end


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # the bound of sys.set_int_max_str_digits
        return digits


_PLAIN, _LONG_NUMBERS = json.JSONDecoder(), json.JSONDecoder(parse_int=_integer)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below += node.values()
            elif isinstance(node, list):
                below += node
        if not below:
            return False
        level = below
    return any(isinstance(node, dict | list) for node in level)


def read_json_lines(file: CorpusFile, content: BinaryIO, account: Account) -> Records:
    """Yield the object of each line; empty lines and lines that are nested too deep are passed over.

    Raises:
        CorpusError: a line is not a JSON object.
    """
    for number, line in enumerate(read_lines(file, content), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except NestedTooDeepError as error:
            account.pass_over(TOO_DEEP, f"{file.uri}:{number}: {error}")
            continue
        except ValueError as error:
            raise CorpusError(f"{file.uri}:{number}: not a line of JSON: {error}") from error
        if not isinstance(record, dict):
            hint = "if the file is one list of objects, say format: json in the corpus" if line[0] == "[" else None
            raise CorpusError(f"{file.uri}:{number}: expected a JSON object on each line", hint=hint)
        yield record


def read_json(file: CorpusFile, content: BinaryIO, paths: Sequence[str] = ()) -> Records:
    """Yield the records of a JSON document: the objects of a list, which is read in parts, or those at paths.

    At a path lies a list of objects, or a mapping. Of a mapping, each name is a record's ``__key__``; its value is the
    record if it is an object, and else the record's ``caption``.

    Args:
        paths: dotted; none for a document that is a list itself. ``.`` is the whole document.

    Raises:
        CorpusError: it is not JSON, or holds something else there.
    """
    read = read_text(file, content)
    start = read(BLOCK_LETTERS, 1)
    if not paths and start.lstrip()[:1] == "[":
        yield from _list_items(file, start, read)
        return
    document = _whole(file, start, read)
    if not paths:
        raise _no_list(file, document)
    for path in paths:
        found = [document] if path == "." else _at(document, path.split("."))
        if found is None:
            raise CorpusError(f"{file.uri}: records: there is no {path!r}; there are {_shown(document)}")
        for value in found:
            yield from _records_in(file, value, path)


def _at(document: Any, path: Sequence[str]) -> list[Any] | None:
    for part in path:
        if not isinstance(document, dict) or part not in document:
            return None
        document = document[part]
    return [document]


def _records_in(file: CorpusFile, value: Any, path: str) -> Records:
    if isinstance(value, list):
        for number, record in enumerate(value):
            if not isinstance(record, dict):
                raise CorpusError(f"{file.uri}: records: {path}.{number} is {type(record).__name__}, not an object")
            yield record
    elif isinstance(value, dict):
        for name, record in value.items():
            yield {"__key__": name, **(record if isinstance(record, dict) else {"caption": record})}
    else:
        raise CorpusError(f"{file.uri}: records: {path!r} is neither a list nor a mapping of records")


def read_coco(file: CorpusFile, content: BinaryIO, account: Account) -> Records:
    """Yield the images of COCO annotations with the list of their captions as ``caption``, in the order of the images.

    Raises:
        CorpusError: it is not JSON, or has no images or captions.
    """
    read = read_text(file, content)
    document = _whole(file, read(BLOCK_LETTERS, 1), read)
    images, annotations = ((document if isinstance(document, dict) else {}).get(n) for n in ("images", "annotations"))
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise CorpusError(
            f"{file.uri}: expected COCO annotations, an object with the lists 'images' and 'annotations'; there are "
            f"{_shown(document)}"
        )
    captions: dict[Any, list[Any]] = defaultdict(list)
    for number, annotation in enumerate(annotations):
        try:
            captions[as_text(annotation["image_id"])].append(annotation["caption"])
        except (TypeError, KeyError) as error:
            raise CorpusError(
                f"{file.uri}: annotations.{number} has no {error}; expected a caption and its image_id"
            ) from error
    for number, image in enumerate(images):
        if not isinstance(image, dict) or "id" not in image:
            raise CorpusError(f"{file.uri}: images.{number} has no 'id'")
        yield {**image, "caption": captions.pop(as_text(image["id"]), [])}
    for name, orphans in captions.items():
        account.pass_over(
            "a caption whose image the file does not list", f"{file.uri}: image_id {name}", count=len(orphans)
        )


def _list_items(file: CorpusFile, text: str, read: Callable[..., str]) -> Records:
    """Yield the objects of a list, of which only a part is in memory."""
    line, position, count = 1, text.index("[") + 1, 0  # the line of the first letter in memory
    while True:
        between = (_BETWEEN if count else _BEFORE).match(text, position)
        if between and between[1]:
            if text[between.end() :].strip() or read(BLOCK_LETTERS, line).strip():
                raise CorpusError(f"{file.uri}: something follows the end of the list")
            return
        start, problem = between.end() if between else position, "expected a comma or the end of the list"
        if between:
            try:
                value, position = _decode_at(text, start)
            except NestedTooDeepError as error:
                raise CorpusError(f"{_line(file, text, line, start)}: item {count} of the list is {error}") from error
            except json.JSONDecodeError as error:
                problem = f"{error.msg} in item {count} of the list"
            else:
                if not isinstance(value, dict):
                    raise CorpusError(f"{_line(file, text, line, start)}: item {count} of the list is no object")
                yield value
                count += 1
                continue
        # Perhaps the block cuts it. Each block is as long as the text before, so that the work stays linear.
        more = read(max(BLOCK_LETTERS, len(text) - start), line)
        if not more or len(text) - start > DOCUMENT_LETTERS:
            raise CorpusError(f"{_line(file, text, line, start)}: not JSON: {problem}")
        line += text.count("\n", 0, position)
        text, position = text[position:] + more, 0


_BEFORE, _BETWEEN = re.compile(r"\s*(?:(?=[^\s\]])|(\]))"), re.compile(r"\s*(?:,\s*(?=\S)|(\]))")


def _line(file: CorpusFile, text: str, line: int, position: int) -> str:
    return f"{file.uri}:{line + text.count(chr(10), 0, position)}"


def _whole(file: CorpusFile, start: str, read: Callable[..., str]) -> Any:
    parts, length, line = [start], len(start), 1 + start.count("\n")
    while block := read(BLOCK_LETTERS, line):
        parts.append(block)
        length += len(block)
        line += block.count("\n")
        if length > DOCUMENT_LETTERS:
            raise CorpusError(
                f"{file.uri}: a JSON document of more than {DOCUMENT_LETTERS} letters, which would be in memory whole",
                hint="write its records as JSON lines (one object per line), which are read one by one",
            )
    text = "".join(parts)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        lines = "each line is an object of its own: say format: jsonl in the corpus"
        extra = error.msg == "Extra data" and text[error.pos :].lstrip()[:1] == "{"
        place = f"{file.uri}:{error.lineno}:{error.colno}"
        raise CorpusError(f"{place}: not JSON: {error.msg}", hint=lines if extra else None) from error
    except ValueError as error:
        raise CorpusError(f"{file.uri}: {error}") from error


def _no_list(file: CorpusFile, document: Any) -> CorpusError:
    if isinstance(document, dict) and {"images", "annotations"} <= set(document):
        hint = "they look like COCO annotations: say format: coco in the corpus"
    else:
        hint = "say where its records are, as in records: PATH in the corpus; '.' is the whole document"
    return CorpusError(f"{file.uri}: expected a list of objects; there are {_shown(document)}", hint=hint)


def _shown(document: Any) -> str:
    if not isinstance(document, dict):
        return f"no names but one {type(document).__name__}"
    names = [f"{str(name)[:40]!r} ({type(value).__name__})" for name, value in document.items()]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "no names"
