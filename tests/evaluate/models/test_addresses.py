"""Addresses of models on the command line."""

from __future__ import annotations

import pytest

from evaluate.models.addresses import parse_address, parse_addresses
from store.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "name", "kind", "place", "teacher"),
    [
        ("checkpoint:runs/demo/students/distilled", "distilled", "checkpoint", "runs/demo/students/distilled", None),
        ("local-dir:/models/clip/", "clip", "local-dir", "/models/clip/", None),
        ("teacher:biomedclip", "biomedclip", "teacher", "biomedclip", None),
        ("open_clip:ViT-B-32/openai", "ViT-B-32-openai", "open_clip", "ViT-B-32/openai", None),
        ("store:s3://bucket/store#plip", "plip", "store", "s3://bucket/store", "plip"),
        ("best=local-dir:runs/lr=1e-3/x", "best", "local-dir", "runs/lr=1e-3/x", None),
        ("local-dir:runs/lr=1e-3", "lr=1e-3", "local-dir", "runs/lr=1e-3", None),
        ("store:a#b#plip", "plip", "store", "a#b", "plip"),
    ],
)
def test_an_address_says_what_where_and_how_its_results_are_called(text, name, kind, place, teacher):
    address = parse_address(text)
    assert (address.name, address.kind, address.place, address.teacher) == (name, kind, place, teacher)
    assert address.text == text.removeprefix("best=")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distilled", "'distilled' is no address of a model"),
        ("chekpoint:x", "'chekpoint' is no kind of model; did you mean 'checkpoint'"),
        ("store:runs/store", "does not say which teacher's features"),
        ("store:#plip", "does not say which teacher's features"),
        ("open_clip:ViT-B-32", "has no tag"),
        ("local-dir:", "names nothing"),
    ],
)
def test_what_is_no_address_is_refused_with_the_forms_there_are(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_address(text)
    assert caught.value.hint


def test_two_models_of_the_same_name_are_refused_with_how_to_name_one():
    with pytest.raises(ConfigError, match=r"checkpoint:a/x and checkpoint:b/x are both called 'x'") as caught:
        parse_addresses(["checkpoint:a/x", "teacher:y", "checkpoint:b/x"])
    assert "OTHER=checkpoint:b/x" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["oracle", "own-features"])
def test_a_name_of_other_results_is_no_name_of_a_model(name):
    with pytest.raises(ConfigError, match=f"no model may be called {name}"):
        parse_addresses([f"{name}=checkpoint:a/x"])
