"""Two processes that make steps together: parts of captions, a loss that is not finite in one, and a flag of one."""

from __future__ import annotations

import pytest
import torch

from tests.train import two_updaters
from train.runtime.ranks import ALONE

pytestmark = [pytest.mark.slow, pytest.mark.end_to_end]


@pytest.fixture(scope="module")
def found(of_two_processes):
    """The findings of two processes, by rank."""
    return of_two_processes(two_updaters.__name__)


def test_processes_with_different_numbers_of_parts_have_the_gradients_of_one(found, tmp_path):
    alone = two_updaters.gradients(tmp_path, ALONE)
    ours = [of_rank["step"] for of_rank in found]
    assert ours[0]["parts"] < ours[1]["parts"]
    assert alone["parts"] > 1
    for name, gradient in alone["gradients"].items():
        for of_rank in ours:
            torch.testing.assert_close(of_rank["gradients"][name], gradient, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_in_one_process_stops_the_weights_of_both_with_one_message(found):
    for of_rank in found:
        message = of_rank["diverged"]["message"]
        assert message.startswith("step 1: the loss is not finite (loss inf); rows [4, 5, 6, 7]")
        first, *later = of_rank["diverged"]["weights"]
        assert all(tensor.isfinite().all() for tensor in first.values())
        for weights in later:
            assert all(torch.equal(tensor, first[name]) for name, tensor in weights.items())
    (one, _), (other, _) = (of_rank["diverged"]["weights"][:2] for of_rank in found)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_flag_of_one_process_is_known_to_both_one_call_later(found):
    assert [of_rank["flags"] for of_rank in found] == [[False, False, True, False]] * 2
