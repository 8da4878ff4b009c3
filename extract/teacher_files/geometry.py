"""Resizes and crops images as a model needs them; teachers that need the same share the result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from store.config.pipeline_file import Section
from store.errors import PairDecodeError
from store.images.decode import MAX_PIXELS, one_row_only, to_rgb
from store.images.depth import Window

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and std per channel of the images that OpenAI's CLIP was trained on, open_clip's default, and of ImageNet's."""


ResizeMode = Literal["shortest", "longest", "squash", "shortest_floor_crop", "pad_square_grey"]
Interpolation = Literal["bicubic", "bilinear"]
ResizeBy = Literal["pillow", "torch"]


class Geometry(BaseModel):
    """Resize and crop by the names of open_clip's preprocessing configuration, and two modes of other libraries.

    Attributes:
        size_px: side of the square that the model sees.
        resize_mode: ``shortest`` side to size then centre crop; ``longest`` side to size then pad; ``squash``.
            ``shortest_floor_crop`` is transformers' ``CLIPImageProcessor``: it rounds uneven margins of the crop down,
            torchvision rounds them to even. ``pad_square_grey`` is MedCLIP's: grey, padded with black to a square of at
            least the model's size, then resized.
        fill_color: grey level of padding.
        resize_px: what the sides are resized to before the crop, where that is more than the model sees.
        rgb_first: the image is converted to RGB before it is resized, in a mode that does not do so anyway.
        antialias: whether a smaller image is low-pass filtered, as Pillow always does; torchvision's resize of tensors
            can do without.
        resize_by: the library that resizes grey and RGB images; torch is several times as fast and differs by a
            grey level or two. Other images (palettes, bitmaps, alpha, CMYK) are resized by Pillow in any case.

    The last four are left out of a spec where they have their default, so that specs of before them stay the same.
    """

    model_config = ConfigDict(frozen=True)

    size_px: PositiveInt
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    fill_color: int = 0
    resize_px: PositiveInt | None = None
    rgb_first: bool = False
    antialias: bool = True
    resize_by: ResizeBy = "pillow"

    @model_validator(mode="after")
    def _can_be_done(self) -> Geometry:
        if not self.antialias and self.resize_by == "torch":
            raise ValueError("resize_by torch is always antialiased; leave out one of resize_by and antialias")
        if not self.antialias and self.resize_mode == "longest":
            raise ValueError("resize_mode longest is always antialiased")
        if self.resized_px != self.size_px and self.resize_mode in ("longest", "pad_square_grey"):
            raise ValueError(
                f"resize_mode {self.resize_mode} crops nothing; the model's own resizes to {self.resize_px} px"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        later = {"resize_px": None, "rgb_first": False, "antialias": True, "resize_by": "pillow"}
        return {name: value for name, value in serialize(self).items() if name not in later or value != later[name]}

    @property
    def resized_px(self) -> int:
        """Side that the resize makes."""
        return self.resize_px or self.size_px

    @property
    def converts_first(self) -> bool:
        """Return whether the image is converted to RGB before it is resized."""
        return self.rgb_first or self.resize_mode in CONVERTED_FIRST

    def __str__(self) -> str:
        resize = {
            "shortest": "short side to {} px, centre crop",
            "shortest_floor_crop": "short side to {} px, centre crop rounded down",
            "longest": "long side to {} px, padded",
            "squash": "both sides to {} px",
            "pad_square_grey": "grey, padded to a square, resized to {} px",
        }[self.resize_mode].format(self.resized_px)
        crop = f" of {self.size_px} px" if "crop" in resize else ""
        if self.resize_mode == "squash" and self.resized_px != self.size_px:
            crop = f", centre crop of {self.size_px} px"
        order = "RGB before" if self.converts_first else "RGB after"
        how = ("" if self.antialias else " without antialias") + (" by torch" if self.resize_by == "torch" else "")
        return f"{resize}{crop}, {self.interpolation}{how}, {order} the resize"


class Overrides(Section):
    """Settings that replace those of a model's own preprocessing (``preprocess`` of an entry)."""

    resize_mode: ResizeMode | None = None
    interpolation: Interpolation | None = None
    fill_color: int | None = Field(default=None, ge=0, le=255)
    antialias: bool | None = None
    resize_by: ResizeBy | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None


class Preprocessing(BaseModel):
    """Geometry, then RGB in [0, 1], then mean and std per channel.

    Attributes:
        window: the pipeline's ``image.window``, for pixels of more than 8 bits; left out of a spec where it is None, so
            that specs of before it stay the same.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    geometry: Geometry
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = OPENAI_STD
    window: Window | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    def __str__(self) -> str:
        mean, std = (
            " ".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))
            for values in (self.mean, self.std)
        )
        return f"{self.geometry}; mean {mean}, std {std}"

    def replaced(self, overrides: Overrides | None) -> Preprocessing:
        """Return the preprocessing with the settings that an entry states instead of the model's own.

        Raises:
            ValidationError: they do not go together.
        """
        stated = {} if overrides is None else overrides.model_dump(exclude_none=True)
        geometry = dict(self.geometry) | {name: stated.pop(name) for name in Geometry.model_fields if name in stated}
        return self.model_copy(update={"geometry": Geometry(**geometry), **stated})

    @classmethod
    def from_open_clip(cls, config: dict[str, Any]) -> Preprocessing:
        """Read an ``open_clip_config.json``; settings that are left out get open_clip's defaults."""
        stated = {name: value for name, value in config.get("preprocess_cfg", {}).items() if value is not None}
        size = config["model_cfg"]["vision_cfg"].get("image_size", 224)
        names = ("resize_mode", "interpolation", "fill_color")
        geometry = Geometry(size_px=size, **{name: stated[name] for name in names if name in stated})
        return cls(geometry=geometry, **{name: stated[name] for name in ("mean", "std") if name in stated})


Resizer = Callable[[Image.Image], Image.Image]

Step = tuple[str, Resizer]
"""A named step of preprocessing; two steps with the same name are equal."""


CONVERTED_FIRST = ("shortest_floor_crop", "pad_square_grey")
"""Modes whose authors (transformers' processor, MedCLIP) convert to RGB before they resize. open_clip's transform
resizes first: a palette or a bitmap by its nearest pixels, and colours weighted by their alpha."""

BYTES_PER_PIXEL = 4
"""Bytes that Pillow takes for a pixel of several channels, and torch for any; Pillow takes one for a single channel."""


def fit(image: Image.Image, geometry: Geometry, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Return an image as a model's square, (H, W, 3) uint8; see `fit_all`."""
    return fit_all(image, [geometry], max_pixels=max_pixels)[geometry]


def fit_all(
    image: Image.Image, geometries: Iterable[Geometry], *, max_pixels: int = MAX_PIXELS
) -> dict[Geometry, npt.NDArray[np.uint8]]:
    """Return an image in every geometry; steps that the geometries share are done once.

    The resize takes as long as decoding, and most geometries differ only in later steps.

    Args:
        image: of 8 bits a channel, in its file's own mode.
        max_pixels: no step may need more memory than a decoded image of so many pixels.

    Raises:
        PairDecodeError: it is so long and narrow that a step would need more.
    """
    done: dict[tuple[str, ...], Image.Image] = {}

    def after(path: tuple[str, ...], step: Resizer, current: Image.Image) -> Image.Image:
        if path not in done:
            done[path] = step(current)
        return done[path]

    fitted = {}
    with one_row_only("resized"):
        for geometry in geometries:
            current, path = image, tuple[str, ...]()
            # Grey images are the same in either order, and cheaper with one channel.
            if geometry.converts_first and image.mode not in ("L", "RGB"):
                path = ("colours",)
                current = after(path, to_rgb, current)
            _check_memory(current, geometry, max_pixels)
            for name, step in _steps(geometry):
                path = (*path, name)
                current = after(path, step, current)
            fitted[geometry] = np.asarray(after((*path, "colours"), to_rgb, current))
    return fitted


def _check_memory(image: Image.Image, geometry: Geometry, max_pixels: int) -> None:
    (width, height), side = image.size, geometry.resized_px
    if geometry.resize_mode == "pad_square_grey":
        needed = max(side, width, height) ** 2
    else:
        longest, shortest = max(width, height), min(width, height)
        scale = {"longest": side / longest, "squash": None}.get(geometry.resize_mode, side / shortest)
        across, down = (side, side) if scale is None else (width * scale, height * scale)
        # Pillow resizes across first, and keeps the result of that for all rows.
        single = image.mode in ("1", "P") or (image.mode == "L" and geometry.resize_by == "pillow")
        needed = int(across * max(height, down)) * (1 if single else BYTES_PER_PIXEL)
    if needed > max_pixels * BYTES_PER_PIXEL:
        raise PairDecodeError(
            f"the image of {width} x {height} pixels is too long and narrow: resizing it for a model of {side} px "
            f"takes {needed // 10**6} MB, more than the bound of {max_pixels * BYTES_PER_PIXEL // 10**6} MB"
        )


@functools.cache
def _steps(geometry: Geometry) -> tuple[Step, ...]:
    # Imported here because planning reads preprocessing and must not wait for torch.
    from open_clip.transform import CenterCropOrPad, ResizeKeepRatio
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    size, to = geometry.size_px, geometry.resized_px
    interpolation = InterpolationMode(geometry.interpolation)
    crop: Step = f"crop to {size}", CenterCrop(size)
    how = f"{interpolation}{'' if geometry.antialias else ' without antialias'} by {geometry.resize_by}"
    resize = partial(Resize, interpolation=interpolation, antialias=geometry.antialias)

    def by_library(step: Resizer, sides: Callable[[Image.Image], Sequence[int]]) -> Resizer:
        if geometry.resize_by == "torch":
            return partial(_by_torch, by_pillow=step, sides=sides, interpolation=geometry.interpolation)
        return step if geometry.antialias else _on_tensors(step)

    shortest: Step = f"short side to {to} {how}", by_library(resize(to), partial(_short_side_to, to))
    squash: Step = f"both sides to {to} {how}", by_library(resize((to, to)), lambda _: (to, to))
    if geometry.resize_mode == "pad_square_grey":
        pad: Step = f"square of at least {size}", partial(_pad_square, at_least=size)
        return ("grey", methodcaller("convert", "L")), pad, squash
    if geometry.resize_mode == "shortest_floor_crop":
        return shortest, (f"crop to {size}, down", partial(_crop_rounding_down, size=size))
    if geometry.resize_mode == "squash":
        return (squash,) if to == size else (squash, crop)
    if geometry.resize_mode == "longest":
        keep_ratio = ResizeKeepRatio(size, interpolation=interpolation, longest=1)
        longest = by_library(keep_ratio, lambda image: keep_ratio.get_params(image, (size, size), 1))
        crop_or_pad = CenterCropOrPad(size, fill=geometry.fill_color)
        return (f"long side to {size} {how}", longest), (f"pad to {size} {geometry.fill_color}", crop_or_pad)
    return shortest, crop


def _short_side_to(to: int, image: Image.Image) -> tuple[int, int]:
    """Return height and width as torchvision computes them."""
    width, height = image.size
    long = int(to * max(width, height) / min(width, height))
    return (to, long) if height <= width else (long, to)


def _by_torch(
    image: Image.Image, *, by_pillow: Resizer, sides: Callable[[Image.Image], Sequence[int]], interpolation: str
) -> Image.Image:
    """Resize a grey or RGB image by torch, on this thread alone and without the interpreter's lock.

    Args:
        sides: height and width that the image is to get.
    """
    import torch
    from torch.nn.functional import interpolate
    from torch.utils.dlpack import from_dlpack

    height, width = sides(image)
    # torch takes four bytes for a grey pixel too; only a padded square can be so large.
    large = image.mode == "L" and image.width * image.height > MAX_PIXELS
    if image.mode not in ("L", "RGB") or large or (width, height) == image.size:
        return by_pillow(image)
    try:
        # Pillow's own memory: an RGB pixel has a fourth byte there, with which torch is fastest.
        held = pa.array(image)
        flat = from_dlpack(held.values if image.mode == "RGB" else held)
    except ValueError:  # a large image lies in several blocks of memory
        flat = torch.from_numpy(np.array(image).reshape(-1))
    pixels_HWC = flat.view(image.height, image.width, -1)
    resized_BCHW = interpolate(pixels_HWC.permute(2, 0, 1)[None], (height, width), mode=interpolation, antialias=True)
    # numpy puts the channels last on this thread; torch would take several.
    resized_HWC = np.ascontiguousarray(resized_BCHW[0].numpy()[:3].transpose(1, 2, 0))
    return Image.fromarray(resized_HWC[..., 0] if image.mode == "L" else resized_HWC)


def _on_tensors(resize: Callable[[Any], Any]) -> Resizer:
    """Return a resize of RGB images that goes over tensors: torchvision antialiases Pillow's images always."""
    from torchvision.transforms.functional import pil_to_tensor, to_pil_image

    def resized(image: Image.Image) -> Image.Image:
        fitted: Image.Image = to_pil_image(resize(pil_to_tensor(to_rgb(image))))
        return fitted

    return resized


def _pad_square(image: Image.Image, *, at_least: int) -> Image.Image:
    side = max(at_least, *image.size)
    canvas = Image.new("L", (side, side), 0)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _crop_rounding_down(image: Image.Image, *, size: int) -> Image.Image:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
