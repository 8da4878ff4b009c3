"""The cut of a batch into parts of like length: every row once, no caption cut, and no cheaper cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from train.models.length_parts import PartCost, parts_by_length


def price(lengths, edges, cost, context):
    """Return what sorted captions cost, cut at some places."""
    total = 0
    for begin, end in itertools.pairwise([0, *edges, len(lengths)]):
        columns = min(-(-max(lengths[begin:end]) // cost.multiple) * cost.multiple, context)
        total += (end - begin) * columns + cost.per_part
    return total


@pytest.mark.parametrize("seed", range(30))
def test_no_cut_into_as_many_parts_is_cheaper_and_every_row_is_in_one_of_them(seed):
    rng = np.random.default_rng(seed)
    context = int(rng.choice([12, 77]))
    cost = PartCost(
        multiple=int(rng.choice([1, 4, 8])), per_part=int(rng.choice([0, 5, 40])), most=int(rng.integers(1, 4))
    )
    lengths = rng.integers(1, context + 1, size=9)
    order, parts = parts_by_length(lengths, context=context, cost=cost)
    assert sorted(order) == list(range(9))
    assert [part.rows.start for part in parts] == [0, *(part.rows.stop for part in parts[:-1])]
    assert parts[-1].rows.stop == 9
    assert len(parts) <= cost.most
    for part in parts:
        assert lengths[order[part.rows]].max() <= part.columns <= context
        assert part.columns % cost.multiple == 0 or part.columns == context
    found = sum((part.rows.stop - part.rows.start) * part.columns + cost.per_part for part in parts)
    cuts = (edges for number in range(cost.most) for edges in itertools.combinations(range(1, 9), number))
    assert found == min(price(np.sort(lengths), edges, cost, context) for edges in cuts)


def test_a_part_that_saves_less_than_it_costs_is_not_made():
    lengths = np.array([10] * 50 + [20] * 50)
    for per_part, number in ((499, 2), (501, 1)):
        _, parts = parts_by_length(lengths, context=256, cost=PartCost(multiple=1, per_part=per_part))
        assert len(parts) == number


def test_captions_of_one_length_stay_in_their_order():
    order, parts = parts_by_length(np.full(5, 7), context=256, cost=PartCost(multiple=8, per_part=0))
    assert order.tolist() == [0, 1, 2, 3, 4]
    assert parts == [(slice(0, 5), 8)]
