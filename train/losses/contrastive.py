"""Contrastive losses between matching rows, as pure functions of embeddings.

They know neither models nor stores, and other ranks only through `Across`. Half precision inputs are converted to
float32; float64 stays float64. Inside an autocast region the products of rows are rounded to its dtype, and nothing
else (``optimization.logits``).

Axes: B rows of this rank, N rows of all ranks, E width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .gather import ALONE, Across, Gathered


def clip_loss(image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor | float, *, across: Across = ALONE) -> Tensor:
    """Return the symmetric InfoNCE loss of CLIP between matching rows.

    Args:
        image_BE, text_BE: student's embeddings; L2-normalised here.
        logit_scale: multiplier of the cosines, already exponentiated.
        across: ranks whose rows are candidates too.
    """
    require_equal_shapes(image_BE, text_BE)
    image, text = across.gather([unit(image_BE), unit(text_BE)])
    return contrast(image, text, logit_scale, across=across)


def contrast(image: Gathered, text: Gathered, scale: Tensor | float, *, across: Across = ALONE) -> Tensor:
    """Return the mean InfoNCE loss in both directions; rows are not normalised here, ``scale`` multiplies products."""
    total = contrast_sum(image.queries, text.every, scale, first=text.first)
    total = total + contrast_sum(text.queries, image.every, scale, first=image.first)
    return across.mean(total, 2 * len(image.queries))


def contrast_sum(query_BE: Tensor, candidate_NE: Tensor, scale: Tensor | float, *, first: int = 0) -> Tensor:
    """Return the summed InfoNCE loss of queries whose b-th matches candidate ``first + b``, unnormalised."""
    logits_BN = widen((_widen_scale(scale) * query_BE) @ candidate_NE.T)
    target_B = torch.arange(first, first + len(logits_BN), device=logits_BN.device)
    return functional.cross_entropy(logits_BN, target_B, reduction="sum")


def no_autocast(like: Tensor) -> torch.autocast:
    """Return a context that disables autocast on the tensor's device."""
    return torch.autocast(device_type=like.device.type, enabled=False)


def widen(value: Tensor) -> Tensor:
    """Return half precision values as float32, others as they are."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def unit(rows_BE: Tensor) -> Tensor:
    """Return rows of length 1, of at least float32."""
    return functional.normalize(widen(rows_BE), dim=-1)


def _widen_scale(scale: Tensor | float) -> Tensor | float:
    return widen(scale) if isinstance(scale, Tensor) else scale


def require_equal_shapes(one: Tensor, other: Tensor) -> None:
    """Raise ValueError unless both are (rows, width) of one shape."""
    if one.ndim != 2 or one.shape != other.shape:
        raise ValueError(
            f"expected two (rows, width) tensors of equal shape, got {(*one.shape,)} and {(*other.shape,)}"
        )
