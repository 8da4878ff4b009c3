"""Loads a teacher of any family."""

from __future__ import annotations

import socket

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Preprocessing
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.states import read_state
from extract.teacher_files.weights import find_weights
from store.errors import TeacherError
from store.format.records import Spec

from .assembled_models import MedClipTeacher, PmcClipTeacher
from .base import FrozenTeacher
from .library_models import ClipTeacher, SiglipTeacher, TimmTeacher, VisionTeacher
from .open_clip_model import OpenClipTeacher

FAMILIES: dict[str, type[FrozenTeacher]] = {
    "open_clip": OpenClipTeacher,
    "open_clip_file": OpenClipTeacher,
    "timm": TimmTeacher,
    "pmc_clip": PmcClipTeacher,
    "medclip": MedClipTeacher,
}

TWO_SIDED: dict[str, type[FrozenTeacher]] = {"clip": ClipTeacher, "siglip": SiglipTeacher}
"""Models of transformers with a text tower, by the family in their spec."""


def family_of(spec: Spec, entry: TeacherEntry) -> type[FrozenTeacher]:
    """Return the class that runs a teacher."""
    if entry.family == "transformers":
        return TWO_SIDED.get(spec.architecture["family"], VisionTeacher)
    return FAMILIES[entry.family]


def load_teacher(spec: Spec, entry: TeacherEntry, *, device: str = "cpu") -> FrozenTeacher:
    """Load the teacher that a spec describes.

    Raises:
        TeacherError: this machine has other files than the spec was made from, or they do not fit the model.
    """
    # The files are read once more, because on a cluster another machine made the plan.
    window = Preprocessing.model_validate(spec.preprocessing).window
    here = teacher_spec(spec.teacher, entry, stored_dtype=spec.stored_dtype, window=window)
    if here.hash != spec.hash:
        raise TeacherError(
            f"teacher {spec.teacher}: {socket.gethostname()} has other files in {entry.folder} than the run was "
            f"planned with (here: on that machine, there: planned)\n  " + "\n  ".join(here.difference(spec)),
            hint="copy the same files to every node, or let all read them from one shared folder",
        )
    state = read_state(entry, find_weights(spec.teacher, entry))
    return family_of(spec, entry)(spec, entry, state, device=device)
