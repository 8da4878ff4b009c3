"""Teachers as extraction sees them, and the one loading family built so far: open_clip folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from torch.nn import functional

from store.errors import TeacherError
from store.records import Spec

from .config import TeacherEntry
from .geometry import Geometry, Preprocessing
from .model_folder import read_model_folder


class Teacher(Protocol):
    """A frozen model that turns images and captions into features.

    Attributes:
        name: its id.
        embed_dim: D.
        geometry: what resize and crop it needs.
        logit_scale: multiplier of its cosines, exponentiated.
        spec: everything that determines its features.
    """

    name: str
    embed_dim: int
    geometry: Geometry
    logit_scale: float
    spec: Spec

    def encode_image(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of images in this teacher's geometry, (B, H, W, 3) uint8."""

    def encode_text(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions."""


class OpenClipTeacher:
    """A teacher in a folder that open_clip's ``local-dir:`` loads.

    Args:
        spec: from the folder's files.
        folder: the model's folder.
        device: where it runs.

    Raises:
        TeacherError: the weights do not fit the configuration.
    """

    def __init__(self, spec: Spec, folder: Path, *, device: str = "cpu") -> None:
        read_model_folder(folder)
        if device == "cuda" and not torch.cuda.is_available():
            raise TeacherError(
                f"teacher {spec.teacher}: no CUDA device is visible to this process",
                hint="run where a GPU is, or with --set extract.device=cpu",
            )
        self.name, self.embed_dim, self.spec = spec.teacher, spec.embed_dim, spec
        preprocessing = Preprocessing.model_validate(spec.preprocessing)
        self.geometry = preprocessing.geometry
        try:
            model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, device=device)
            self._tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            raise TeacherError(
                f"teacher {self.name}: {folder} cannot be loaded: {error}",
                hint="weights, open_clip_config.json and tokenizer files must all be there and belong together",
            ) from error
        self._model = model.eval().requires_grad_(requires_grad=False)
        self._device = torch.device(device)
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self.logit_scale = float(model.logit_scale.exp())

    @torch.inference_mode()
    def encode_image(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of images in this teacher's geometry, (B, H, W, 3) uint8."""
        pixels_BCHW = torch.from_numpy(pixels_BHWC).to(self._device).permute(0, 3, 1, 2)
        normal_BCHW = (pixels_BCHW.float().div(255) - self._mean) / self._std
        return _unit_norm(self._model.encode_image(normal_BCHW))

    @torch.inference_mode()
    def encode_text(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions."""
        tokens_BL = self._tokenize(list(captions)).to(self._device)
        return _unit_norm(self._model.encode_text(tokens_BL))


def _unit_norm(features_BD: torch.Tensor) -> npt.NDArray[np.float32]:
    normal: npt.NDArray[np.float32] = functional.normalize(features_BD.float(), dim=-1).cpu().numpy()
    return normal


def load_teacher(spec: Spec, entry: TeacherEntry, *, device: str = "cpu") -> Teacher:
    """Load the teacher that a spec describes."""
    return OpenClipTeacher(spec, Path(entry.folder), device=device)
