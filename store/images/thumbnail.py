"""Small images for pages."""

from __future__ import annotations

import base64
import io

from PIL import Image

THUMBNAIL_PX = 112
"""Longest side: two fit on a narrow screen, and the image can still be recognised."""
THUMBNAIL_QUALITY = 80


def thumbnail(image: Image.Image) -> str:
    """Return an image as a small JPEG in base64, of 3 to 6 KiB; transparent parts become dark."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
