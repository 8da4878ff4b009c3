"""Compares teachers with the features that MMKD-CLIP's authors released, to find the authors' reading of a teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extract.corpora.import_mmkd import TEACHER_IDS, read_features, read_meta
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from store.errors import CorpusError, TeacherError, WeightsNotFoundError
from store.images.decode import open_image

from .loading import load_teacher

log = logging.getLogger(__name__)

PASS_COSINE = 0.999
"""Every pair and side must exceed this cosine; the authors' autocast may have cost as much as it leaves."""

OWN = "as configured"

Array = npt.NDArray[np.float32]


@dataclass(kw_only=True, frozen=True, slots=True)
class Released:
    """One teacher's released features, unit norm, and their pairs."""

    keys: list[str]
    images: list[Path]
    captions: list[str]
    image_ND: Array
    text_ND: Array


@dataclass(kw_only=True, frozen=True, slots=True)
class Verdict:
    """The comparison of one reading of a teacher.

    Attributes:
        reading: `OWN` or a variant's name.
        image, text: cosine by pair; empty if the reading could not be tried.
        note: what is wrong, if that is known.
    """

    reading: str
    image: dict[str, float]
    text: dict[str, float]
    passed: bool
    note: str = ""

    @property
    def worst(self) -> tuple[float, float]:
        """The smallest cosine of each side."""
        return min(self.image.values(), default=float("nan")), min(self.text.values(), default=float("nan"))


def read_released(source: Path) -> dict[str, Released]:
    """Return the released features of every teacher that has any, by our names.

    Raises:
        CorpusError: the folder is not laid out as released.
    """
    entries = read_meta(source)
    features = [read_features(source / entry["imgpath"]) for entry in entries]
    released = {}
    for theirs, ours in TEACHER_IDS.items():
        rows = [row for row, found in enumerate(features) if f"{theirs}_img" in found and f"{theirs}_txt" in found]
        if rows:
            released[ours] = Released(
                keys=[entries[row]["id"] for row in rows],
                images=[source / entries[row]["imgpath"] for row in rows],
                captions=[entries[row]["txt"] for row in rows],
                image_ND=np.stack([features[row][f"{theirs}_img"] for row in rows]),
                text_ND=np.stack([features[row][f"{theirs}_txt"] for row in rows]),
            )
    if not released:
        raise CorpusError(f"{source}: holds no features of a teacher")
    return released


def compare(reading: str, image_ND: Array, text_ND: Array, released: Mapping[str, Released], name: str) -> Verdict:
    """Compare our features, unit norm and in the order of the released ones, with those released for a teacher.

    The features of the other teachers show whether two were mixed up.
    """
    theirs = released[name]
    if image_ND.shape[1] != theirs.image_ND.shape[1]:
        note = f"{image_ND.shape[1]} wide, the released ones {theirs.image_ND.shape[1]}: another model"
        return Verdict(reading=reading, image={}, text={}, passed=False, note=note)
    cosines_2N = [
        np.sum(ours * unit(other), axis=1) for ours, other in ((image_ND, theirs.image_ND), (text_ND, theirs.text_ND))
    ]
    image, text = (dict(zip(theirs.keys, map(float, side), strict=True)) for side in cosines_2N)
    # A comparison with NaN is false, so a feature with NaN does not pass.
    agree = [bool((side_N > PASS_COSINE).all()) for side_N in cosines_2N]
    note = "" if all(agree) else _explain(agree, image_ND, released, name)
    return Verdict(reading=reading, image=image, text=text, passed=all(agree), note=note)


def unit(features_ND: Array) -> Array:
    """Return features with unit norm."""
    norms: Array = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True)
    return norms


def _explain(agree: list[bool], image_ND: Array, released: Mapping[str, Released], name: str) -> str:
    theirs = released[name]
    if agree == [True, False]:
        return "images agree, captions do not: tokenizer or text tower"
    if agree == [False, True]:
        return "captions agree, images do not: preprocessing or image tower"
    for other_name, other in released.items():
        shared = [key for key in theirs.keys if key in other.keys]
        if other_name == name or not shared or other.image_ND.shape[1] != image_ND.shape[1]:
            continue
        rows, others = [theirs.keys.index(key) for key in shared], [other.keys.index(key) for key in shared]
        if (np.sum(image_ND[rows] * unit(other.image_ND[others]), axis=1) > PASS_COSINE).all():
            return f"these are the features of {other_name}"
    best_N = (image_ND @ unit(theirs.image_ND).T).max(axis=1)
    if len(best_N) > 1 and (best_N > PASS_COSINE).all():
        return "the same features in another order: images and features are not of the same pairs"
    return ""


def examine(
    name: str, entry: TeacherEntry, released: Mapping[str, Released], *, device: str = "cpu", max_pixels: int
) -> list[Verdict]:
    """Compare a teacher with its released features; if it fails, try its variants until one passes.

    Returns:
        One verdict per reading, the configured one first.

    Raises:
        WeightsNotFoundError: its weights are not on this machine.
    """
    verdicts = [_judge(OWN, name, entry, released, device=device, max_pixels=max_pixels)]
    for reading, variant in entry.readings().items():
        if any(verdict.passed for verdict in verdicts):
            break
        try:
            verdicts.append(_judge(reading, name, variant, released, device=device, max_pixels=max_pixels))
        except TeacherError as error:
            missing = "not tried: " if isinstance(error, WeightsNotFoundError) else ""
            verdicts.append(Verdict(reading=reading, image={}, text={}, passed=False, note=f"{missing}{error}"))
    return verdicts


def _judge(
    reading: str, name: str, entry: TeacherEntry, released: Mapping[str, Released], *, device: str, max_pixels: int
) -> Verdict:
    theirs = released[name]
    teacher = load_teacher(teacher_spec(name, entry), entry, device=device)
    images = [open_image(path.read_bytes(), max_pixels=max_pixels).image for path in theirs.images]
    pixels_BHWC = np.stack([fit(image, teacher.geometry) for image in images])
    image_ND, text_ND = teacher.encode_image(pixels_BHWC), teacher.encode_text(theirs.captions)
    return compare(reading, image_ND, text_ND, released, name)


def summary(name: str, verdicts: Sequence[Verdict]) -> str:
    """Return the conclusion for a teacher in one line."""
    passing = next((verdict.reading for verdict in verdicts if verdict.passed), None)
    if passing == OWN:
        return f"{name}: agrees with the released features"
    if passing:
        return f"{name}: the variant {passing} agrees; make it the entry's own setting (teachers.{name})"
    return f"{name}: no reading agrees with the released features"
