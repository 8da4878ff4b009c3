from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.batch_order import BatchOrder, epoch_order, for_rank, lanes_of

row_sets = st.sets(st.integers(0, 2_000), max_size=200).map(lambda rows: np.array(sorted(rows), dtype=np.int64))
seeds = st.integers(0, 2**64 - 1)
layouts = st.fixed_dictionaries(
    {"block_rows": st.integers(1, 50), "window_blocks": st.integers(1, 8), "lanes": st.integers(1, 5)}
)
no_deadline = settings(deadline=None)
PINNED_ORDER = [5, 4, 3, 0, 2, 1, 11, 6, 10, 7, 9, 8]
LAYOUT = {"block_rows": 16, "window_blocks": 4}


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


@no_deadline
@given(rows=row_sets, seed=seeds, epoch=st.integers(0, 2**56 - 1), layout=layouts)
def test_an_epoch_is_a_permutation_of_the_rows(rows, seed, epoch, layout):
    order = epoch_order(rows, seed=seed, epoch=epoch, **layout)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), rows)


@no_deadline
@given(rows=row_sets, seed=seeds, layout=layouts, shuffle_seed=st.integers(0, 2**32))
def test_the_order_depends_on_the_set_of_rows_only(rows, seed, layout, shuffle_seed):
    given_otherwise = np.random.default_rng(shuffle_seed).permutation(rows)
    kept = given_otherwise.copy()
    order = epoch_order(given_otherwise, seed=seed, epoch=3, **layout)
    assert np.array_equal(order, epoch_order(rows, seed=seed, epoch=3, **layout))
    assert np.array_equal(given_otherwise, kept)


@no_deadline
@given(rows=row_sets, seed=seeds, layout=layouts)
def test_a_lane_never_has_more_chunks_open_than_a_window_holds(rows, seed, layout):
    order = epoch_order(rows, seed=seed, epoch=0, **layout)
    lane_rows = len(rows) // layout["lanes"]
    for lane in range(layout["lanes"]):
        _check_open_chunks(order[lane * lane_rows : (lane + 1) * lane_rows], layout)


def _check_open_chunks(order, layout):
    blocks = order // layout["block_rows"]
    spans = [np.flatnonzero(blocks == block)[[0, -1]] for block in np.unique(blocks)]
    open_chunks = [sum(first <= position <= last for first, last in spans) for position in range(len(blocks))]
    assert max(open_chunks, default=0) <= layout["window_blocks"]


