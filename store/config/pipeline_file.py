"""Reads one pipeline of a YAML file into a pydantic model and reports every problem at once, by file, line and key.

Knows no program's sections.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import to_jsonable_python

from store.errors import ConfigError, LocationError, printable
from store.files import tidy
from store.io.location import require_no_credentials

from .missing import to_add
from .problems import explain, lacking, show, suggest
from .yaml_tree import KeyPath, Tree, describe, parse

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no changes, no conversion except of whole numbers to numbers.

    Numbers are finite.

    Defaults are validated too. A path is a `ConfigPath` (a ``pathlib.Path`` cannot have a default), a list a tuple.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)


def resolve_path(value: str, info: ValidationInfo) -> str:
    """Return a `ConfigPath`; raises ValueError where there can be none."""
    if not value:
        raise ValueError("expected a path or URL, got ''")
    if "\0" in value:
        raise ValueError("no path holds a NUL")
    if "://" in value:
        try:
            require_no_credentials(value)
        except LocationError as error:
            raise ValueError(f"{error}; {error.hint}") from None
        if value.startswith("file://") and not value.startswith("file:///"):
            raise ValueError(f"a URL of the scheme file has a whole path, as file:///data/store, got '{value}'")
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no such home folder, got '{value}'") from None
    return str(tidy(info.context["folder"] / path)) if info.context else str(path)


ConfigPath = Annotated[str, AfterValidator(resolve_path)]
"""A path, made absolute from the YAML file's folder and tidy, with ``~`` expanded; or a URL, left as it is.

A default is resolved as well, unless it lies in a section that is itself a default.
"""

Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]
"""A number of 64 bits that decides what is drawn at random."""


def read_pipeline(path: Path, name: str, model: type[M], *, overrides: Sequence[str] = ()) -> M:
    """Return one pipeline of a file, validated.

    Args:
        path: the YAML file, which maps pipeline names to sections; names with a leading ``.`` or ``x-`` hold anchors.
        overrides: settings such as ``train.lr=3e-4``, applied before validation. The value is YAML; a number in the
            key is a position in a list.

    Raises:
        ConfigError: with one line per problem, in the order of the file.
    """
    tree = _load(path, expected="a mapping of pipeline names to sections", hint="name the file with --config")
    known = [key for key in tree.data if not key.startswith((".", "x-"))]
    if name not in known:
        names = ", ".join(f"'{printable(key)}'" for key in known) or "none"
        raise ConfigError(
            f"{path}: no pipeline '{printable(name)}'{suggest(name, known)}; the file has {names}",
            hint="if it is in another file, name that with --config",
        )
    problems: list[tuple[float, str]] = []
    values, settings = tree.data[name], []
    for text in overrides:
        try:
            setting = _parse_setting(text)
            values = _replace(values, setting.at, setting.value)
            settings.append(setting)
        except ConfigError as error:
            problems.append((math.inf, f"--set {text}: {error}"))
    return _validated(path, tree, (name,), values, model, problems=problems, settings=settings)


def read_section(path: Path, model: type[M], *, check: Callable[[M], Iterable[tuple[KeyPath, str]]] | None = None) -> M:
    """Return a file that holds one section and nothing else, validated.

    Args:
        check: yields the key path and wording of problems that only the whole shows; asked once each key is right.

    Raises:
        ConfigError: with one line per problem, in the order of the file.
    """
    tree = _load(path, expected="a mapping")
    valid = _validated(path, tree, (), tree.data, model, problems=[], settings=[])
    found = [(tree.find(at)[0], ".".join(at), text) for at, text in (check(valid) if check else ())]
    if found:
        raise ConfigError("\n".join(f"{path}:{line}: {key and key + ': '}{text}" for line, key, text in sorted(found)))
    return valid


def _validated(
    path: Path,
    tree: Tree,
    prefix: KeyPath,
    values: Any,
    model: type[M],
    *,
    problems: list[tuple[float, str]],
    settings: Sequence[_Setting],
) -> M:
    """Return the value at a key path of a file as a model, or raise all problems, those found before included."""
    for line, at, first in tree.duplicates:
        key = printable(".".join(at[len(prefix) :] or at))
        problems.append((line, f"{path}:{line}: {key}: duplicate key, first on line {first}"))
    hint = None
    try:
        # In JSON mode strict validation accepts a list as a tuple and text as an enum, but still not '3' as 3.
        valid = model.model_validate_json(json.dumps(values), context={"folder": path.parent.absolute()})
    except ValidationError as invalid:
        for at, text in explain(invalid, model):
            line, in_file = tree.find((*prefix, *at))
            blamed = next((setting for setting in reversed(settings) if setting.explains(at, in_file=in_file)), None)
            place = f"--set {blamed.text}" if blamed else f"{path}:{line}"
            key = f"{printable('.'.join(at))}: " if at else ""
            problems.append((math.inf if blamed else line, f"{place}: {key}{text}"))
        lacks = [((*prefix, *at), value) for at, value in lacking(invalid, model) if prefix and not _in_a_list(at)]
        hint = to_add(*lacks) if lacks else None
    else:
        if not problems:
            return valid
    raise ConfigError("\n".join(text for _, text in sorted(problems, key=lambda problem: problem[0])), hint=hint)


def dump_resolved(model: BaseModel) -> str:
    """Return a configuration as JSON with sorted keys, to lie beside what it produced."""

    def plain(value: object) -> Any:
        bare = to_jsonable_python(value)
        # Sets have another order in every process.
        return sorted(bare, key=repr) if isinstance(value, set | frozenset) else bare

    return json.dumps(model.model_dump(), default=plain, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def _load(path: Path, *, expected: str, hint: str | None = None) -> Tree:
    try:
        tree = parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint=hint) from None
    except yaml.YAMLError as error:
        place, reason = describe(error)
        raise ConfigError(f"{path}{place and ':'}{place}: not YAML: {reason}") from None
    if not isinstance(tree.data, dict):
        raise ConfigError(f"{path}:1: expected {expected}, got {show(tree.data)}")
    return tree


class _Setting(NamedTuple):
    """A ``--set`` option as written, its key path and its value."""

    text: str
    at: KeyPath
    value: Any

    def explains(self, at: KeyPath, *, in_file: bool) -> bool:
        """Return whether this setting gave the value at a key path, or a part of it that the file lacks."""
        return at[: len(self.at)] == self.at or (not in_file and self.at[: len(at)] == at)


def _parse_setting(text: str) -> _Setting:
    key, equals, value = text.partition("=")
    at = tuple(key.strip().split("."))
    if not equals or not all(at):
        raise ConfigError("expected a key and a value, as in train.lr=3e-4")
    try:
        tree = parse(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {describe(error)[1]}") from None
    if tree.duplicates:
        raise ConfigError(f"{'.'.join(tree.duplicates[0][1])}: duplicate key")
    return _Setting(text, at, tree.data)


def _replace(values: Any, at: KeyPath, new: Any) -> Any:
    # Copies what it changes: anchors make several keys share one object.
    if not at:
        return new
    key, rest = at[0], at[1:]
    if isinstance(values, list):
        if not key.isdecimal() or int(key) >= len(values):
            raise ConfigError(f"expected a position below {len(values)} in a list, got '{key}'")
        return [_replace(item, rest, new) if number == int(key) else item for number, item in enumerate(values)]
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"'{key}' needs a mapping to be in, got {show(values)}")
    return {**(values or {}), key: _replace((values or {}).get(key), rest, new)}


def _in_a_list(at: KeyPath) -> bool:
    """Return whether a key path leads through a list, of which no lines can be shown alone."""
    return any(str(part).isdecimal() for part in at)
