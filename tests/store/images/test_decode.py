"""Decoding images: odd but valid ones become RGB, damaged ones say what is wrong."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from store.errors import PairDecodeError
from store.images.decode import decode_image, image_size


def noise(shape, *, seed=3):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_an_image_cut_short_anywhere_is_refused(as_bytes, file_format):
    data = as_bytes(Image.fromarray(noise((32, 32, 3))), file_format)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(PairDecodeError, match=r"cannot be decoded|not an image"):
            decode_image(data[: int(len(data) * share)])


def test_an_empty_file_says_it_has_no_bytes():
    with pytest.raises(PairDecodeError, match=r"empty \(0 bytes\)"):
        decode_image(b"")


def test_something_else_than_an_image_shows_how_it_begins():
    with pytest.raises(PairDecodeError, match=r"not an image that Pillow knows \(it begins with b'<html>..'\)"):
        decode_image(b"<html>no such file</html>")


def test_a_palette_image_becomes_the_colours_of_its_palette(as_bytes):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert np.asarray(decode_image(as_bytes(image))).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_a_cmyk_image_becomes_rgb(as_bytes):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decode_image(as_bytes(image, "TIFF"))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((8, 8)) == (255, 0, 0)


def test_sixteen_bit_grey_keeps_its_upper_eight_bits(as_bytes):
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], dtype=np.uint16)
    decoded = np.asarray(decode_image(as_bytes(Image.fromarray(values))))
    assert decoded[0].tolist() == [[level] * 3 for level in (0, 0, 1, 0x12, 0xFF)]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1"])
def test_every_mode_becomes_rgb(as_bytes, mode):
    decoded = decode_image(as_bytes(Image.new(mode, (4, 3))))
    assert (decoded.mode, decoded.size) == ("RGB", (4, 3))


def test_an_rgb_image_keeps_its_pixels(as_bytes):
    pixels = noise((5, 7, 3))
    assert np.array_equal(np.asarray(decode_image(as_bytes(Image.fromarray(pixels)))), pixels)


def test_an_image_beyond_the_bound_names_its_size_and_the_bound(as_bytes):
    data = as_bytes(Image.new("RGB", (11, 10)))
    assert decode_image(data, max_pixels=110).size == (11, 10)
    with pytest.raises(PairDecodeError, match="the image has 11 x 10 pixels, more than the bound of 109"):
        decode_image(data, max_pixels=109)


def test_a_header_that_claims_a_huge_image_is_refused_before_its_pixels_are_read():
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(PairDecodeError, match="60000 x 60000 pixels, more than the bound of 64000000"):
        decode_image(bomb)
    assert image_size(bomb) == (60_000, 60_000)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    assert decode_image(buffer.getvalue()).getpixel((0, 0)) == (255, 0, 0)


def test_the_size_is_none_where_the_header_cannot_be_read():
    assert image_size(b"") is None
    assert image_size(b"\x89PNG\r\n\x1a\n") is None
