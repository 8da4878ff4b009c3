"""docs/troubleshooting.md has every class of error with cause and cure, and quotes messages as programs write them."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from store.errors import MMKDError

ROOT = Path(__file__).parents[1]
SOURCES = [path for name in ("store", "extract", "train", "evaluate") for path in sorted((ROOT / name).rglob("*.py"))]
TEXT = (ROOT / "docs/troubleshooting.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TEXT.splitlines()
    if re.match(r"\| (?!---|class |what |exit |question )", line)
]
KINDS = [row for row in ROWS if len(row) == 5]
OF_THE_SYSTEM = {"No such file or directory", "Permission denied", "Too many open files", "No space left on device"}


def tree(cls: type[Exception]) -> set[str]:
    return {cls.__name__}.union(*(tree(each) for each in cls.__subclasses__()))


def test_every_class_of_error_has_a_cause_and_a_cure():
    for path in SOURCES:
        if re.search(r"^class \w+Error\(", path.read_text(), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    described = {row[0].strip("`"): row[1:] for row in ROWS if row[0].startswith("`") and len(row) == 3}
    assert {name for name in described if name.endswith("Error")} == tree(MMKDError)
    assert all(cause and cure for cause, cure in described.values())


def test_every_kind_has_its_cure():
    assert len(KINDS) > 160
    assert [row[0] for row in KINDS if not all(row)] == []


def words_of_the_programs() -> str:
    """Return all texts of the source, those that are put together of parts joined, names in braces left out."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


WORD = r"[\w.=]*[a-z][\w.=]*"
CHANGING = r"'[^']*'|\"[^\"]*\"|\S*[…{]\S*|\b[A-Z]{3,}\b"
"""Parts of a quoted message that differ from case to case; numbers are no words."""


def triples(text: str) -> list[tuple[str, str, str]]:
    words = re.findall(WORD, text)
    return [*zip(words, words[1:], words[2:], strict=False)]


WRITTEN = {*triples(words_of_the_programs())}


def share_that_is_written(message: str) -> float:
    """Return the share of a message's words that stand in three words of the source; 1 if it has fewer than three."""
    fixed = re.sub(CHANGING, " ", message)
    known = [three in WRITTEN for three in triples(fixed)]
    count = len(re.findall(WORD, fixed))
    return sum(any(known[max(0, place - 2) : place + 1]) for place in range(count)) / count if known else 1.0


def test_a_message_that_no_program_writes_would_be_found():
    assert share_that_is_written("this store can never be opened because the moon is full") < 0.5


def quoted(row: list[str]) -> list[str]:
    return [code for code in re.findall(r"`([^`]+)`", row[1]) if " " in code and code not in OF_THE_SYSTEM]


@pytest.mark.parametrize("row", [row for row in KINDS if quoted(row)], ids=lambda row: row[0][:50])
def test_a_message_is_quoted_as_the_programs_write_it(row):
    assert {code: share for code in quoted(row) if (share := share_that_is_written(code)) < 0.5} == {}
