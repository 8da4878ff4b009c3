"""Teachers as extraction sees them: the protocol, and loading one of any family."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Geometry
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.states import read_state
from extract.teacher_files.weights import find_weights
from store.errors import TeacherError
from store.format.records import Spec

from .base import FrozenTeacher, Tokens
from .clip_model import ClipTeacher
from .medclip import MedClipTeacher
from .open_clip_model import OpenClipTeacher
from .pmc_clip import PmcClipTeacher


class Teacher(Protocol):
    """A frozen model that turns images and captions into features.

    Attributes:
        name: its id.
        embed_dim: D.
        geometry: what resize and crop it needs.
        logit_scale: multiplier of its cosines, exponentiated.
        spec: everything that determines its features.
        nbytes: of its weights in memory.
    """

    name: str
    embed_dim: int
    geometry: Geometry
    logit_scale: float
    spec: Spec

    @property
    def nbytes(self) -> int:
        """Bytes of its weights in memory."""

    def normalize(self, pixels_BHWC: npt.NDArray[np.uint8]) -> Tensor:
        """Return images in this teacher's geometry as its image tower sees them, (B, 3, H, W) float32."""

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Return captions as token ids, cut as the authors cut them."""

    def encode_image(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of images in this teacher's geometry, (B, H, W, 3) uint8."""

    def encode_text(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions."""

    def encode_tokens(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions that `tokenize` made."""

    def count_truncated(self, captions: Sequence[str]) -> int:
        """Return how many captions are longer than what this teacher reads of them."""


FAMILIES: dict[str, type[FrozenTeacher]] = {
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
        TeacherError: this machine has other files than the spec was made from, or they do not fit the model.
    """
    # Weights, configuration and tokenizer are read once more: on a cluster this is another machine than the planner's.
    here = teacher_spec(spec.teacher, entry, stored_dtype=spec.stored_dtype)
    if here.hash != spec.hash:
        raise TeacherError(
            f"teacher {spec.teacher}: {socket.gethostname()} has other files in {entry.folder} than the run was "
            f"planned with (here: on that machine, there: planned)\n  " + "\n  ".join(here.difference(spec)),
            hint="copy the same files to every node, or let all read them from one shared folder",
        )
    state = read_state(entry, find_weights(spec.teacher, entry))
    return FAMILIES[entry.family](spec, entry, state, device=device)
