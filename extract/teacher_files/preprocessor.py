"""Reads the preprocessing that a model of transformers or timm states, and refuses what cannot be honoured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from store.errors import TeacherError, WeightsNotFoundError

from .entry import FETCH
from .geometry import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENAI_MEAN,
    OPENAI_STD,
    Geometry,
    Interpolation,
    Preprocessing,
    ResizeMode,
)
from .text_tower import read_json

HALF = (0.5, 0.5, 0.5)

Settings = Mapping[str, Any]

MISREAD = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError)
"""Exceptions of a setting that has another type or value than its library writes."""


def _processor(size: Any, resample: int, mean: Any, std: Any, **more: Any) -> dict[str, Any]:
    return {"size": size, "resample": resample, "image_mean": mean, "image_std": std, **more}


SHORT, SQUARE = {"shortest_edge": 224}, {"height": 224, "width": 224}
PROCESSORS: Final[dict[str, dict[str, Any]]] = {
    "CLIPImageProcessor": _processor(SHORT, 3, OPENAI_MEAN, OPENAI_STD, crop_size=224, do_center_crop=True),
    "BitImageProcessor": _processor(SHORT, 3, OPENAI_MEAN, OPENAI_STD, crop_size=224, do_center_crop=True),
    "SiglipImageProcessor": _processor(SQUARE, 3, HALF, HALF),
    "ViTImageProcessor": _processor(SQUARE, 2, HALF, HALF),
    "DINOv3ViTImageProcessor": _processor(SQUARE, 2, IMAGENET_MEAN, IMAGENET_STD),
}
"""Settings of transformers' image processors where a file leaves them out (the class attributes of each)."""

SHORTEST_BY_NUMBER = ("CLIPImageProcessor", "BitImageProcessor")
"""Processors that read a size of one number as that of the short side; others read it as a square."""

