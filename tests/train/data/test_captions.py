"""Captions that stay in Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from tests.train.vit import tokenizer
from train.data.captions import Captions, Tokens

TEXTS = ["a lung", None, "", "two cysts", "Ångström", "last"]


def test_captions_are_those_of_the_column_with_empty_ones_for_what_is_missing():
    captions = Captions(pa.chunked_array([TEXTS[:2], TEXTS[2:]], pa.string()))
    assert list(captions) == ["a lung", "", "", "two cysts", "Ångström", "last"]
    assert captions[np.int64(3)] == "two cysts"
    assert len(captions) == 6


def test_captions_of_some_rows_are_those_in_that_order_also_of_a_part():
    captions = Captions(pa.chunked_array([TEXTS], pa.string())).of(np.array([5, 0, 3]))
    assert list(captions) == ["last", "a lung", "two cysts"]
    assert list(captions[1:]) == ["a lung", "two cysts"]
    assert list(captions.of(np.array([2, 0]))) == ["two cysts", "last"]


def test_tokens_know_how_many_columns_are_no_padding_also_of_a_part():
    tokens = Tokens.of(["nodule", "normal brain", "a cyst"], tokenizer())
    assert tokens.ids_BL.shape == (3, 12)
    for ids_L, length in zip(tokens.ids_BL, tokens.lengths_B.tolist(), strict=True):
        assert ids_L[length - 1] == 3  # the end of a caption
        assert not ids_L[length:].any()
    part = tokens.part(1, 3)
    assert torch.equal(part.ids_BL, tokens.ids_BL[1:])
    assert torch.equal(part.lengths_B, tokens.lengths_B[1:])
