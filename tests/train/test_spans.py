"""Spans with the features of all teachers, against the store read row by row."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from train.order import BatchOrder, draw_teacher
from train.spans import AllFeaturesReader, Spans

SEED = 11


@pytest.fixture
def store(make_store):
    return make_store()


def order_of(store):
    rows = np.flatnonzero(store.available("all").any(axis=1))
    return BatchOrder(rows, seed=SEED, batch_size=8, block_rows=8, window_blocks=2)


@pytest.mark.parametrize("span_steps", [1, 2, 3, 20])
def test_a_batch_has_the_features_of_all_teachers_and_the_drawn_one(store, span_steps):
    available_NT, order = store.available("all"), order_of(store)
    reader = AllFeaturesReader(store, teachers=store.teachers, available_NT=available_NT, seed=SEED)
    spans = islice(Spans(order, reader, span_steps=span_steps), -(-18 // span_steps))
    batches = [batch for span in spans for batch in span]
    assert len(batches) >= 18
    for step, batch in enumerate(batches):
        rows, epoch = order[step], order.epoch(step)
        np.testing.assert_array_equal(batch.available_BT, available_NT[rows])
        np.testing.assert_array_equal(batch.drawn_B, draw_teacher(available_NT[rows], rows, seed=SEED, epoch=epoch))
        for teacher in store.teachers:
            np.testing.assert_array_equal(batch.image[teacher], store.read(rows, teacher=teacher, side="image"))
            np.testing.assert_array_equal(batch.text[teacher], store.read(rows, teacher=teacher, side="text"))
