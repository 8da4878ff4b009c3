"""The share of a batch that each process works on."""

from __future__ import annotations

import numpy as np
import pytest

from train.data.batch_order import BatchOrder, ShareOrder


@pytest.fixture
def order():
    return BatchOrder(np.arange(50), seed=3, batch_size=12, block_rows=4, window_blocks=3)


@pytest.mark.parametrize(("world_size", "parts"), [(1, 1), (2, 1), (3, 2), (2, 3), (4, 3)])
def test_processes_share_each_part_of_a_batch_evenly(order, world_size, parts):
    for step in range(6):
        shares = [
            ShareOrder(order, rank=rank, world_size=world_size, parts=parts)[step].reshape(parts, -1)
            for rank in range(world_size)
        ]
        together = np.concatenate(shares, axis=1)
        np.testing.assert_array_equal(together, order[step].reshape(parts, -1))


def test_an_order_may_begin_at_any_step_of_a_run(order):
    share = ShareOrder(order, first_step=100, first=order.steps_per_epoch * 2)
    np.testing.assert_array_equal(share[101], order[order.steps_per_epoch * 2 + 1])
    assert share.epoch(100) == 2
    assert share.epoch(100 + order.steps_per_epoch) == 3
