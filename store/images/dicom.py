"""DICOM files: the pixels of the first frame as a screen shows them, and a few facts of the header.

It knows nothing of a patient: of the header only the elements of `HEADER` leave this module.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from store.errors import PairDecodeError

from .depth import BY_SETTING, MIN_TO_MAX, Window, between

if TYPE_CHECKING:
    from pydicom import Dataset

HEADER = (
    *("Modality", "BodyPartExamined", "ImageType", "SOPClassUID", "PhotometricInterpretation"),
    *("ViewPosition", "Laterality", "ImageLaterality"),
    *("Rows", "Columns", "NumberOfFrames", "BitsStored", "SliceThickness", "PixelSpacing"),
    *("ScanningSequence", "SequenceVariant", "MRAcquisitionType", "MagneticFieldStrength", "KVP"),
)
"""Elements whose values are codes, sizes and settings of the scanner. Descriptions, comments and every other free text
are left out, because people write names into them; so are dates, identifiers, institutions and all of the patient."""

DEFLATED = b"1.2.840.10008.1.2.1.99"

BY_FILE = "DICOM pixels are shown through the file's own window or table"
NO_WINDOW = f"DICOM pixels without a window: {MIN_TO_MAX}"
COLOUR = "DICOM colours keep their upper 8 bits"


class Shown(TypedDict):
    """The result of `read_dicom`: an image of 8 bits, and what was done to deeper pixels."""

    image: Image.Image
    changed: str | None


def is_dicom(data: bytes) -> bool:
    """Return whether a file has the preamble of DICOM part 10."""
    return data[128:132] == b"DICM"


def dicom_size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels of a frame, from the header alone.

    Raises:
        PairDecodeError: there are no pixels, as in a report.
    """
    header = _read(data, pixels=False, only=["Rows", "Columns"])
    if "Rows" not in header or "Columns" not in header:
        raise PairDecodeError("the DICOM file has no pixels")
    return int(header.Columns), int(header.Rows)


def dicom_header(data: bytes) -> dict[str, Any]:
    """Return the elements of `HEADER` that a DICOM file has, by keyword, as text, numbers and lists of these."""
    header = _read(data, pixels=False, only=[*HEADER])
    values = {name: header[name].value for name in HEADER if name in header}
    return {name: _plain(value) for name, value in values.items() if value not in (None, "")}


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value) if isinstance(value, str) else [_plain(one) for one in value]


def read_dicom(data: bytes, *, window: Window | None = None) -> Shown:
    """Return the first frame as DICOM part 3 has it shown: modality LUT, VOI LUT or window, photometric meaning.

    Args:
        window: in the units of the modality LUT, such as Hounsfield; it comes before the file's own.

    Raises:
        PairDecodeError: the pixels are compressed in a way that is not read here, or the header contradicts them.
    """
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    dataset = _read(data, pixels=True)
    _check_frame(dataset)
    values = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        return _colour(values, 8 * values.dtype.itemsize)
    if values.ndim == 3:
        return _colour(values, int(dataset.BitsStored))
    return _grey(values, _of_first_frame(dataset), window)


def _colour(values: npt.NDArray[Any], bits: int) -> Shown:
    levels = (values >> max(0, bits - 8)).astype(np.uint8)
    return {"image": Image.fromarray(levels), "changed": COLOUR if bits > 8 else None}


def _grey(values: npt.NDArray[Any], frame: Dataset, window: Window | None) -> Shown:
    from pydicom.pixels.processing import apply_modality_lut

    padding = _padding(values, frame)
    units = apply_modality_lut(values, frame)
    deep, changed = int(frame.BitsStored) > 8 or not np.array_equal(units, values), None
    if window is not None and deep:
        shown = units if window != "minmax" or padding.all() else units[~padding]
        low, high = (float(shown.min()), float(shown.max())) if window == "minmax" else window
        levels, changed = between(units, low, high), BY_SETTING
    elif "VOILUTSequence" in frame or ("WindowCenter" in frame and "WindowWidth" in frame):
        levels, changed = _through_voi(units, frame), BY_FILE
    elif deep:
        shown = units if padding.all() else units[~padding]
        levels, changed = between(units, float(shown.min()), float(shown.max())), NO_WINDOW
    else:
        levels = between(units, *_bounds_of_eight_bits(frame))
    if frame.PhotometricInterpretation == "MONOCHROME1":
        levels = 255 - levels
    levels[padding] = 0
    return {"image": Image.fromarray(levels), "changed": changed}


def _bounds_of_eight_bits(frame: Dataset) -> tuple[float, float]:
    span = 2 ** int(frame.BitsStored)
    return (-span / 2, span / 2 - 1) if frame.PixelRepresentation else (0, span - 1)


def _through_voi(units: npt.NDArray[Any], frame: Dataset) -> npt.NDArray[np.uint8]:
    """Return values through the first VOI LUT or window of a frame, the whole range of its output as 0 to 255."""
    from pydicom.pixels.processing import apply_voi, apply_windowing

    if frame.get("VOILUTSequence"):
        if np.issubdtype(units.dtype, np.floating):
            units = np.rint(units).astype(np.int64)
        bits = int(frame.VOILUTSequence[0].LUTDescriptor[2])
        return between(apply_voi(units, frame, index=0), 0, 2**bits - 1)
    # pydicom's output range depends on the bits and the modality LUT: two values beyond any window show it.
    with np.errstate(over="ignore"):
        least, greatest = apply_windowing(np.array([-1e12, 1e12]), frame, index=0)
        return between(apply_windowing(units, frame, index=0), float(least), float(greatest))


def _padding(values: npt.NDArray[Any], frame: Dataset) -> npt.NDArray[np.bool_]:
    """Return where the stored values are padding, which is no part of the picture."""
    if "PixelPaddingValue" not in frame:
        return np.zeros(values.shape, np.bool_)
    # The value is stored as unsigned in many files whose pixels are signed.
    ends = [int(frame[name].value) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit") if name in frame]
    if values.dtype.kind == "i":
        ends = [end - (1 << 16) if end > np.iinfo(np.int16).max else end for end in ends]
    return (values >= min(ends)) & (values <= max(ends))


def _of_first_frame(dataset: Dataset) -> Dataset:
    """Return the header with what an enhanced file states for all frames, or for the first, in functional groups."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or [])[:1]:
            for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(name) or [])[:1]:
                    dataset.update({element.tag: element for element in item})
    return dataset


def _check_frame(dataset: Dataset) -> None:
    """Check before decoding that a compressed frame is of the header's size, and of a kind that is read."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise PairDecodeError(f"the DICOM file's pixels are compressed as {syntax.name}, which is not read")
    if syntax.name.startswith("JPEG"):
        frame = next(generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)))
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            if image.size != (dataset.Columns, dataset.Rows):
                raise PairDecodeError(
                    f"the DICOM file's frame has {image.width} x {image.height} pixels, its header says "
                    f"{dataset.Columns} x {dataset.Rows}"
                )


def _read(data: bytes, *, pixels: bool, only: list[str] | None = None) -> Dataset:
    import pydicom.config

    if DEFLATED in data[:4096]:
        raise PairDecodeError("the DICOM file is deflated as a whole, which is not read: it may expand to any size")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # it would warn and name no row
    tags: Any = only  # keywords are taken, the stubs know tags only
    return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not pixels, specific_tags=tags)
