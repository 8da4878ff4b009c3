"""Decoding an image within bounds: one rule for teachers, student and evaluation; docs/images.md describes it."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from store.errors import PairDecodeError

from .depth import Stated, Window, to_eight_bits
from .dicom import dicom_size, is_dicom, read_dicom
from .png import SIGNATURE, read_png

MAX_PIXELS = 64_000_000
"""Largest width times height that is decoded (256 MB in Pillow's memory); a larger image makes a bad row."""

# Pillow warns at 89 and raises at 179 megapixels. Our bound is stricter and is checked before any pixel is decoded;
# Pillow's would only add a warning that names no row.
Image.MAX_IMAGE_PIXELS = None

FORMATS = (
    *("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "AVIF", "PPM"),
    *("DIB", "MPO", "PCX", "SGI", "TGA", "SUN", "XBM", "MSP"),
)
"""Formats that Pillow may try. Not among them are those for which it starts another program (EPS, WMF), and those that
hold a whole image of another size than their header states (ICO, ICNS, FITS), which no bound would stop."""

NO_IMAGE = "not an image of a kind that is read (DICOM, PNG, JPEG, TIFF, WebP, BMP, GIF, JPEG 2000, AVIF, PPM)"

WIDE_COLOUR = "16-bit colours keep their upper 8 bits"


@dataclass(kw_only=True, frozen=True, slots=True)
class Decoded:
    """An image of 8 bits a channel.

    Attributes:
        image: in the file's own mode (palette, grey, with alpha ...), because some teachers' authors resize before they
            convert to RGB.
        changed: what was done to deeper pixels, as one of few fixed texts; None if nothing was.
    """

    image: Image.Image
    changed: str | None = None


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, window: Window | None = None) -> Image.Image:
    """Decode an image file to RGB.

    Palette, grey, CMYK and alpha images are converted by Pillow's ``convert("RGB")``. The first frame of an animation,
    of a TIFF or of a DICOM file is used.

    Args:
        window: the values that become black and white, for pixels of more than 8 bits.

    Raises:
        PairDecodeError: no image, cut short, or larger than the bound.
    """
    return to_rgb(open_image(data, max_pixels=max_pixels, window=window).image)


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS, window: Window | None = None) -> Decoded:
    """Decode an image file to 8 bits a channel, in its own mode; as `decode_image` otherwise."""
    if not data:
        raise PairDecodeError("the image file is empty (0 bytes)")
    with one_row_only("decoded"):
        if is_dicom(data):
            _check_size(dicom_size(data), max_pixels)
            return Decoded(**read_dicom(data, window=window))
        significant = None
        if data.startswith(SIGNATURE):
            png = read_png(data)
            data, significant = png.data, png.significant if png.depth == 16 else None
        image = _open(data, max_pixels)
        wide = _is_wide(image, data)
        image.load()
        if image.mode.startswith(("I", "F")):
            if image.mode != "F" and not wide and image.format in ("PPM", "JPEG2000"):
                significant = 16  # Pillow has stretched them to so many
            return _shallow(image, significant, window)
        if wide:
            return _wide_colour(image)
        return Decoded(image=image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB; the image itself where it is.

    Raises:
        PairDecodeError: Pillow cannot convert it.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        del image.info["transparency"]  # dropped in any case; Pillow would warn and name no row
    with one_row_only("converted to RGB"):
        return image.convert("RGB")


@contextmanager
def one_row_only(doing: str) -> Iterator[None]:
    """Make a bad row of whatever Pillow and pydicom raise, on damaged files nearly anything: struct.error, SyntaxError.

    Raises:
        PairDecodeError: it says "the image cannot be" and ``doing``, and quotes nothing of the file.
    """
    try:
        yield
    except UnidentifiedImageError:
        # Without its cause: Pillow's message and the file's first bytes may be anything, a password file's too.
        raise PairDecodeError(NO_IMAGE) from None
    except PairDecodeError:
        raise
    except Exception as error:  # noqa: BLE001 - nearly anything; see above
        raise PairDecodeError(f"the image cannot be {doing}: {type(error).__name__}{_public(error)}") from None


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from the header alone, or None if it cannot be read."""
    try:
        if is_dicom(data):
            return dicom_size(data)
        if data.startswith(SIGNATURE):
            data = read_png(data).data
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            return image.size
    except Exception:  # noqa: BLE001 - the worker reports what is wrong with the file
        return None


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    canvas = _webp_canvas(data)
    if canvas is not None:
        _check_size(canvas, max_pixels)  # before Pillow opens it, which makes room for two canvases
    image = Image.open(io.BytesIO(data), formats=_formats())
    _check_size(image.size, max_pixels)
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PairDecodeError(f"the image has {width} x {height} pixels")
    if width * height > max_pixels:
        raise PairDecodeError(f"the image has {width} x {height} pixels, more than the bound of {max_pixels}")


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP from its header (RFC 9649); None for anything else."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _shallow(image: Image.Image, significant: int | None, window: Window | None) -> Decoded:
    """Return a grey image of 16 or 32 bits as one of 8."""
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,):
        values = values.view(np.uint32)  # Pillow has no mode for them and shows large ones as negative
    levels, changed = to_eight_bits(values, window=window, stated=_stated(values, significant, tags))
    if tags.get(262) == 0:  # white is zero, which Pillow heeds in images of 8 bits only
        levels = 255 - levels
    return Decoded(image=Image.fromarray(levels), changed=changed)


def _is_wide(image: Image.Image, data: bytes) -> bool:
    """Return whether an image that was opened and not yet read has samples of 16 bits."""
    tile = str(getattr(image, "tile", [])[:1])
    if image.format == "JPEG2000":
        at = data.find(b"\xff\x4f\xff\x51")  # SOC and SIZ; the first component's depth comes 42 bytes later
        return at >= 0 and (data[at + 42] & 0x7F) == 15
    return ";16" in tile or (image.format == "PPM" and "65535" in tile)


def _stated(values: Any, significant: int | None, tags: Any) -> Stated:
    if significant == 16:
        return Stated(bits=16)
    if significant is not None:
        # The standard has such values fill all 16 bits, lower bits empty or repeated. Many writers leave them low.
        low = int(values.max()) < 1 << significant and bool((values & ((1 << (16 - significant)) - 1)).any())
        return Stated(bits=significant if low else 16)
    if 8 < tags.get(258, (0,))[0] < 16:
        return Stated(bits=tags[258][0])
    greatest = _first(tags.get(341, tags.get(281)))
    if greatest is None or greatest <= 0:
        return Stated()
    least = _first(tags.get(340, tags.get(280))) or 0
    whole = not np.issubdtype(values.dtype, np.floating)
    if whole and least == 0 and greatest.is_integer() and int(greatest) & (int(greatest) + 1) == 0:
        return Stated(bits=int(greatest).bit_length())
    return Stated(bounds=(least, greatest))


def _first(value: Any) -> float | None:
    values = value if isinstance(value, tuple) else (value,)
    return float(values[0]) if values and values[0] is not None else None


def _wide_colour(image: Image.Image) -> Decoded:
    """Check an image of 16-bit colours, of which Pillow reads the upper 8 bits."""
    extrema = np.array(image.convert("RGB").getextrema())
    if 0 < extrema.max() <= 16:  # 16 where Pillow rounds
        raise PairDecodeError(
            "the image has 16-bit colours of which only 12 bits or fewer are used; the upper 8, which can be read, are "
            "nearly black"
        )
    return Decoded(image=image, changed=WIDE_COLOUR)


def _public(error: Exception) -> str:
    """Return an error's message without anything that it may quote from the file."""
    text = re.sub(r"b?(['\"]).*\1|0x[0-9a-fA-F]+", "...", str(error), flags=re.DOTALL)
    plain = "".join(letter if letter.isascii() and letter.isprintable() else " " for letter in text)
    return f": {plain.strip()}" if plain.strip() else ""
