"""Pixels deeper than 8 bits: a ramp stays a ramp, exactly, and what was done is said."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from store.errors import PairDecodeError
from store.images.decode import decode_image, open_image

from .test_decode import chunk, with_chunks


def tiff(values, **tags):
    """Return a TIFF with tags by number, as ``t341=4095``."""
    directory = ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name[1:])] = value
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=directory)
    return buffer.getvalue()


def png(values, *, significant=None):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    chunks = [(b"sBIT", bytes([significant]))] if significant else []
    return with_chunks(buffer.getvalue(), *chunks)


def levels(data, **options):
    pixels = np.asarray(decode_image(data, **options))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    return pixels[0, :, 0].tolist()


def ramp(low, high, dtype):
    return np.tile(np.linspace(low, high, 64), (3, 1)).astype(dtype)


UP = np.linspace(0, 1, 64)

CASES = {
    "8 bit": (png(ramp(0, 255, np.uint8)), ramp(0, 255, np.uint8)[0], None),
    "10 bit in 16": (
        png(ramp(0, 1023, np.uint16)),
        ramp(0, 1023, int)[0] >> 2,
        "of 10 bits keep their upper 8",
    ),
    "12 bit in 16": (
        png(ramp(0, 4095, np.uint16)),
        ramp(0, 4095, int)[0] >> 4,
        "of 12 bits keep their upper 8",
    ),
    "16 bit": (png(ramp(0, 65535, np.uint16)), ramp(0, 65535, int)[0] >> 8, "of 16 bits keep their upper 8"),
    "8 bit in 16": (png(ramp(0, 255, np.uint16)), ramp(0, 255, int)[0], "of 8 bits in a deeper file"),
    "int32, 0 to 255": (tiff(ramp(0, 255, np.int32)), ramp(0, 255, int)[0], "of 8 bits in a deeper file"),
    "int32, 0 to 100,000": (tiff(ramp(0, 100_000, np.int32)), ramp(0, 100_000, int)[0] >> 9, "of 17 bits"),
    "float, 0 to 1": (tiff(ramp(0, 1, np.float32)), np.rint(UP * 255), "float pixels from 0 to 1"),
    "float, 0 to 255": (tiff(ramp(0, 255, np.float32)), np.rint(UP * 255), "float pixels of 8 bits"),
    "float, 0 to 65535": (tiff(ramp(0, 65535, np.float32)), np.rint(UP * 255), "float pixels of 16 bits"),
    "float, 0 to 3": (tiff(ramp(0, 3, np.float32)), np.rint(UP * 255), "float pixels of 2 bits"),
    "float, 0 to 1e38": (tiff(ramp(0, 2.0**126, np.float32)), np.rint(UP * 127.5), "float pixels of 127 bits"),
    "Hounsfield": (tiff(ramp(-1000, 1000, np.int32)), UP * 255, "negative values"),
    "float, -1 to 1": (tiff(ramp(-1, 1, np.float32)), UP * 255, "negative values"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_ramp_stays_a_ramp(name):
    data, wanted, changed = CASES[name]
    # Whole numbers and shares: exact. A ramp that was rounded to integers, or is stretched: to one level.
    assert np.abs(np.array(levels(data)) - wanted).max() <= (0 if "bit" in name else 1)
    said = open_image(data).changed
    assert (said is None) if changed is None else (changed in said)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_significant_bits_of_a_png_are_respected_low_or_high(bits):
    values = ramp(0, 900, np.uint16)
    assert levels(png(values, significant=bits)) == (values[0] >> (bits - 8)).tolist()
    high = (ramp(0, (1 << bits) - 1, np.uint16)) << (16 - bits)
    assert levels(png(high, significant=bits)) == (high[0] >> 8).tolist()
    dark = high // 64 >> (16 - bits) << (16 - bits)  # below 2**bits, with empty lower bits: high
    assert levels(png(dark, significant=bits)) == (dark[0] >> 8).tolist()


def test_the_largest_sample_value_of_a_tiff_is_respected_unless_the_pixels_contradict_it():
    values = ramp(0, 900, np.uint16)
    assert levels(tiff(values, t341=4095)) == (values[0] >> 4).tolist()
    assert levels(tiff(values, t281=4095)) == (values[0] >> 4).tolist()
    assert levels(tiff(values, t340=100, t341=1000)) == levels(tiff(values))  # 0 is less than the least, 100
    shifted = ramp(100, 900, np.uint16)
    assert levels(tiff(shifted, t340=100, t341=1000)) == np.rint((shifted[0] - 100.0) / 900 * 255).tolist()
    assert levels(tiff(values, t341=511)) == (values[0] >> 2).tolist()
    assert np.abs(np.array(levels(tiff(ramp(0, 2, np.float32), t341=4.0))) - UP * 127.5).max() <= 1


def test_bits_per_sample_of_a_tiff_are_respected():
    samples = np.linspace(0, 2000, 64).astype(int)
    packed = b"".join(
        bytes([one >> 4, (one & 15) << 4 | two >> 8, two & 255])
        for one, two in zip(samples[::2].tolist(), samples[1::2].tolist(), strict=True)
    )
    entries = [(256, 64), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, len(packed))]
    body = b"".join(
        np.array([tag, 3], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, value in entries
    )
    head = b"II*\0\x08\0\0\0" + np.uint16(len(entries)).tobytes() + body + bytes(4)
    assert len(head) == 122
    assert levels(head + packed) == (samples >> 4).tolist()


def test_white_is_zero_is_heeded_in_deep_images_too():
    values = ramp(0, 65535, np.uint16)
    assert levels(tiff(values, t262=0)) == (255 - (values[0] >> 8)).tolist()


def test_a_window_is_taken_before_everything_else_but_never_for_eight_bits():
    values = ramp(-1000, 1000, np.int32)
    wanted = np.rint((values[0] + 160).clip(0, 400) / 400 * 255).tolist()
    assert levels(tiff(values), window=(-160, 240)) == wanted
    assert open_image(tiff(values), window=(-160, 240)).changed == "pixels are scaled by image.window"
    assert levels(png(ramp(0, 900, np.uint16), significant=12), window="minmax")[-1] == 255
    assert levels(png(ramp(0, 255, np.uint8)), window=(0, 10)) == ramp(0, 255, np.uint8)[0].tolist()


def test_pixels_that_are_no_finite_numbers_make_a_bad_row():
    for wrong in (np.nan, np.inf, -np.inf):
        values = ramp(0, 1, np.float32)
        values[1, 1] = wrong
        with pytest.raises(PairDecodeError, match="NaN or infinity"):
            decode_image(tiff(values))


def test_an_even_image_has_one_level():
    for value in (0, 7, 4095, 65535):
        assert len(set(levels(png(np.full((3, 4), value, np.uint16))))) == 1
    assert set(levels(tiff(np.full((3, 4), -5, np.int32)))) == {0}
    assert set(levels(tiff(np.full((3, 4), -5, np.int32)), window="minmax")) == {0}


def test_a_pgm_of_twelve_bits_is_read_by_its_own_largest_value():
    values = ramp(0, 4095, np.uint16)
    data = b"P5\n64 3\n4095\n" + values.astype(">u2").tobytes()
    assert np.abs(np.array(levels(data)) - UP * 255).max() <= 1
    dark = b"P5\n64 3\n4095\n" + (values // 16).astype(">u2").tobytes()
    assert max(levels(dark)) == 15


def colours_of_16_bits(values_HWC, *, significant=None):
    """Return a PNG of 16-bit colours, which Pillow cannot write."""
    height, width, _ = values_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    header = np.array([width, height], ">u4").tobytes() + bytes([16, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), *([(b"sBIT", bytes([significant] * 3))] if significant else [])]
    chunks += [(b"IDAT", PngImagePlugin.zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def test_colours_of_16_bits_keep_the_upper_8_and_are_refused_where_these_are_nearly_black():
    values = np.stack([ramp(0, 65535, np.uint16)] * 3, axis=2)
    opened = open_image(colours_of_16_bits(values))
    assert np.array_equal(np.asarray(opened.image), values >> 8)
    assert opened.changed == "16-bit colours keep their upper 8 bits"
    for significant in (None, 12):
        with pytest.raises(PairDecodeError, match="only 12 bits or fewer are used"):
            decode_image(colours_of_16_bits(values // 16, significant=significant))
    assert np.array_equal(np.asarray(decode_image(colours_of_16_bits(values * 0))), values * 0)


def test_a_float_map_is_read_as_floats():
    data = b"Pf\n64 3\n-1.0\n" + ramp(0, 1, "<f4").tobytes()
    assert np.abs(np.array(levels(data)) - UP * 255).max() <= 1
    assert open_image(data).changed == "float pixels from 0 to 1 are scaled to 0 to 255"


@pytest.mark.parametrize("file_format", ["JPEG2000", "PPM"])
def test_other_formats_of_sixteen_bits_may_hold_fewer_too(file_format):
    for bits in (16, 12, 10):
        values = ramp(0, (1 << bits) - 1, np.uint16)
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, file_format, **({"irreversible": False} if bits else {}))
        assert levels(buffer.getvalue()) == (values[0] >> (bits - 8)).tolist()


def test_jpeg_2000_that_states_twelve_bits_is_as_dark_as_it_was():
    values = ramp(0, 255, np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    data = bytearray(buffer.getvalue())
    assert data[:4] == b"\xff\x4f\xff\x51"
    assert data[42] == 15
    data[42] = 11
    assert max(levels(bytes(data))) <= 16


def test_colours_of_a_16_bit_ppm_are_refused_where_the_upper_bits_are_nearly_black():
    values = np.stack([ramp(0, 65535, np.uint16)] * 3, axis=2)
    head = b"P6\n64 3\n65535\n"
    opened = open_image(head + values.astype(">u2").tobytes())
    assert np.abs(np.asarray(opened.image).astype(int) - (values >> 8)).max() <= 1
    assert opened.changed == "16-bit colours keep their upper 8 bits"
    with pytest.raises(PairDecodeError, match="only 12 bits or fewer are used"):
        decode_image(head + (values // 16).astype(">u2").tobytes())


def test_more_significant_bits_than_a_sample_can_have_are_no_statement():
    values = ramp(0, 65535, np.uint16)
    assert levels(png(values, significant=99)) == (values[0] >> 8).tolist()
