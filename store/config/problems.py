"""Turns pydantic's errors into one sentence per problem, with its key path and a suggestion."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

from .missing import example_of
from .yaml_tree import KeyPath

LIKENESS = 0.5
"""difflib ratio from which a name is suggested: 'fp16' and 'float16' have 0.55."""

_Located = tuple[tuple[int | str, ...], ErrorDetails]
_Problem = tuple[KeyPath, str]
_Lacking = tuple[KeyPath, Any]
_Found = tuple[KeyPath, str, _Lacking | None]


def explain(invalid: ValidationError, model: type[BaseModel]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the key path and the wording of each problem; a missing key is a problem of the mapping that lacks it."""
    for at, text, _ in _problems(invalid, model):
        yield at, text


def lacking(invalid: ValidationError, model: type[BaseModel]) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the key path of each missing key, and a value that would do."""
    for _, _, lacks in _problems(invalid, model):
        if lacks:
            yield lacks


def _problems(invalid: ValidationError, model: type[BaseModel]) -> Iterator[_Found]:
    # pydantic names the branches of unions inside a location: only a walk along the types tells keys from branches.
    yield from _explain(model, [(error["loc"], error) for error in invalid.errors(include_url=False)], at=())


def worded(invalid: ValidationError, model: type[BaseModel]) -> str:
    """Return the problems of values that are of no file, one line each."""
    return "\n".join(f"{'.'.join(at)}: {text}" if at else text for at, text in explain(invalid, model))


def suggest(name: object, known: Iterable[str]) -> str:
    """Return ``; did you mean '...'?`` if a known name is like this one, else nothing."""
    spelled = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).lower(), spelled, n=1, cutoff=LIKENESS)
    return f"; did you mean '{spelled[close[0]]}'?" if close else ""


def it_has(name: object, known: Collection[str]) -> str:
    """Return the end of a message that there is nothing of a name: the name that is like it, and all that there are."""
    return f"{suggest(name, known)}; it has {', '.join(known) or 'none'}"


def show(value: object) -> str:
    """Return a value of the configuration as a message quotes it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _explain(kind: Any, errors: Iterable[_Located], *, at: KeyPath, tag: Any = None) -> Iterator[_Found]:
    """Word pydantic's errors about a value, which should be of this kind; a tag tells a union's members apart."""
    kind, tag, members = _unwrap(kind, tag)
    below: dict[int | str, list[_Located]] = {}
    for rest, error in errors:
        if not rest or rest == ("[key]",):
            yield *_word(error, at), None
        elif len(rest) == 1 and error["type"] == "missing":
            if field := getattr(kind, "model_fields", {}).get(rest[0]):
                yield at, f"missing key '{rest[0]}'", ((*at, str(rest[0])), example_of(field.annotation, field))
            else:
                yield at, f"missing item {rest[0]}", None
        elif len(rest) == 1 and error["type"] == "extra_forbidden":
            known = list(getattr(kind, "model_fields", ()))
            others = f"; expected one of {', '.join(map(repr, known))}" if known else ""
            yield (*at, str(rest[0])), f"unknown key{suggest(rest[0], known) or others}", None
        else:
            below.setdefault(rest[0], []).append((rest[1:], error))
    if not members:
        for part, group in below.items():
            child, child_tag = _child(kind, part)
            yield from _explain(child, group, at=(*at, str(part)), tag=child_tag)
    elif tag:
        for value, group in below.items():
            yield from _explain(_tagged(members, tag, value), group, at=at)
    elif below:
        yield from _closest(members, list(below.values()), at=at)


def _unwrap(kind: Any, tag: Any) -> tuple[Any, Any, list[Any]]:
    """Return a type without its wrappers and None, the tag of its union, and the members if it is a union."""
    while True:
        if get_origin(kind) is Annotated:
            tag = next((found for extra in kind.__metadata__ if (found := getattr(extra, "discriminator", None))), tag)
            kind = kind.__origin__
        elif hasattr(kind, "__value__"):  # type X = ...
            kind = kind.__value__
        elif isinstance(kind, type) and issubclass(kind, RootModel):
            kind = kind.model_fields["root"].annotation
        elif get_origin(kind) in {Union, UnionType}:
            members = [member for member in get_args(kind) if member is not NoneType]
            if len(members) > 1:
                return kind, tag, members
            kind = members[0]
        else:
            return kind, tag, []


