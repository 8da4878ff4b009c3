"""Compares a teacher's features with those that MMKD-CLIP's authors released."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from extract.corpora.import_mmkd import TEACHER_IDS, read_features, read_meta
from store.errors import CorpusError

AGREES_COSINE = 0.9999
"""Every pair must exceed this cosine. Wrong preprocessing stays below it: a bilinear resize reaches 0.9998, ImageNet's
mean and std 0.9995. Autocast to float16 and another machine stay above it."""

CLOSE_COSINE = 0.999
"""Above this cosine the model is the same, and something small differs."""

Band = Literal["agrees", "close", "differs", "not tried"]

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
        reading: `OWN`, a variant's name, or what was changed.
        settings: keys of the entry that this reading changes, with their values.
        image, text: cosine by pair; empty if the reading could not be tried.
        note: what is wrong, if that is known.
    """

    reading: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    image: Mapping[str, float]
    text: Mapping[str, float]
    note: str = ""

    @property
    def worst(self) -> tuple[float, float]:
        """The smallest cosine of each side; NaN if the reading could not be tried, or a feature is not finite."""
        image, text = (float(np.min([*side.values()])) if side else float("nan") for side in (self.image, self.text))
        return image, text

    @property
    def bands(self) -> tuple[Band, Band]:
        """The band of each side."""
        image, text = (_band(cosine) if self.image else "not tried" for cosine in self.worst)
        return image, text

    @property
    def band(self) -> Band:
        """The band of the side that is worse."""
        return max(self.bands, key=("agrees", "close", "differs", "not tried").index)


def _band(cosine: float) -> Band:
    # A comparison with NaN is false, so a feature with NaN does not agree.
    return "agrees" if cosine > AGREES_COSINE else "close" if cosine > CLOSE_COSINE else "differs"


def read_released(source: Path) -> dict[str, Released]:
    """Return the released features of every teacher that has any, by our names.

    Raises:
        CorpusError: the folder is not laid out as released, or a teacher's features have several widths.
    """
    entries = read_meta(source)
    features = [read_features(source / entry["imgpath"]) for entry in entries]
    ids = Counter(entry["id"] for entry in entries)
    # A pair must not stand for another one.
    keys = [one["id"] if ids[one["id"]] == 1 else f"{row} {one['id']}" for row, one in enumerate(entries)]
    released = {}
    for theirs, ours in TEACHER_IDS.items():
        rows = [row for row, found in enumerate(features) if f"{theirs}_img" in found and f"{theirs}_txt" in found]
        widths = {features[row][f"{theirs}_{side}"].size for row in rows for side in ("img", "txt")}
        if len(widths) > 1:
            raise CorpusError(f"{source}: features of {theirs} are {' and '.join(map(str, sorted(widths)))} wide")
        if rows:
            released[ours] = Released(
                keys=[keys[row] for row in rows],
                images=[source / entries[row]["imgpath"] for row in rows],
                captions=[entries[row]["txt"] for row in rows],
                image_ND=np.stack([features[row][f"{theirs}_img"] for row in rows]),
                text_ND=np.stack([features[row][f"{theirs}_txt"] for row in rows]),
            )
    if not released:
        raise CorpusError(f"{source}: holds no features of a teacher")
    return released


def compare(
    reading: str,
    image_ND: Array,
    text_ND: Array,
    released: Mapping[str, Released],
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Verdict:
    """Compare our features, unit norm and in the order of the released ones, with those released for a teacher.

    The features of the other teachers show whether two were mixed up.

    Args:
        settings: what the reading changes.
    """
    theirs = released[name]
    if image_ND.shape[1] != theirs.image_ND.shape[1]:
        note = f"{image_ND.shape[1]} wide, the released ones {theirs.image_ND.shape[1]}: another model"
        return Verdict(reading=reading, settings=settings or {}, image={}, text={}, note=note)
    cosines_2N = [
        np.sum(ours * unit(other), axis=1) for ours, other in ((image_ND, theirs.image_ND), (text_ND, theirs.text_ND))
    ]
    image, text = (dict(zip(theirs.keys, map(float, side), strict=True)) for side in cosines_2N)
    agree = [bool((side_N > CLOSE_COSINE).all()) for side_N in cosines_2N]
    finite_N = np.isfinite(theirs.image_ND).all(axis=1) & np.isfinite(theirs.text_ND).all(axis=1)
    if not finite_N.all():
        key = theirs.keys[int(np.argmin(finite_N))]
        note = f"{int((~finite_N).sum())} pairs have released features that are not finite, {key} first"
    else:
        note = "" if all(agree) else _explain(agree, image_ND, released, name)
    return Verdict(reading=reading, settings=settings or {}, image=image, text=text, note=note)


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
        if (np.sum(image_ND[rows] * unit(other.image_ND[others]), axis=1) > CLOSE_COSINE).all():
            return f"these are the features of {other_name}"
    best_N = (image_ND @ unit(theirs.image_ND).T).max(axis=1)
    if len(best_N) > 1 and (best_N > CLOSE_COSINE).all():
        return "the same features in another order: images and features are not of the same pairs"
    return ""
