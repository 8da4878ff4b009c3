"""Finds the reading of a teacher that gives the released features: variants, both sides' best, then preprocessing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from extract.teacher_files.entry import TeacherEntry, Variant
from extract.teacher_files.geometry import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENAI_MEAN,
    OPENAI_STD,
    Geometry,
    Preprocessing,
    fit,
)
from extract.teacher_files.specs import teacher_spec
from store.errors import PairDecodeError, TeacherError, WeightsNotFoundError
from store.images.decode import open_image

from .golden import AGREES_COSINE, OWN, Released, Verdict, compare
from .loading import load_teacher

log = logging.getLogger(__name__)

FILES = frozenset({"folder", "family", "checkpoint", "architecture", "config", "download"})
"""Keys of a variant of other files; settings of two such variants cannot be put together."""

Settings = Mapping[str, Any]


def examine(
    name: str,
    entry: TeacherEntry,
    released: Mapping[str, Released],
    *,
    device: str = "cpu",
    max_pixels: int,
    fetch_options: str = "",
) -> list[Verdict]:
    """Compare a teacher with its released features, and look for a reading that agrees if it does not.

    Readings are tried in this order until one agrees: the entry's own settings; its variants; the variants that are
    best on images and on captions, put together. If the best of these is close, all changes of resize filter,
    antialias, mean and std, crop and precision are tried.

    Args:
        fetch_options: of the command that fetches this pipeline's teachers; a hint names it.

    Returns:
        One verdict per reading, the configured one first.

    Raises:
        WeightsNotFoundError: its weights are not on this machine.
    """
    verdicts: list[Verdict] = []

    def agrees(reading: str, settings: Settings) -> bool:
        log.info("teacher %s: comparing %s", name, reading)
        changed = entry.read_as(Variant.model_validate(settings, strict=False))
        try:
            verdict = _judge(reading, name, changed, released, settings, device=device, max_pixels=max_pixels)
        except TeacherError as error:
            if reading == OWN:
                raise
            if isinstance(error, WeightsNotFoundError):
                command = f"python -m extract fetch {name}{fetch_options} --variant {reading}"
                error = TeacherError(f"weights are missing: {command}")
            verdict = Verdict(reading=reading, settings=settings, image={}, text={}, note=str(error))
        verdicts.append(verdict)
        return verdict.band == "agrees"

    if agrees(OWN, {}):
        return verdicts
    variants = {key: variant.model_dump(mode="json", exclude_unset=True) for key, variant in entry.variants.items()}
    if any(agrees(key, settings) for key, settings in variants.items()):
        return verdicts
    both = _best_of_each_side(verdicts)
    if both and agrees(*both):
        return verdicts
    best = max(verdicts, key=_rank)
    if best.band == "close":
        for reading, settings in _small_changes(name, entry, best):
            agrees(reading, settings)
    return verdicts


def _judge(
    reading: str,
    name: str,
    entry: TeacherEntry,
    released: Mapping[str, Released],
    settings: Settings,
    *,
    device: str,
    max_pixels: int,
) -> Verdict:
    theirs = released[name]
    teacher = load_teacher(teacher_spec(name, entry), entry, device=device)
    pixels_BHWC = np.stack([_pixels(path, teacher.geometry, max_pixels) for path in theirs.images])
    image_ND, text_ND = teacher.encode_image(pixels_BHWC), teacher.encode_text(theirs.captions)
    return compare(reading, image_ND, text_ND, released, name, settings=settings)


def _pixels(path: Path, geometry: Geometry, max_pixels: int) -> npt.NDArray[np.uint8]:
    try:
        return fit(open_image(path.read_bytes(), max_pixels=max_pixels).image, geometry)
    except PairDecodeError as error:
        raise PairDecodeError(f"{path}: {error}") from error


def _rank_of(verdict: Verdict, side: int) -> float:
    return float(np.nan_to_num(verdict.worst[side], nan=-2.0))


def _rank(verdict: Verdict) -> float:
    return min(_rank_of(verdict, side) for side in (0, 1))


def _best_of_each_side(verdicts: Sequence[Verdict]) -> tuple[str, Settings] | None:
    """Return the variants that are best on images and on captions as one reading; None if they are the same."""
    comparable = [verdict for verdict in verdicts if verdict.image and not FILES & verdict.settings.keys()]
    if not comparable:
        return None
    image, text = (max(comparable, key=partial(_rank_of, side=side)) for side in (0, 1))
    settings = {**image.settings, **text.settings}
    if image.settings.keys() & text.settings.keys() or any(settings == verdict.settings for verdict in verdicts):
        return None
    return f"{image.reading} + {text.reading}", settings


def _small_changes(name: str, entry: TeacherEntry, best: Verdict) -> Iterator[tuple[str, Settings]]:
    """Yield the best reading with one small change each, of the sides that are close."""
    changed = entry.read_as(Variant.model_validate(best.settings, strict=False))
    preprocessing = Preprocessing.model_validate(teacher_spec(name, changed).preprocessing)
    geometry, stated = preprocessing.geometry, dict(best.settings.get("preprocess") or {})
    before = "" if best.reading == OWN else f"{best.reading} + "
    changes: list[dict[str, Any]] = []
    if best.bands[0] == "close":
        changes.append({"interpolation": "bilinear" if geometry.interpolation == "bicubic" else "bicubic"})
        pillow = {"resize_by": "pillow"} if geometry.resize_by == "torch" else {}
        changes += [pillow] if pillow else []
        changes += [{"antialias": False, **pillow}] if geometry.resize_mode != "longest" else []
        for mean, std in ((OPENAI_MEAN, OPENAI_STD), (IMAGENET_MEAN, IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3)):
            changes += [{"mean": [*mean], "std": [*std]}] if mean != preprocessing.mean else []
        modes = ("shortest", "shortest_floor_crop", "squash")
        changes += [{"resize_mode": mode} for mode in modes if mode != geometry.resize_mode]
    for change in changes:
        yield before + line_of(change), {**best.settings, "preprocess": stated | change}
    for precision in ("bf16", "fp16"):
        if precision != changed.precision:
            yield before + line_of({"precision": precision}), {**best.settings, "precision": precision}


def line_of(settings: Settings) -> str:
    """Return settings as one line of YAML."""
    return yaml.safe_dump(dict(settings), default_flow_style=True, width=10**6, sort_keys=False).strip()


def summary(name: str, verdicts: Sequence[Verdict]) -> list[str]:
    """Return the conclusion for a teacher; the last line is to be put into pipelines.yaml, if one must be changed."""
    own, best = verdicts[0], max(verdicts, key=_rank)
    if own.band == "agrees":
        return [f"{name}: agrees with the released features; nothing to change"]
    lines = []
    if best.band == "agrees":
        lines.append(f"{name}: agrees with the released features if read as {best.reading}")
    elif best.band == "close":
        lines.append(
            f"{name}: {best.reading} is close to the released features (image {best.worst[0]:.5f}, text "
            f"{best.worst[1]:.5f}; more than {AGREES_COSINE} is needed), and none of the changes that were tried "
            "explains the rest: resize filter, antialias, mean and std, crop, precision"
        )
    else:
        lines.append(f"{name}: no reading that was tried agrees with the released features")
    lines += [f"{name}: {one.reading} was not tried: {one.note}" for one in verdicts if one.band == "not tried"]
    if best.band == "agrees":
        lines.append(f"pipelines.yaml, teachers.{name}: {line_of(best.settings)}")
    return lines