def _child(kind: Any, part: int | str) -> tuple[Any, Any]:
    """Return the type of one part of a model, mapping or list, and the tag of its union."""
    origin, args = get_origin(kind) or kind, get_args(kind)
    if isinstance(origin, type) and issubclass(origin, BaseModel):
        field = origin.model_fields.get(str(part))
        return (field.annotation, field.discriminator) if field else (Any, None)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return (args[1] if len(args) == 2 else Any), None
    if origin is tuple and ... not in args:
        return (args[part] if isinstance(part, int) and part < len(args) else Any), None
    return (args[0] if args else Any), None


def _tagged(members: list[Any], tag: Any, value: object) -> Any:
    for member in members:
        field = getattr(_unwrap(member, None)[0], "model_fields", {}).get(tag)
        if field and value in get_args(field.annotation):
            return member
    return Any


def _closest(members: list[Any], groups: list[list[_Located]], *, at: KeyPath) -> Iterator[_Found]:
    """Word the errors of a union, of which each member has a group, by the member that was probably meant."""
    kinds = members if len(members) == len(groups) else [Any] * len(groups)
    entered = [pair for pair in zip(kinds, groups, strict=True) if any(rest for rest, _ in pair[1])]
    if entered:
        kind, group = min(entered, key=lambda pair: len(pair[1]))
        yield from _explain(kind, group, at=at)
        return
    errors = [error for group in groups for _, error in group]
    refused = [error for error in errors if not _expected(error)]
    if refused:  # the right type, but out of range
        yield *_word(refused[0], at), None
        return
    expected = dict.fromkeys(str(_expected(error)) for error in errors)
    yield at, f"expected {' or '.join(expected)}, got {show(errors[0]['input'])}{_correct(errors)}", None


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "none_required": "nothing",
    **dict.fromkeys(("list", "tuple", "set", "frozen_set"), "a list"),
    **dict.fromkeys(("dict", "mapping", "model"), "a mapping"),
}
_LIMITS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "finite",
}


def _word(error: ErrorDetails, at: KeyPath) -> _Problem:
    code, got, details = error["type"], show(error["input"]), error.get("ctx", {})
    if code.startswith("union_tag_"):
        key = str(details["discriminator"]).strip("'")
        if code == "union_tag_not_found":
            return at, f"missing key '{key}'"
        at, got = (*at, key), show(details["tag"])
    if expected := _expected(error):
        return at, f"expected {expected}, got {got}{_correct([error])}"
    if code in _LIMITS:
        whole = {name: int(limit) for name, limit in details.items() if isinstance(limit, float) and limit.is_integer()}
        return at, f"must be {_LIMITS[code].format(**{**details, **whole})}, got {got}"
    if code in {"too_short", "too_long"}:
        side, limit = ("least", details["min_length"]) if code == "too_short" else ("most", details["max_length"])
        return at, f"expected at {side} {limit} item{'' if limit == 1 else 's'}, got {details['actual_length']}"
    if code in {"value_error", "assertion_error"}:
        # A check of a whole section begins with the key that it blames, which may be one of several.
        text = str(details["error"])
        key, _, rest = text.partition(": ")
        return ((*at, key), rest) if isinstance(error["input"], dict) and key in error["input"] else (at, text)
    return at, f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {got}"


def _expected(error: ErrorDetails) -> str | None:
    choices = _choices(error)
    if choices:
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return _TYPES.get(re.sub(r"_(type|parsing)$", "", error["type"]))


def _choices(error: ErrorDetails) -> list[str]:
    details = error.get("ctx", {})
    listed = details.get("expected_tags", details.get("expected", ""))
    return [choice for choice in re.findall(r"'[^']*'|[^\s,]+", str(listed)) if choice != "or"]


def _correct(errors: list[ErrorDetails]) -> str:
    """Return '; did you mean ...?' if one of the errors about a value shows what was meant, else ''."""
    value = errors[0].get("ctx", {}).get("tag", errors[0]["input"])
    codes = {error["type"] for error in errors}
    if isinstance(value, str):
        if "bool_type" in codes and value.lower() in {"yes", "no", "on", "off"}:
            return f"; did you mean {'true' if value.lower() in {'yes', 'on'} else 'false'}?"
        return suggest(value, [choice.strip("'") for error in errors for choice in _choices(error)])
    if isinstance(value, float) and value.is_integer() and "int_type" in codes:
        return f"; did you mean {value:.0f}?"
    return "; in quotes it is text" if "string_type" in codes and isinstance(value, int | float) else ""
