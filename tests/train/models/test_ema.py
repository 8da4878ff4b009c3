"""A moving average of weights against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from train.models.ema import Ema


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def step(net, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    net(torch.randn(5, 3, generator=generator))


def test_the_average_is_torchs_and_counts_are_copied():
    net = model()
    # torch's begins with the first weights it is given, ours with those at the start.
    reference = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    reference.update_parameters(net)
    ema = Ema(net, decay=0.9)
    for seed in range(4):
        step(net, seed)
        ema.update(1000 + seed)
        reference.update_parameters(net)
    for name, parameter in reference.module.named_parameters():
        torch.testing.assert_close(ema.state_dict()[name], parameter)
    assert int(ema.state_dict()["1.num_batches_tracked"]) == 4
    assert not torch.equal(ema.state_dict()["1.running_mean"], net.state_dict()["1.running_mean"])


def test_the_average_of_a_short_run_is_hardly_its_start():
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    ema, expected = Ema(net, decay=0.999), 1.0
    with torch.no_grad():
        net.weight.fill_(0.0)
    for number in range(50):
        ema.update(number)
        expected *= min(0.999, (1 + number) / (10 + number))
    # Without the smaller decay at the start it would be 0.999 ** 50 = 0.95.
    assert ema.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert expected < 1e-6


def test_the_model_has_the_average_for_a_while_and_its_own_weights_again():
    net = model()
    ema = Ema(net, decay=0.5)
    start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    step(net, 1)
    ema.update(1000)
    now = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with ema.applied():
        torch.testing.assert_close(net[0].weight, (start["0.weight"] + now["0.weight"]) / 2)
    assert all(torch.equal(tensor, now[name]) for name, tensor in net.state_dict().items())


def test_an_average_goes_on_from_its_state():
    net = model()
    one = Ema(net, decay=0.5)
    step(net, 1)
    one.update(1000)
    other = Ema(net, decay=0.5)
    other.load_state_dict(one.state_dict())
    step(net, 2)
    one.update(1000)
    other.update(1000)
    for name, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
