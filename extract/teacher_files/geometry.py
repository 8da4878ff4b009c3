"""Resizes and crops images as a model needs them; teachers that need the same share the result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from functools import partial
from operator import methodcaller
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and std per channel of the images that OpenAI's CLIP was trained on; open_clip's default."""


class Geometry(BaseModel):
    """Resize and crop by the names of open_clip's preprocessing configuration, and two modes of other libraries.

    Attributes:
        size_px: side of the square that the model sees.
        resize_mode: ``shortest`` side to size then centre crop; ``longest`` side to size then pad; ``squash``.
            ``shortest_floor_crop`` is transformers' ``CLIPImageProcessor``: it rounds uneven margins of the crop down,
            torchvision rounds them to even. ``pad_square_grey`` is MedCLIP's: grey, padded with black to a square of at
            least the model's size, then resized.
        interpolation: antialiased.
        fill_color: grey level of padding.
    """

    model_config = ConfigDict(frozen=True)

    size_px: int
    resize_mode: Literal["shortest", "longest", "squash", "shortest_floor_crop", "pad_square_grey"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill_color: int = 0


class Preprocessing(BaseModel):
    """Geometry, then RGB in [0, 1], then mean and std per channel."""

    model_config = ConfigDict(frozen=True)

    geometry: Geometry
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    @classmethod
    def from_open_clip(cls, config: dict[str, Any]) -> Preprocessing:
        """Read an ``open_clip_config.json``; settings that are left out get open_clip's defaults."""
        stated = {name: value for name, value in config.get("preprocess_cfg", {}).items() if value is not None}
        size = config["model_cfg"]["vision_cfg"].get("image_size", 224)
        names = ("resize_mode", "interpolation", "fill_color")
        geometry = Geometry(size_px=size, **{name: stated[name] for name in names if name in stated})
        return cls(geometry=geometry, **{name: stated[name] for name in ("mean", "std") if name in stated})


Step = tuple[str, Callable[[Image.Image], Image.Image]]
"""A named step of preprocessing; two steps with the same name are equal."""


def fit(image: Image.Image, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Return an RGB image as a model's square, (H, W, 3) uint8."""
    return fit_all(image, [geometry])[geometry]


def fit_all(image: Image.Image, geometries: Iterable[Geometry]) -> dict[Geometry, npt.NDArray[np.uint8]]:
    """Return an RGB image in several geometries; first steps that two geometries share are done once.

    The resize takes as long as decoding, and most geometries differ only in later steps.
    """
    done: dict[tuple[str, ...], Image.Image] = {}
    fitted = {}
    for geometry in geometries:
        current, path = image, tuple[str, ...]()
        for name, step in _steps(geometry):
            path = (*path, name)
            if path not in done:
                done[path] = step(current)
            current = done[path]
        fitted[geometry] = np.asarray(current)
    return fitted


@functools.cache
def _steps(geometry: Geometry) -> tuple[Step, ...]:
    # Imported here because planning reads preprocessing and must not wait for torch.
    from open_clip.transform import CenterCropOrPad, ResizeKeepRatio
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    size = geometry.size_px
    interpolation = InterpolationMode(geometry.interpolation)
    shortest: Step = f"short side to {size} {interpolation}", Resize(size, interpolation=interpolation)
    squash: Step = f"both sides to {size} {interpolation}", Resize((size, size), interpolation=interpolation)
    if geometry.resize_mode == "pad_square_grey":
        pad: Step = f"square of at least {size}", partial(_pad_square, at_least=size)
        return ("grey", methodcaller("convert", "L")), pad, squash, ("colours", methodcaller("convert", "RGB"))
    if geometry.resize_mode == "shortest_floor_crop":
        return shortest, (f"crop to {size}, down", partial(_crop_rounding_down, size=size))
    if geometry.resize_mode == "squash":
        return (squash,)
    if geometry.resize_mode == "longest":
        resize = ResizeKeepRatio(size, interpolation=interpolation, longest=1)
        crop_or_pad = CenterCropOrPad(size, fill=geometry.fill_color)
        return (f"long side to {size} {interpolation}", resize), (f"pad to {size} {geometry.fill_color}", crop_or_pad)
    return shortest, (f"crop to {size}", CenterCrop(size))


def _pad_square(image: Image.Image, *, at_least: int) -> Image.Image:
    side = max(at_least, *image.size)
    canvas = Image.new("L", (side, side), 0)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _crop_rounding_down(image: Image.Image, *, size: int) -> Image.Image:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
