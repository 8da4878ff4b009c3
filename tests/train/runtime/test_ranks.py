"""Processes agree on settings before they train, and average their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from store.errors import ConfigError, MMKDError
from train.config import Optimization
from train.runtime.ranks import ALONE, Agreement, Ranks, joined, require_device, require_even_shares


def settings(**changes):
    return Optimization(**{"steps": 1, "batch_size": 16, "lr": 1, **changes})


@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(16, 2, 1), (16, 4, 4), (15, 5, 3), (14, 1, 7)])
def test_a_batch_that_can_be_shared_is_accepted(batch_size, world_size, accumulate):
    ranks = Ranks(world_size=world_size)
    assert require_even_shares("x", settings(batch_size=batch_size, accumulate=accumulate), ranks) is None


def test_a_batch_that_cannot_be_shared_says_which_one_could():
    with pytest.raises(ConfigError, match=r"x\.optimization\.batch_size: 17 .* 4 processes in 2 parts") as caught:
        require_even_shares("x", settings(batch_size=17, accumulate=2), Ranks(world_size=4))
    assert "multiple of 8, e.g. 24" in caught.value.hint


@pytest.mark.parametrize(("visible", "refused"), [(1, True), (2, False)])
def test_more_processes_than_gpus_are_refused(monkeypatch, visible, refused):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    ranks = Ranks(rank=1, world_size=2, local_rank=1)
    assert ranks.device("cuda") == torch.device("cuda", 1)
    if not refused:
        require_device("x", settings(device="cuda"), ranks)
        return
    with pytest.raises(MMKDError, match="process 2 of this machine has no GPU: 1 are visible"):
        require_device("x", settings(device="cuda"), ranks)


def test_a_parameter_that_a_batch_does_not_touch_has_a_gradient_of_zero():
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    one.grad = torch.full((2,), 5.0)
    ALONE.average([one, other])
    assert one.grad.tolist() == [5.0, 5.0]
    assert other.grad.tolist() == [0.0] * 3


def test_without_torchrun_a_process_is_alone_and_agrees_with_itself():
    with joined() as ranks:
        assert ranks == ALONE
        assert ranks.is_first
        agreed = Agreement(ranks)
        assert [agreed(flag=flag) for flag in (False, True, False)] == [False, True, False]
        assert ranks.mean({"b": 2.0, "a": 1.0}) == {"b": 2.0, "a": 1.0}
        assert ranks.gather(3) == [3]
        assert ranks.from_first(lambda: "made") == "made"
    assert not torch.distributed.is_initialized()
