"""Weights of teachers against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from train.data.random_bits import coins
from train.losses.balance import SideBalance, dispersion_weights

NAMES = ["a", "b", "c"]
PLACES = {"a": torch.tensor([0, 1, 2, 3]), "b": torch.tensor([1, 3]), "c": torch.tensor([3, 4])}
ROWS = np.array([40, 7, 99, 12, 3])


def distances(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(len(places), generator=generator, dtype=torch.float64, requires_grad=True)
        for name, places in PLACES.items()
    }


def balanced(kind, found, *, step=0, weights=None, seed=1):
    return SideBalance(kind, NAMES, weights=weights or {}, seed=seed)(found, PLACES, rows_B=ROWS, step=step)


def test_weights_are_inverse_to_dispersion_with_mean_1():
    weights = dispersion_weights({"a": 0.5, "b": 1.0, "c": 2.0})
    assert weights == pytest.approx({"a": 12 / 7, "b": 6 / 7, "c": 3 / 7})


def test_weights_stay_within_their_bounds():
    # The range that Med-RADIO reports: 0.003 to 1.264.
    weights = dispersion_weights({"a": 0.003, "b": 1.264, "c": 1.0, **{str(n): 1.0 for n in range(6)}})
    assert weights["a"] == 5.0
    assert weights["b"] == 0.2


def test_uniform_counts_every_row_and_teacher_alike():
    found = distances()
    total, weight = balanced("uniform", found)
    assert total.item() == pytest.approx(sum(part.sum().item() for part in found.values()))
    assert weight.item() == 8


def test_dispersion_weights_multiply():
    found = distances()
    total, weight = balanced("dispersion", found, weights={"a": 0.5, "b": 2.0, "c": 1.0})
    assert total.item() == pytest.approx(
        0.5 * found["a"].sum().item() + 2 * found["b"].sum().item() + found["c"].sum().item()
    )
    assert weight.item() == 0.5 * 4 + 2 * 2 + 1 * 2


def test_uncertainty_learns_a_variance_whose_best_value_is_the_mean_distance():
    balance, found = SideBalance("uncertainty", NAMES, weights={}, seed=0), distances()
    assert set(dict(balance.named_parameters())) == {f"log_variance.{name}" for name in NAMES}
    with torch.no_grad():
        for name, parameter in balance.log_variance.items():
            parameter.fill_(math.log(found[name].mean().item()))
    total, weight = balance.double()(found, PLACES, rows_B=ROWS, step=0)
    assert weight.item() == 8
    for gradient in torch.autograd.grad(total, list(balance.parameters())):
        assert gradient.item() == pytest.approx(0, abs=1e-7)


def test_unic_drop_keeps_the_worst_teacher_of_each_row_and_half_of_the_others():
    found = distances()
    table = np.full((5, 3), -np.inf)
    for number, name in enumerate(NAMES):
        table[PLACES[name].numpy(), number] = found[name].detach().numpy()
    kept_others = others = 0
    for step in range(400):
        total, weight = balanced("unic_drop", found, step=step)
        kept = coins(ROWS, 3, seed=1, step=step) | (table == table.max(axis=1, keepdims=True))
        kept &= np.isfinite(table)
        assert total.item() == pytest.approx(table[kept].sum())
        assert weight.item() == kept.sum() >= 5
        kept_others, others = kept_others + kept.sum() - 5, others + 3
    assert kept_others / others == pytest.approx(0.5, abs=0.06)


def test_what_is_dropped_does_not_depend_on_the_batch_around_a_row():
    together = coins(np.arange(50), 6, seed=4, step=9)
    alone = np.stack([coins(np.array([row]), 6, seed=4, step=9)[0] for row in range(50)])
    np.testing.assert_array_equal(together, alone)


def test_coins_are_fair_and_independent_of_step_seed_and_each_other():
    rows = np.arange(8000)
    base = coins(rows, 2, seed=1, step=5)
    for other in (
        coins(rows, 2, seed=1, step=6),
        coins(rows, 2, seed=2, step=5),
        base[:, ::-1],
        np.roll(base, 1, axis=0),
    ):
        counts = np.bincount((base[:, 0] * 2 + other[:, 0]).astype(np.int64), minlength=4)
        # 3 degrees of freedom: the 0.9999 quantile is 21.1.
        assert ((counts - 2000) ** 2 / 2000).sum() < 21.1
