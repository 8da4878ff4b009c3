"""Captions and images that the tests of teachers share, and how a tower sees the latter."""

from __future__ import annotations

import torch
from torch.nn import functional

from extract.teacher_files.specs import MEDCLIP_MEAN, MEDCLIP_STD

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
GREY = ((MEDCLIP_MEAN,) * 3, (MEDCLIP_STD,) * 3)

CAPTIONS = [
    "Axial CT of the chest showing a left lung nodule",
    "liver",
    "Chest radiograph: effusion (arrow), 3.5 cm; T2 &amp; FLAIR",
    " ".join(["the left lung nodule of the liver, axial CT scan"] * 40),
]
"""They have several lengths, mixed case and an entity; every teacher cuts the last one."""


def pixels_of(side, count=3, seed=0):
    """Return random images, smooth enough to be none of noise alone; (B, H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noisy = (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)
    return (noisy * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def normalized(pixels_BHWC, normal):
    """Return images as a tower sees them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in normal)
    return (torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).float() / 255 - mean) / std
