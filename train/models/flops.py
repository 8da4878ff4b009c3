"""Counts what the encoders compute, without computing it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode


def encoder_flops(model: Any, *, size_px: int, context: int) -> tuple[int, int]:
    """Return the floating-point operations of the forward pass of one image, and of one caption with all its padding.

    They are those of matrix products, convolutions and attention; the rest is not counted. A backward pass has about
    twice as many.

    Args:
        model: of open_clip; stays as it is.
        size_px: side of its square input.
        context: columns of tokens.
    """
    was_training, found = model.training, []
    model.eval()  # Statistics of BatchNorm must not see these inputs.
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            device = model.logit_scale.device
            found.append(_count(model.encode_image, torch.zeros(1, 3, size_px, size_px, device=device)))
            found.append(_count(model.encode_text, torch.ones(1, context, dtype=torch.long, device=device)))
    finally:
        model.train(was_training)
    return found[0], found[1]


def _count(encode: Any, value: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        encode(value)
    total: int = counter.get_total_flops()
    return total
