from __future__ import annotations

import json
import math
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from store.config.yaml_tree import describe, parse

SCALARS = {
    "1e-4": 1e-4,
    "1E5": 1e5,
    "-.5": -0.5,
    "3.": 3.0,
    "010": 10,
    "-7": -7,
    "0o17": 15,
    "0x1F": 31,
    ".inf": math.inf,
    "-.Inf": -math.inf,
    "true": True,
    "FALSE": False,
    "~": None,
    "": None,
    "Null": None,
    "no": "no",
    "on": "on",
    "y": "y",
    "12:30": "12:30",
    "1_000": "1_000",
    "0b11": "0b11",
    "2026-01-31": "2026-01-31",
    "'1'": "1",
    "!!str 1": "1",
    "!!float 1": 1.0,
    "=": "=",
    "v1.5": "v1.5",
    "1e": "1e",
    ".": ".",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_follow_the_core_schema_of_yaml_1_2(text, value):
    (found,) = parse(f"[{text}]" if text else "[null]").data
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_as_written():
    assert parse("{no: 1, 010: 2, 1e3: 3, ~: 4}").data == {"no": 1, "010": 2, "1e3": 3, "~": 4}


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_text_has_no_data(text):
    assert parse(text) == (None, (), None)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("demo:\n  a: [1, 2\n  b: 3\n", "3:4: "),
        ("demo:\n\ta: 1\n", "2:1: "),
        ("demo: *nothing\n", "1:7: "),
        ("demo: {}\n---\nmmkd: {}\n", "2:1: "),
        ("demo: !!python/object/apply:os.getcwd []\n", "1:7: "),
        ("demo: !!timestamp 2026-01-31\n", "1:7: "),
        ("demo: !!int twelve\n", "1:7: 'twelve' is not !!int"),
        ("demo: !!bool maybe\n", "1:7: 'maybe' is not !!bool"),
        ("demo: !!map text\n", "1:7: expected a mapping"),
        ("demo: {[a, b]: 1}\n", "1:8: expected a name as the key"),
        ("demo: &a {b: *a}\n", "1:7: an alias stands for a value that it lies in"),
        ("demo: &a [*a]\n", "1:7: an alias stands for a value that it lies in"),
        ("demo: {<<: 3}\n", "1:12: "),
        (b"demo: \xff\n", ": "),
        (b"demo: \x07\n", ": "),
    ],
)
def test_what_is_no_yaml_is_refused_with_line_and_column(text, place):
    with pytest.raises(yaml.YAMLError) as raised:
        parse(text)
    where, reason = describe(raised.value)
    assert f"{where}: {reason}".startswith(place)
    assert reason
    assert "\n" not in reason


def test_duplicate_keys_are_found_at_any_depth_with_both_lines():
    tree = parse("a: 1\nb:\n  - {c: 1, c: 2}\n  - x: &anchor\n      d: 1\n      d: 2\na: *anchor\n")
    assert tree.duplicates == ((3, ("b", "0", "c"), 3), (6, ("b", "1", "x", "d"), 5), (7, ("a",), 1))


def test_a_key_that_overrides_a_merged_one_is_no_duplicate():
    tree = parse("base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n")
    assert tree.duplicates == ()
    assert tree.data["other"] == {"a": 1, "b": 3}


TREE = parse("""\
x: &x
  a: 1
y:
  <<: *x
  b:
    - c: 2
    - {d: 3}
  a: 4
z: *x
""")


@pytest.mark.parametrize(
    ("at", "found"),
    [
        ((), (1, True)),
        (("y",), (3, True)),
        (("y", "b", "0", "c"), (6, True)),
        (("y", "b", "1"), (7, True)),
        (("y", "a"), (8, True)),
        (("z",), (9, True)),
        (("z", "a"), (2, True)),
        (("y", "b", "2"), (5, False)),
        (("y", "b", "first"), (5, False)),
        (("y", "c", "d"), (3, False)),
        (("y", "a", "deeper"), (8, False)),
        (("nothing",), (1, False)),
    ],
)
def test_a_key_path_is_found_on_the_line_of_its_key(at, found):
    assert TREE.find(at) == found


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.text(string.printable))
def test_what_json_writes_reads_back_as_it_was(number, whole, text):
    values = {"number": number, "whole": whole, "text": {"text": text}}
    assert parse(json.dumps(values)).data == values


def test_aliases_stand_for_a_bounded_number_of_values():
    laughs = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(yaml.YAMLError) as caught:
        parse("\n".join(laughs))
    place, problem = describe(caught.value)
    assert place.startswith("6:")
    assert problem == "aliases make more than 500000 values"
    few = parse("\n".join(laughs[:3]))
    assert few.data["a2"][8][8] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_merged_mappings_count_too():
    laughs = ["a0: &a0 {x: 1}"]
    laughs += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    with pytest.raises(yaml.YAMLError, match="aliases make more than"):
        parse("\n".join(laughs))


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: {c: [*x]}}", "&x {<<: *x}"])
def test_an_alias_inside_its_own_value_is_refused(text):
    with pytest.raises(yaml.YAMLError) as caught:
        parse(text)
    assert describe(caught.value)[1] == "an alias stands for a value that it lies in"


@pytest.mark.parametrize("depth", [51, 500, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("[{? [", "]}]")])
def test_nesting_has_a_bound(opening, closing, depth):
    with pytest.raises(yaml.YAMLError) as caught:
        parse("x: " + opening * depth + closing * depth)
    place, problem = describe(caught.value)
    assert place.startswith("1:")
    assert problem == "mappings and lists lie more than 50 deep inside each other"


def test_indented_nesting_has_a_bound():
    text = "\n".join(" " * depth + "a:" for depth in range(500))
    with pytest.raises(yaml.YAMLError) as caught:
        parse(text)
    assert describe(caught.value)[0].startswith("50:")


def test_a_document_and_a_number_have_a_bound():
    with pytest.raises(yaml.YAMLError, match="has more than 4194304 bytes"):
        parse(b"#" * (4 * 2**20 + 1))
    with pytest.raises(yaml.YAMLError) as caught:
        parse("a: " + "7" * 5000)
    assert len(describe(caught.value)[1]) < 200
