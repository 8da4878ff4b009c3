from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from store import errors
from store.errors import MMKDError, PairDecodeError, shortened

TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, MMKDError)]


def parent_in_the_tree(cls: type) -> type | None:
    return next((base for base in cls.__bases__ if issubclass(base, MMKDError)), None)


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Name -> (parent, built-in parent), read from the drawing in the module's docstring."""
    drawn: dict[str, tuple[str | None, str | None]] = {}
    open_branches: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        entry = re.match(r"( +)((?:│   |    )*(?:[├└]── )?)(\w+)(?: \((\w+)\))?(?:  .*)?$", line)
        if entry is None:
            continue
        depth = len(entry[1] + entry[2])
        while open_branches and open_branches[-1][0] >= depth:
            open_branches.pop()
        drawn[entry[3]] = (open_branches[-1][1] if open_branches else None, entry[4])
        open_branches.append((depth, entry[3]))
    return drawn


def test_the_tree_is_as_drawn_in_the_docstring():
    actual = {}
    for cls in TREE:
        parent = parent_in_the_tree(cls)
        foreign = [base.__name__ for base in cls.__bases__ if base is not parent and base is not Exception]
        actual[cls.__name__] = (parent.__name__ if parent else None, foreign[0] if foreign else None)
    assert drawn_tree() == actual
    assert len(actual) == 19


@pytest.mark.parametrize("cls", TREE)
@pytest.mark.parametrize("hint", [None, "python -m store check runs/demo/store"])
def test_an_error_survives_pickling_with_message_and_hint(cls, hint):
    error = cls("runs/demo/store: what was wrong\nand a second line", hint=hint)
    error.add_note("while reading range 3")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(again) is cls
        text = "runs/demo/store: what was wrong\nand a second line"
        assert str(again) == (shortened(text) if cls is PairDecodeError else text)
        assert again.hint == hint
        assert again.__notes__ == ["while reading range 3"]


@pytest.mark.parametrize("cls", TREE)
def test_the_hint_is_optional_and_named(cls):
    assert cls("message").hint is None
    with pytest.raises(TypeError, match="positional"):
        cls("message", "hint")


@pytest.mark.parametrize(
    ("name", "built_in"),
    [
        ("ConfigError", ValueError),
        ("StoreNotFoundError", FileNotFoundError),
        ("WeightsNotFoundError", FileNotFoundError),
    ],
)
def test_code_that_knows_only_the_built_in_errors_catches_ours(name, built_in):
    cls = getattr(errors, name)
    with pytest.raises(built_in, match=r"^here: nothing$"):
        raise cls("here: nothing", hint="look there")
