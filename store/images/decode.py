"""Decoding an image within bounds: one rule for teachers, student and evaluation."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from store.errors import PairDecodeError

MAX_PIXELS = 64_000_000
"""Largest width times height that is decoded (192 MB as RGB); a larger image makes a bad row."""

# Pillow warns at 89 and raises at 179 megapixels. Our bound is stricter and is checked before any pixel is decoded;
# Pillow's would only add a warning that names no row.
Image.MAX_IMAGE_PIXELS = None


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to RGB.

    Palette, grey, CMYK and alpha images are converted by Pillow's ``convert("RGB")``, as the teachers' authors do.
    16-bit grey keeps its upper eight bits; Pillow's own conversion would clip it to white. The first frame of an
    animation is used.

    Raises:
        PairDecodeError: no image, cut short, or larger than the bound.
    """
    if not data:
        raise PairDecodeError("the image file is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data))
        _check_size(image.size, max_pixels)
        image.load()
        return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise PairDecodeError(f"not an image that Pillow knows (it begins with {data[:8]!r})") from error
    except PairDecodeError:
        raise
    # Pillow's decoders raise nearly anything on damaged files, struct.error and SyntaxError among them.
    except Exception as error:
        raise PairDecodeError(f"the image cannot be decoded: {type(error).__name__}: {error}") from error


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from the header alone, or None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # noqa: BLE001 - the worker reports what is wrong with the file
        return None


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PairDecodeError(f"the image has {width} x {height} pixels, more than the bound of {max_pixels}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8), mode="L").convert("RGB")
    return image.convert("RGB")
