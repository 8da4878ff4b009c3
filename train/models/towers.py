"""The student's two towers as one module, which is compiled, run in half precision and shared by processes."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import torch
from torch import Tensor, nn

from store.errors import ConfigError
from train.config import Optimization
from train.runtime.ranks import ALONE, Ranks

from .model_folder import Student

log = logging.getLogger(__name__)

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of the towers by ``optimization.precision``."""


class Towers(nn.Module):
    """Maps pixels and tokens to embeddings.

    Args:
        precision: as in pipelines.yaml.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student: Student, *, precision: str) -> None:
        super().__init__()
        self.model, self._dtype = student.model, AUTOCAST[precision]
        for name, values in (("mean", student.mean), ("std", student.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels_BHWC: Tensor, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (B, E) embeddings of images and texts, not normalised, and the logit scale."""
        pixels_BCHW = (pixels_BHWC.permute(0, 3, 1, 2).to(self.mean.dtype) / 255 - self.mean) / self.std
        with torch.autocast(pixels_BHWC.device.type, self._dtype, enabled=self._dtype != torch.float32):
            image_BE, text_BE = self.model.encode_image(pixels_BCHW), self.model.encode_text(tokens_BL)
        return image_BE, text_BE, self.model.logit_scale.exp()


def prepare_towers(student: Student, settings: Optimization, ranks: Ranks = ALONE) -> Towers:
    """Return a student's towers on the device of this process, ready to be trained.

    Raises:
        ConfigError: ``cached_rows`` is set and the model has BatchNorm.
    """
    device = ranks.device(settings.device)
    if settings.gradient_checkpointing:
        _checkpoint_gradients(student.model)
    has_statistics = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.model.modules())  # noqa: SLF001
    if has_statistics and settings.cached_rows:
        raise ConfigError(
            "optimization.cached_rows: this model normalises over the batch (BatchNorm), so that parts of a batch give "
            "other embeddings than the whole",
            hint="leave cached_rows out, or take a model without BatchNorm, such as a ViT",
        )
    if has_statistics and ranks.world_size > 1:
        if device.type == "cuda":
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
            student.model = convert(student.model)
        elif ranks.is_first:
            log.warning("the model has BatchNorm: on the CPU each process takes the statistics of its own pairs")
    towers = Towers(student, precision=settings.precision).to(device).train()
    if settings.compile:
        towers.compile()
    return towers


def _checkpoint_gradients(model: Any) -> None:
    model.set_grad_checkpointing(True)
    text: Any = getattr(getattr(model, "text", None), "transformer", None)
    if hasattr(text, "gradient_checkpointing_enable"):
        # Re-entrant checkpointing bypasses the hooks with which processes share gradients.
        text.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def seed_part(seed: int, *, step: int, rank: int, part: int) -> None:
    """Seed torch's generators for one part of a step.

    The randomness of a forward pass (dropout) is thus a function of these numbers. A resumed run needs no state of a
    generator, and a part that is computed twice gives the same result twice.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}/{part}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)
