"""YAML as data that still knows its lines.

Read by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), where PyYAML reads 1.1: ``1e-4`` is
a number; ``no``, ``12:30`` and ``2026-01-31`` are text. Keys are always text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

KeyPath = tuple[str, ...]

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 50
"""Mappings and lists inside each other; PyYAML calls itself several times for each."""

MAX_VALUES = 500_000
"""Names and values of a document in which each alias stands for all that its anchor holds."""

_TAG = "tag:yaml.org,2002:"


class Tree(NamedTuple):
    """A YAML document, as `parse` returns it.

    Attributes:
        data: dicts, lists and scalars; None for an empty text.
        duplicates: line, key path and first line of every key that its mapping already has.
    """

    data: Any
    duplicates: tuple[tuple[int, KeyPath, int], ...]
    root: yaml.Node | None

    def find(self, at: KeyPath) -> tuple[int, bool]:
        """Return the line (from 1) of the deepest part of a key path that exists, and whether that is its end."""
        node, line = self.root, 1
        for part in at:
            if isinstance(node, yaml.MappingNode):
                # The last one counts: merged keys stand before a mapping's own.
                found = [entry for entry in node.value if entry[0].value == part][-1:]
            elif isinstance(node, yaml.SequenceNode) and part.isdecimal():
                found = [(item, item) for item in node.value[int(part) :][:1]]
            else:
                found = []
            if not found:
                return line, False
            key, node = found[0]
            line = key.start_mark.line + 1
        return line, True


def parse(text: str | bytes) -> Tree:
    """Read one YAML document.

    Raises:
        yaml.YAMLError: if it is none, or is larger, deeper or by aliases longer than the bounds; `describe` words it.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"has more than {MAX_BYTES} bytes")
    loader = _CoreLoader(text)
    root = loader.get_single_node()
    if root is None:
        return Tree(None, (), None)
    _require_few_values(root)
    duplicates = tuple(_duplicates(root, at=(), seen=set()))  # before construction mixes the merged keys in
    return Tree(loader.construct_document(root), duplicates, root)


def _require_few_values(root: yaml.Node) -> None:
    """Refuse a document whose aliases stand for too much, or for what they lie in, which would have no end."""
    sizes: dict[int, int | None] = {}  # None while what lies inside a node is looked at
    todo = [root]
    while todo:
        node = todo[-1]
        inner = _inner(node)
        if id(node) not in sizes:
            sizes[id(node)] = None
            for child in inner:
                if sizes.get(id(child), 0) is None:
                    raise ComposerError(None, None, "an alias stands for a value that it lies in", child.start_mark)
            todo += [child for child in inner if id(child) not in sizes]
            continue
        todo.pop()
        if sizes[id(node)] is None:
            size = sizes[id(node)] = 1 + sum(sizes[id(child)] or 0 for child in inner)
            if size > MAX_VALUES:
                raise ComposerError(None, None, f"aliases make more than {MAX_VALUES} values", node.start_mark)


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for entry in node.value for part in entry]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def describe(error: yaml.YAMLError) -> tuple[str, str]:
    """Return where a YAML error is, as ``line:column`` or '', and what it is."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return "", str(error).splitlines()[0]
    mark = error.problem_mark
    place = f"{mark.line + 1}:{mark.column + 1}" if mark else ""
    return place, ", ".join(part for part in (error.context, error.problem) if part)


def _duplicates(node: yaml.Node, *, at: KeyPath, seen: set[int]) -> Iterator[tuple[int, KeyPath, int]]:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _duplicates(item, at=(*at, str(number)), seen=seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                yield line, (*at, name), first[name]
            first.setdefault(name, line)
            yield from _duplicates(value, at=(*at, name), seen=seen)


def _scalar(read: Callable[[str], Any]) -> Callable[[Any, yaml.ScalarNode], Any]:
    def construct(loader: Any, node: yaml.ScalarNode) -> Any:
        text = loader.construct_scalar(node)
        try:
            return read(text)
        except (KeyError, ValueError):
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            problem = f"'{shown}' is not {node.tag.replace(_TAG, '!!')}"
            raise ConstructorError(None, None, problem, node.start_mark) from None

    return construct


def _mapping(loader: Any, node: yaml.Node) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise ConstructorError(None, None, "expected a mapping", node.start_mark)
    loader.flatten_mapping(node)
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConstructorError(None, None, "expected a name as the key", key.start_mark)
    return {key.value: loader.construct_object(value, deep=True) for key, value in node.value}


class _CoreLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value, at a bounded depth."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"mappings and lists lie more than {MAX_DEPTH} deep inside each other"
            raise ComposerError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]  # the stub has it on the instance
        None: [
            (_TAG + "null", re.compile(r"(~|null|Null|NULL|)\Z")),
            (_TAG + "bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")),
            (_TAG + "int", re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
            (_TAG + "float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")),
            (_TAG + "float", re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")),
            (_TAG + "merge", re.compile(r"<<\Z")),
        ]
    }
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        _TAG + "null": _scalar(lambda _: None),
        _TAG + "bool": _scalar(lambda text: {"true": True, "false": False}[text.lower()]),
        _TAG + "int": _scalar(lambda text: int(text, 0 if text[:2] in {"0o", "0x"} else 10)),
        _TAG + "float": _scalar(lambda text: float(re.sub(r"\.(?=[a-z])", "", text.lower()))),
        _TAG + "str": _scalar(str),
        _TAG + "seq": lambda loader, node: loader.construct_sequence(node, deep=True),
        _TAG + "map": _mapping,
        None: yaml.SafeLoader.construct_undefined,
    }