RESAMPLE: Final[dict[int, Interpolation]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters."""


def from_transformers(name: str, folder: Path) -> Preprocessing | None:
    """Return the preprocessing of ``processor_config.json`` or ``preprocessor_config.json``, None if neither has one.

    The first counts if both have one, as in transformers (``get_image_processor_dict``), which converts to RGB first;
    its Pillow processors are meant, whose crop rounds uneven margins down.

    Raises:
        TeacherError: it asks for what this program cannot do.
    """
    for file in ("processor_config.json", "preprocessor_config.json"):
        path = folder / file
        stated = read_json(path) if path.is_file() else {}
        own = stated.get("image_processor")
        if own or (path.is_file() and file == "preprocessor_config.json"):
            try:
                return _of_processor(own or stated)
            except MISREAD as error:
                raise _refused(name, path, error) from error
    return None


def _of_processor(own: dict[str, Any]) -> Preprocessing:
    kind = own.get("image_processor_type") or own.get("feature_extractor_type")
    kind = str(kind).removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if kind not in PROCESSORS:
        raise ValueError(f"image_processor_type {kind}; it is read for {', '.join(PROCESSORS)}")
    stated = PROCESSORS[kind] | {key: value for key, value in own.items() if value is not None}
    strange = [key for key, value in stated.items() if key.startswith("do_") and value and key not in KNOWN_STEPS]
    if strange or "crop_pct" in stated:
        raise ValueError(f"{' and '.join(strange or ['crop_pct'])} is not read")
    if not stated.get("do_resize", True) or not stated.get("do_rescale", True):
        raise ValueError("do_resize and do_rescale must be true")
    if not math.isclose(stated.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6):
        raise ValueError(f"rescale_factor {stated['rescale_factor']}, expected 1/255")
    if stated["resample"] not in RESAMPLE:
        raise ValueError(f"resample {stated['resample']}, expected 2 (bilinear) or 3 (bicubic)")
    mode, resized = _resize(stated["size"], shortest=kind in SHORTEST_BY_NUMBER)
    size = _side(stated["crop_size"]) if stated.get("do_center_crop") else resized
    if mode != "squash" and not stated.get("do_center_crop"):
        raise ValueError("the short side is resized and nothing is cropped, so that images keep their shape")
    if size > resized or (mode == "squash" and (resized - size) % 2):
        raise ValueError(f"a crop of {size} px from {resized} px")
    geometry = Geometry(
        size_px=size,
        resize_mode=mode,
        interpolation=RESAMPLE[stated["resample"]],
        resize_px=None if resized == size else resized,
        rgb_first=mode == "squash",
    )
    if not stated.get("do_normalize", True):
        return Preprocessing(geometry=geometry, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Preprocessing(geometry=geometry, mean=_three(stated["image_mean"]), std=_three(stated["image_std"]))


KNOWN_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def _resize(size: Any, *, shortest: bool) -> tuple[ResizeMode, int]:
    if isinstance(size, int):
        return ("shortest_floor_crop" if shortest else "squash"), size
    if set(size) == {"shortest_edge"}:
        return "shortest_floor_crop", int(size["shortest_edge"])
    return "squash", _side(size)


def _side(size: Any) -> int:
    if isinstance(size, int):
        return size
    if set(size) != {"height", "width"} or size["height"] != size["width"]:
        raise ValueError(f"size {size}, expected a square")
    return int(size["height"])


def _three(values: Any) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        values = [values] * 3
    first, second, third = map(float, values)
    return first, second, third


def from_timm(name: str, path: Path, config: Settings) -> Preprocessing:
    """Return the preprocessing of a ``pretrained_cfg`` of timm, by the defaults of its ``resolve_data_config``.

    timm's readers give RGB images to its transform (``transforms_imagenet_eval``).

    Raises:
        TeacherError: it asks for what this program cannot do.
    """
    try:
        return _of_timm({key: value for key, value in config.items() if value is not None})
    except MISREAD as error:
        raise _refused(name, path, error) from error


def _of_timm(stated: Settings) -> Preprocessing:
    channels, height, width = stated.get("input_size", (3, 224, 224))
    if channels != 3 or height != width:
        raise ValueError(f"input_size {stated['input_size']}, expected three channels of a square")
    if stated.get("crop_border_pixels"):
        raise ValueError("crop_border_pixels is not read")
    mode, interpolation = stated.get("crop_mode", "center"), stated.get("interpolation", "bicubic")
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode}, expected center or squash")
    if interpolation not in RESAMPLE.values():
        raise ValueError(f"interpolation {interpolation}, expected bilinear or bicubic")
    resized = math.floor(height / stated.get("crop_pct", 0.875))
    geometry = Geometry(
        size_px=height,
        resize_mode="shortest" if mode == "center" else "squash",
        interpolation=interpolation,
        resize_px=None if resized == height else resized,
        rgb_first=True,
    )
    mean, std = stated.get("mean", IMAGENET_MEAN), stated.get("std", IMAGENET_STD)
    return Preprocessing(geometry=geometry, mean=_three(mean), std=_three(std))


def required(name: str, folder: Path, found: Preprocessing | None) -> Preprocessing:
    """Return a preprocessing that must be there.

    Raises:
        WeightsNotFoundError: it is not.
    """
    if found is None:
        raise WeightsNotFoundError(
            f"teacher {name}: {folder}: preprocessor_config.json missing, so that its resize and crop are not known",
            hint=f"{FETCH} {name}, or put the model's own file there",
        )
    return found


def _refused(name: str, path: Path, error: Exception) -> TeacherError:
    reason = error.errors()[0] if isinstance(error, ValidationError) else None
    said = f"{'.'.join(map(str, reason['loc']))}: {reason['msg']}" if reason else error
    return TeacherError(
        f"teacher {name}: {path}: a preprocessing that is not supported: {said}",
        hint="it would have to be approximated; a converted model folder with a supported preprocessing can be used",
    )
