"""Suffixes of image files: those that Pillow reads in this environment, and DICOM."""

from __future__ import annotations

import functools

from PIL import Image

DICOM_SUFFIXES = frozenset({"dcm", "dicom"})

NOT_PIXELS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow only recognizes, or that another program would have to draw."""


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of image files, in lower case and without a dot."""
    Image.preinit()  # the common formats first: Pillow tries all that it has in this order
    Image.init()
    readable = {
        suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN.keys() - NOT_PIXELS
    }
    return DICOM_SUFFIXES | {"mpo"} | {suffix.removeprefix(".") for suffix in readable}
