"""The lines of YAML that a configuration lacks, as a message shows them."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from .yaml_tree import KeyPath

NAME = "mine"
"""The name that an example gives to a pipeline's teacher, student or corpus."""

_SCALARS: dict[Any, Any] = {bool: True, int: 1, float: 1.0, str: "TEXT"}


def to_add(*wanted: tuple[KeyPath, Any]) -> str:
    """Return the hint that shows lines which a configuration lacks: values below their keys."""
    merged: dict[str, Any] = {}
    for at, value in wanted:
        inner = merged
        for key in at[:-1]:
            inner = inner.setdefault(key, {})
        inner[at[-1]] = value
    text = yaml.safe_dump(merged, default_flow_style=None, sort_keys=False, allow_unicode=True, width=110)
    return "these lines would do; change what they say:" + "".join(f"\n  {line}" for line in text.splitlines())


def example_of(kind: Any, field: FieldInfo | None = None) -> Any:
    """Return a value of a type that would pass validation: a field's example, or what its required keys need."""
    if field is not None and field.examples:
        return field.examples[0]
    origin, args = get_origin(kind) or kind, get_args(kind)
    if origin in {Annotated, Union, UnionType}:
        return example_of(next(one for one in args if one is not NoneType))
    if origin is Literal:
        return args[0]
    if origin is dict:
        return {NAME: example_of(args[1])}
    if origin in {list, tuple}:
        return [example_of(args[0])]
    sections = getattr(kind, "model_fields", {}).items()
    return _SCALARS.get(kind) or {key: example_of(of.annotation, of) for key, of in sections if of.is_required()}
