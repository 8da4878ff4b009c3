"""What all families share: normalising, autocast, unit norm; a family adds its model and its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from extract.geometry import Preprocessing
from store.errors import TeacherError
from store.records import Spec

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(kw_only=True, frozen=True, slots=True)
class Tokens:
    """Captions as a teacher reads them.

    Attributes:
        ids_BL: token ids, padded; (B, L) int64.
        lengths_B: tokens of each that are no padding.
        truncated_B: whether the caption was longer than what is left of it.
    """

    ids_BL: Tensor
    lengths_B: list[int]
    truncated_B: list[bool]


class FrozenTeacher:
    """A teacher on a device.

    Args:
        spec: everything that determines its features.
        model: with weights loaded.
        logit_scale: multiplier of its cosines.
        device: where it runs.

    Raises:
        TeacherError: there is no such device here.
    """

    def __init__(self, spec: Spec, model: nn.Module, *, logit_scale: float, device: str = "cpu") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise TeacherError(
                f"teacher {spec.teacher}: no CUDA device is visible to this process",
                hint="run where a GPU is, or with --set extract.device=cpu",
            )
        self.name, self.embed_dim, self.spec, self.logit_scale = spec.teacher, spec.embed_dim, spec, logit_scale
        preprocessing = Preprocessing.model_validate(spec.preprocessing)
        self.geometry = preprocessing.geometry
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(requires_grad=False).to(self._device)
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)

    def normalize(self, pixels_BHWC: npt.NDArray[np.uint8]) -> Tensor:
        """Return images in this teacher's geometry as its image tower sees them, (B, 3, H, W) float32."""
        pixels_BCHW = torch.from_numpy(pixels_BHWC).to(self._device).permute(0, 3, 1, 2)
        return (pixels_BCHW.float().div(255) - self._mean) / self._std

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Return captions as token ids, cut as the authors cut them."""
        ids_BL, lengths_B = self._ids(list(captions))
        limit = ids_BL.shape[1]
        # Only a caption that fills its row can have been longer, so that only those are tokenised once more.
        truncated_B = [
            length >= limit and self._full_length(caption) > length
            for caption, length in zip(captions, lengths_B, strict=True)
        ]
        return Tokens(ids_BL=ids_BL, lengths_B=lengths_B, truncated_B=truncated_B)

    @torch.inference_mode()
    def encode_image(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of images in this teacher's geometry, (B, H, W, 3) uint8."""
        normal_BCHW = self.normalize(pixels_BHWC)
        with self._autocast():
            return _unit_norm(self._image_features(normal_BCHW))

    @torch.inference_mode()
    def encode_text(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions."""
        ids_BL, lengths_B = self._ids(list(captions))
        with self._autocast():
            return _unit_norm(self._text_features(ids_BL.to(self._device), lengths_B))

    def count_truncated(self, captions: Sequence[str]) -> int:
        """Return how many captions are longer than what this teacher reads of them."""
        return sum(self.tokenize(captions).truncated_B)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        dtype = AUTOCAST.get(self.spec.compute_dtype)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=dtype)

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        raise NotImplementedError

    def _ids(self, captions: list[str]) -> tuple[Tensor, list[int]]:
        """Return ids (B, L), cut and padded, and the number of tokens of each that are no padding."""
        raise NotImplementedError

    def _full_length(self, caption: str) -> int:
        """Return how many tokens a caption has when nothing is cut."""
        raise NotImplementedError


def _unit_norm(features_BD: Tensor) -> npt.NDArray[np.float32]:
    normal: npt.NDArray[np.float32] = functional.normalize(features_BD.float(), dim=-1).cpu().numpy()
    return normal