def test_rows_of_different_chunks_are_mixed_and_epochs_differ():
    rows = np.arange(4096)
    first, second = (epoch_order(rows, seed=1, epoch=epoch, **LAYOUT) for epoch in (0, 1))
    assert np.mean(first == second) < 0.01
    neighbours_of_one_chunk = np.mean(first[1:] // 16 == first[:-1] // 16)
    assert neighbours_of_one_chunk == pytest.approx(1 / 4, abs=0.03)
    chunks_of_a_window = [len(np.unique(first[start : start + 64] // 16)) for start in range(0, 4096, 64)]
    assert set(chunks_of_a_window) == {4}


def test_every_chunk_comes_at_every_place_equally_often():
    rows = np.arange(8)
    places = np.zeros((8, 8))
    for epoch in range(2_000):
        places[epoch_order(rows, seed=2, epoch=epoch, block_rows=1, window_blocks=1), np.arange(8)] += 1
    # 49 degrees of freedom: the 0.9999 quantile is 93.2.
    assert chi_square(places, 2_000 / 8) < 93.2


def test_the_order_is_the_same_in_every_version():
    order = epoch_order(np.arange(12), seed=7, epoch=2, block_rows=3, window_blocks=2)
    assert order.tolist() == PINNED_ORDER


def test_a_repeated_row_and_a_senseless_argument_are_refused():
    with pytest.raises(ValueError, match="rows must be distinct"):
        epoch_order(np.array([1, 2, 1]), seed=0, epoch=0, **LAYOUT)
    with pytest.raises(ValueError, match="block_rows, window_blocks and lanes must be positive, got 0, 4 and 1"):
        epoch_order(np.arange(4), seed=0, epoch=0, block_rows=0, window_blocks=4)
    with pytest.raises(ValueError, match="seed must be from 0"):
        epoch_order(np.arange(4), seed=-1, epoch=0, **LAYOUT)
    with pytest.raises(ValueError, match="epoch must be from 0"):
        epoch_order(np.arange(4), seed=0, epoch=2**56, **LAYOUT)


@no_deadline
@given(
    rows=row_sets.filter(lambda rows: len(rows) > 0),
    seed=seeds,
    layout=layouts,
    share=st.floats(0.01, 1),
    start=st.integers(0, 40),
)
def test_resuming_gives_the_same_tail_across_epochs(rows, seed, layout, share, start):
    layout = layout | {"lanes": min(layout["lanes"], len(rows))}
    batch_size = max(1, int(len(rows) * share) // layout["lanes"]) * layout["lanes"]
    arguments = {"seed": seed, "batch_size": batch_size, **layout}
    whole = dict(islice(BatchOrder(rows, **arguments).steps(), start + 10))
    resumed = dict(islice(BatchOrder(rows, **arguments).steps(start), 10))
    assert list(resumed) == list(range(start, start + 10))
    assert all(np.array_equal(batch, whole[step]) for step, batch in resumed.items())


def test_steps_run_through_epoch_after_epoch():
    rows = np.arange(100, 203)
    order = BatchOrder(rows, seed=5, batch_size=10, **LAYOUT)
    assert order.steps_per_epoch == 10
    for epoch in range(3):
        steps = range(epoch * 10, epoch * 10 + 10)
        assert {order.epoch(step) for step in steps} == {epoch}
        whole = np.concatenate([order[step] for step in steps])
        assert np.array_equal(whole, epoch_order(rows, seed=5, epoch=epoch, **LAYOUT)[:100])


def test_steps_in_any_sequence_give_the_same_batches():
    arguments = {"seed": 6, "batch_size": 7, **LAYOUT}
    forward = BatchOrder(np.arange(50), **arguments)
    expected = [forward[step] for step in range(40)]
    jumping = BatchOrder(np.arange(50), **arguments)
    for step in np.random.default_rng(0).permutation(40):
        assert np.array_equal(jumping[int(step)], expected[step])


def test_the_orders_of_two_epochs_are_kept_for_a_reader_that_is_ahead():
    order = BatchOrder(np.arange(50), seed=6, batch_size=10, **LAYOUT)
    behind, ahead = order._epoch_order(0), order._epoch_order(1)
    assert order._epoch_order(0) is behind
    assert order._epoch_order(1) is ahead
    order._epoch_order(2)
    assert order._epoch_order(0) is not behind


def test_writing_into_a_batch_or_the_rows_leaves_the_order_alone():
    rows = np.arange(50)
    order = BatchOrder(rows, seed=6, batch_size=7, **LAYOUT)
    kept = order[0].copy()
    order[0][:] = -1
    rows[:] = -1
    assert np.array_equal(order[0], kept)
    assert order[20].min() >= 0


def test_too_few_rows_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 rows are fewer than one batch of 4; lower the batch size"):
        BatchOrder(np.arange(3), seed=0, batch_size=4, **LAYOUT)
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        BatchOrder(np.arange(3), seed=0, batch_size=0, **LAYOUT)


def test_a_negative_step_is_refused():
    with pytest.raises(IndexError, match="steps count from 0, got -1"):
        BatchOrder(np.arange(8), seed=0, batch_size=4, **LAYOUT)[-1]


@no_deadline
@given(part=st.integers(0, 20), world_size=st.integers(1, 9))
def test_ranks_get_even_disjoint_parts_that_make_up_the_batch(part, world_size):
    batch = np.arange(part * world_size) * 3
    parts = [for_rank(batch, rank, world_size) for rank in range(world_size)]
    assert {len(rows) for rows in parts} == {part}
    assert np.array_equal(np.concatenate(parts), batch)


def test_an_uneven_split_and_an_unknown_rank_are_refused():
    with pytest.raises(ValueError, match="a batch of 10 rows cannot be split evenly over 4 ranks"):
        for_rank(np.arange(10), 0, 4)
    with pytest.raises(ValueError, match="rank must be from 0 to 3, got 4"):
        for_rank(np.arange(8), 4, 4)


@no_deadline
@given(seed=seeds, lanes=st.sampled_from([1, 2, 4, 8]), num_rows=st.integers(64, 300), layout=layouts)
def test_lanes_are_even_and_disjoint_and_whole_lanes_are_a_ranks_part(seed, lanes, num_rows, layout):
    rows = np.arange(num_rows) * 2
    order = BatchOrder(rows, seed=seed, batch_size=16, **layout | {"lanes": lanes})
    whole = epoch_order(rows, seed=seed, epoch=0, **layout | {"lanes": lanes})
    batches = np.stack([order[step] for step in range(order.steps_per_epoch)])
    assert len(np.unique(batches)) == batches.size >= num_rows - 16 - lanes
    per_lane = batches.reshape(len(batches), lanes, -1).transpose(1, 0, 2).reshape(lanes, -1)
    for lane, lane_order in enumerate(per_lane):
        start = lane * (num_rows // lanes)
        assert np.array_equal(lane_order, whole[start : start + per_lane.shape[1]])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batches_are_the_same_for_every_number_of_ranks_and_share_no_whole_chunk(world_size):
    arguments = {"seed": 3, "batch_size": 32, "block_rows": 16, "window_blocks": 2, "lanes": 4}
    order = BatchOrder(np.arange(1024), **arguments)
    per_rank = [BatchOrder(np.arange(1024), **arguments) for _ in range(world_size)]
    chunks = [set() for _ in range(world_size)]
    for step in range(3 * order.steps_per_epoch):
        parts = [for_rank(one[step], rank, world_size) for rank, one in enumerate(per_rank)]
        assert np.array_equal(np.concatenate(parts), order[step])
        if order.epoch(step) == 0:
            for rank, part in enumerate(parts):
                chunks[rank] |= set((part // 16).tolist())
    # 1,024 rows in 64 chunks, dealt out evenly: no chunk lies at the edge of two lanes.
    assert sorted(len(read) for read in chunks) == [64 // world_size] * world_size


@pytest.mark.parametrize(
    ("num_rows", "batch_size", "window_blocks", "lanes"),
    [
        (4096, 64, 128, 8),
        (4096, 12, 128, 4),
        (4096, 7, 128, 1),
        (4096, 64, 6, 2),
        (2048, 64, 128, 1),
        (999, 64, 128, 1),
    ],
)
def test_a_store_larger_than_a_window_has_as_many_lanes_as_batch_and_window_allow(
    num_rows, batch_size, window_blocks, lanes
):
    rows = np.arange(num_rows)
    assert lanes_of(rows, batch_size=batch_size, block_rows=16, window_blocks=window_blocks) == lanes


def test_without_shuffling_every_epoch_ascends():
    order = BatchOrder(np.arange(50)[::-1], seed=1, batch_size=10, shuffle=False, **LAYOUT)
    for epoch in range(2):
        assert np.array_equal(np.concatenate([order[epoch * 5 + step] for step in range(5)]), np.arange(50))


def test_a_batch_that_lanes_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 10 rows cannot be split evenly over 4 lanes"):
        BatchOrder(np.arange(50), seed=1, batch_size=10, lanes=4, **LAYOUT)
