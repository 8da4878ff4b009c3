"""Captions that stay in Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from train.data.captions import Captions

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
