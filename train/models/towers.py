"""The student's two towers as one module, which is compiled, run in half precision and shared by processes."""

from __future__ import annotations

import functools
import hashlib
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from store.errors import ConfigError
from train.config import Optimization
from train.runtime.ranks import ALONE, Ranks
from train.runtime.sending import on_device

from .length_parts import PartCost, parts_by_length
from .model_folder import Student
from .text_tower import encode_text, is_exact_without_padding

log = logging.getLogger(__name__)

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of the towers by ``optimization.precision``."""


COSTS = {
    "cpu": PartCost(multiple=1, per_part=8),
    # Half precision is fast at multiples of 8. A part of a thousand tokens of a BERT is over before the next one has
    # been sent to the device.
    "cuda": PartCost(multiple=8, per_part=1024),
}
"""Price of length-sorted parts by the type of the device."""


class Columns:
    """Counts the columns of tokens that passed the text tower, and what they would be with all padding."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was counted."""
        self._computed = self._padded = 0

    def add(self, computed: int, padded: int) -> None:
        """Count the columns of some captions."""
        self._computed += computed
        self._padded += padded

    def share(self) -> float:
        """Return the share of columns that was computed; 1 if there were none."""
        return self._computed / self._padded if self._padded else 1.0


class Towers(nn.Module):
    """Maps pixels and tokens to embeddings.

    Captions pass the text tower in parts of like length, without the columns that are padding in the whole part, where
    that changes no embedding. Embeddings and gradients are those of the padded batch up to rounding. Dropout in the
    text tower draws another mask than it would for the padded batch, because the tensors have other shapes.

    Args:
        precision: as in pipelines.yaml.

    Attributes:
        columns: counts what was computed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, student: Student, *, precision: str) -> None:
        super().__init__()
        self.model, self._dtype, self.columns = student.model, AUTOCAST[precision], Columns()
        self._cuts = is_exact_without_padding(student.model, student.tokenizer)
        if not self._cuts:
            log.info("captions are computed with their padding: without it this text tower gives other embeddings")
        self._image = self.model.encode_image
        self._text = functools.partial(encode_text, self.model) if self._cuts else self.model.encode_text
        for name, values in (("mean", student.mean), ("std", student.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels_BHWC: Tensor, tokens_BL: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (B, E) embeddings of images and texts, not normalised, and the logit scale.

        Args:
            pixels_BHWC: uint8.
            tokens_BL: int64, padded on the right.
            lengths_B: int64, on the host: the columns of each caption without that padding.
        """
        pixels_BCHW = (pixels_BHWC.permute(0, 3, 1, 2).to(self.mean.dtype) / 255 - self.mean) / self.std
        with torch.autocast(pixels_BHWC.device.type, self._dtype, enabled=self._dtype != torch.float32):
            image_BE, text_BE = self._image(pixels_BCHW), self._texts(tokens_BL, lengths_B)
        return image_BE, text_BE, self.model.logit_scale.exp()

    def _texts(self, tokens_BL: Tensor, lengths_B: Tensor) -> Tensor:
        rows, context = tokens_BL.shape
        if not self._cuts:
            self.columns.add(rows * context, rows * context)
            whole_BE: Tensor = self._text(tokens_BL)
            return whole_BE
        device = tokens_BL.device
        order_B, parts = parts_by_length(np.asarray(lengths_B), context=context, cost=COSTS[device.type])
        self.columns.add(sum((part.rows.stop - part.rows.start) * part.columns for part in parts), rows * context)
        if len(parts) == 1:
            one_BE: Tensor = self._text(tokens_BL[:, : parts[0].columns])
            return one_BE
        places_B = on_device(order_B, device)
        sorted_BL = tokens_BL[places_B]
        text_BE = torch.cat([self._text(sorted_BL[part.rows, : part.columns]) for part in parts])
        return torch.empty_like(text_BE).index_copy(0, places_B, text_BE)

    def compile_encoders(self) -> None:
        """Compile both encoders; the cut into parts stays outside, because it looks at numbers."""
        self._image = torch.compile(self._image)
        self._text = torch.compile(self._text, dynamic=True)


def prepare_towers(student: Student, settings: Optimization, ranks: Ranks = ALONE) -> Towers:
    """Return a student's towers on the device of this process, ready to be trained.

    Raises:
        ConfigError: ``cached_rows`` is set and the model has BatchNorm.
    """
    device = ranks.device(settings.device)
    if settings.gradient_checkpointing:
        _checkpoint_gradients(student.model)
    has_statistics = any(has_own_statistics(module) for module in student.model.modules())
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
        towers.compile_encoders()
    return towers


def has_own_statistics(module: nn.Module) -> bool:
    """Return whether a module keeps statistics of the rows of its own process."""
    batch_norm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001
    return isinstance(module, batch_norm) and not isinstance(module, nn.SyncBatchNorm)


def _checkpoint_gradients(model: Any) -> None:
    model.set_grad_checkpointing(True)
    text: Any = getattr(getattr(model, "text", None), "transformer", None)
    if hasattr(text, "gradient_checkpointing_enable"):
        # Re-entrant checkpointing bypasses the hooks with which processes share gradients.
        text.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def seed_part(seed: int, *, step: int, rank: int, part: int, device: torch.device) -> None:
    """Seed torch's generators for one part of a step on a device.

    The randomness of a forward pass (dropout) is thus a function of these numbers. A resumed run needs no state of a
    generator, and a part that is computed twice gives the same result twice.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}/{part}".encode(), digest_size=8).digest()
    word = int.from_bytes(digest, "big") >> 1
    if device.type == "cpu":
        torch.default_generator.manual_seed(word)  # torch's own function takes 2 ms, to seed cards that come later
    else:
        torch.manual_seed(word)
