"""A moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The moving average of a model's weights: after each step ``average = decay * average + (1 - decay) * weights``.

    Step n, from 0, uses at most the decay (1 + n) / (10 + n), as TensorFlow's ExponentialMovingAverage does: otherwise
    the average of a short run is mostly the weights at its start. Floating-point buffers are averaged too; integer
    buffers are copied.

    Args:
        decay: weight of the old average, 0 to 1.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._model, self._decay = model, decay
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after a step, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages, weights = [], []
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self._average[name])
                weights.append(tensor)
            else:
                self._average[name].copy_(tensor)
        get_ema_multi_avg_fn(decay)(averages, weights, step)  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by name."""
        return self._average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load an average."""
        for name, tensor in self._average.items():
            tensor.copy_(state[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model while the block runs."""
        weights = {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}
        self._model.load_state_dict(self._average)
        try:
            yield
        finally:
            self._model.load_state_dict(weights)
