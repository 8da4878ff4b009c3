"""A moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Ema:
    """The moving average of a model's weights: after each step ``average = decay * average + (1 - decay) * weights``.

    It starts from the weights. Floating-point buffers are averaged too; integer buffers are copied.

    Args:
        decay: weight of the old average, 0 to 1.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._model, self._decay = model, decay
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current weights."""
        for name, tensor in self._model.state_dict().items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor, 1 - self._decay)
            else:
                self._average[name].copy_(tensor)

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
