"""Teachers that encode images alone, on disk: the spec and what a program that does not know of them makes of it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from store.format.records import SIDES, Spec
from tests.store.make_fixture import spec as fixture_spec

HASH_BEFORE_SIDES = "3958f30ed4a68a2e4bb8fcefcb9b9cbf9da6d8d977f4d4b65b01fd538a4e2f55"
"""Spec hash of the fixture's teacher ``alpha``, written before specs had ``sides``."""


def one_sided(**changes):
    return Spec(**{**fixture_spec("alpha").model_dump(), "sides": ["image"], **changes})


def test_a_spec_of_both_sides_has_the_hash_and_the_bytes_that_it_had_before():
    spec = fixture_spec("alpha")
    assert spec.sides == SIDES
    assert spec.hash == HASH_BEFORE_SIDES
    assert "sides" not in spec.model_dump(mode="json")
    assert Spec(**spec.model_dump(), sides=["image", "text"]).hash == HASH_BEFORE_SIDES


def test_one_side_is_in_the_file_and_in_the_hash():
    spec = one_sided()
    assert spec.model_dump(mode="json")["sides"] == ["image"]
    assert spec.hash != HASH_BEFORE_SIDES
    assert Spec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.difference(fixture_spec("alpha")) == ["sides: ('image',) here, ('image', 'text') there"]


@pytest.mark.parametrize("sides", [[], ["text"], ["text", "image"], ["image", "image"]])
def test_other_sides_are_refused_by_name(sides):
    with pytest.raises(ValidationError, match=r"encodes both sides, \['image', 'text'\], or \['image'\] alone, not"):
        one_sided(sides=sides)
