"""Makes an image small and encodes it again, as a store's pixel cache keeps it."""

from __future__ import annotations

import io

import PIL
import pyarrow as pa
from PIL import Image, features

from store.errors import PairDecodeError
from store.format.pixels import PixelSpec, SmallImage
from store.images.decode import MAX_PIXELS, decode_image


def keep(data: bytes, spec: PixelSpec, *, max_pixels: int = MAX_PIXELS) -> SmallImage:
    """Return an image file as the cache stores it.

    Raises:
        PairDecodeError: it cannot be decoded, or the format cannot hold it.
    """
    image = decode_image(data, max_pixels=max_pixels, window=spec.window)
    small = shrink(image, spec.short_side_px)
    encoded = encode(small, spec)
    if spec.keeps_small_originals and small is image and len(data) <= len(encoded) and _is_plain(data):
        encoded = data
    return SmallImage(data=encoded, width=small.width, height=small.height)


def _is_plain(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L")


def shrink(image: Image.Image, short_side_px: int) -> Image.Image:
    """Return an image resized to that short side, antialiased; a smaller image unchanged."""
    short, long = sorted(image.size)
    if short <= short_side_px:
        return image
    other = round(long * short_side_px / short)
    size = (short_side_px, other) if image.width <= image.height else (other, short_side_px)
    return image.resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, spec: PixelSpec) -> bytes:
    """Return an RGB image as a file.

    Raises:
        PairDecodeError: the format cannot hold it (WebP ends at 16383 pixels a side, JPEG at 65535).
    """
    buffer = io.BytesIO()
    # Otherwise Pillow would copy the original's metadata into the file.
    image.info = {}
    try:
        image.save(buffer, spec.format, **spec.options)
    except (ValueError, OSError) as error:
        raise PairDecodeError(
            f"the image of {image.width} x {image.height} pixels cannot be kept as {spec.format}: {error}"
        ) from error
    return buffer.getvalue()


def codec_versions() -> dict[str, str]:
    """Return the versions of what decides an image's bytes, for a receipt."""
    codecs = {"libwebp": features.version("webp"), "libjpeg": features.version("jpg"), "pyarrow": pa.__version__}
    return {"pillow": PIL.__version__} | {name: version for name, version in codecs.items() if version}
