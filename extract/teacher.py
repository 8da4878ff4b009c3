"""Teachers as extraction sees them: the protocol, and loading one of any family."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from store.errors import TeacherError
from store.records import Spec

from .geometry import Geometry
from .teacher_entry import TeacherEntry
from .teachers.base import Tokens
from .teachers.clip_model import ClipTeacher
from .teachers.medclip import MedClipTeacher
from .teachers.open_clip_model import OpenClipTeacher
from .teachers.pmc_clip import PmcClipTeacher
from .teachers.states import read_state
from .weights import find_weights


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

    def normalize(self, pixels_BHWC: npt.NDArray[np.uint8]) -> Tensor:
        """Return images in this teacher's geometry as its image tower sees them, (B, 3, H, W) float32."""

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Return captions as token ids, cut as the authors cut them."""

    def encode_image(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of images in this teacher's geometry, (B, H, W, 3) uint8."""

    def encode_text(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions."""

    def count_truncated(self, captions: Sequence[str]) -> int:
        """Return how many captions are longer than what this teacher reads of them."""


FAMILIES = {
    "open_clip": OpenClipTeacher,
    "open_clip_file": OpenClipTeacher,
    "clip": ClipTeacher,
    "pmc_clip": PmcClipTeacher,
    "medclip": MedClipTeacher,
}


def load_teacher(spec: Spec, entry: TeacherEntry, *, device: str = "cpu") -> Teacher:
    """Load the teacher that a spec describes.

    Args:
        spec: from its entry and files.
        entry: says where they lie on this machine.
        device: where it runs.

    Raises:
        TeacherError: this machine has other weights than the spec was made from, or they do not fit the model.
    """
    weights = find_weights(spec.teacher, entry)
    digest = weights.digest()
    if digest != spec.weights_sha256:
        raise TeacherError(
            f"teacher {spec.teacher}: {socket.gethostname()} has other weights in {entry.folder} "
            f"(sha256 {digest[:12]}) than the run was planned with ({str(spec.weights_sha256)[:12]})",
            hint="copy the same files to every node, or let all read them from one shared folder",
        )
    return FAMILIES[entry.family](spec, entry, read_state(entry, weights), device=device)
