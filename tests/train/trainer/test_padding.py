"""Gradients of captions without their padding, against those of the padded batch, in every way to a gradient."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.train.vit import some_batch, vit_student
from train.config import Optimization
from train.data.captions import Tokens
from train.losses.objective import TaskObjective
from train.models.towers import prepare_towers
from train.runtime.ranks import ALONE
from train.trainer.train_step import Updater

CAPTIONS = ["cyst", "a kidney stone and a cyst", "normal brain", "", "nodule", "two stones", "a b c d e f g h i j", "x"]

WAYS = {
    "plain": {},
    "parts": {"accumulate": 2},
    "cached": {"cached_rows": 3},
    "checkpointing": {"gradient_checkpointing": True},
    "cached and checkpointing": {"cached_rows": 4, "gradient_checkpointing": True},
}


def gradients(folder, *, padded, **settings):
    """Return gradients and loss, and the share of columns that were computed."""
    student = vit_student(folder)
    settings = Optimization(steps=9, batch_size=8, lr=1e-3, **settings)
    towers = prepare_towers(student, settings)
    if padded:
        towers._cuts, towers._text = False, student.model.encode_text
    batch = dataclasses.replace(some_batch(8), tokens=Tokens.of(CAPTIONS, student.tokenizer))
    terms = Updater(towers, TaskObjective(), settings, ALONE).gradients(batch)
    found = {name: weight.grad.clone() for name, weight in student.model.named_parameters()}
    return found, terms["loss"], towers.columns.share()


def assert_equal_up_to_rounding(found, expected):
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        # A gradient that is 0 but for rounding, as that of an attention's key bias, is compared with the others.
        assert float((found[name] - gradient).norm()) <= 1e-5 * max(float(gradient.norm()), 0.01 * largest), name


@pytest.mark.parametrize("way", WAYS)
def test_gradients_without_padding_are_those_of_the_padded_batch(tmp_path, way):
    # Caching reorders the batch too, so that its reference is the plain way.
    reference = {name: value for name, value in WAYS[way].items() if name != "cached_rows"}
    expected, loss, share = gradients(tmp_path, padded=True, **reference)
    assert share == 1
    found, found_loss, share = gradients(tmp_path, padded=False, **WAYS[way])
    assert share < 0.65
    torch.testing.assert_close(found_loss, loss, rtol=1e-5, atol=0)
    assert_equal_up_to_rounding(found, expected)


@pytest.mark.fault  # compiling takes a minute
def test_gradients_of_compiled_parts_are_those_of_the_padded_batch(tmp_path):
    expected, _, _ = gradients(tmp_path, padded=True)
    found, _, share = gradients(tmp_path, padded=False, compile=True)
    assert share < 0.65
    assert_equal_up_to_rounding(found, expected)


def test_pieces_of_a_cached_batch_have_captions_of_like_length(tmp_path):
    """Sorting the batch first computes fewer columns than sorting each piece by itself."""
    _, _, sorted_first = gradients(tmp_path, padded=False, cached_rows=2)
    student = vit_student(tmp_path)
    lengths = Tokens.of(CAPTIONS, student.tokenizer).lengths_B.sort().values
    # A pair of captions shares its columns, as two parts would cost more.
    assert sorted_first == pytest.approx(float(2 * lengths[1::2].sum()) / (8 * 12))
