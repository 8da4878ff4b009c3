"""Decoding images: odd but valid ones become RGB, damaged ones say what is wrong."""

from __future__ import annotations

import io
import struct
import traceback
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from store.errors import PairDecodeError
from store.images.decode import decode_image, image_size


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunks(png, *chunks):
    """Put chunks behind the header of a PNG."""
    return png[:33] + b"".join(chunk(name, body) for name, body in chunks) + png[33:]


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


SECRETS = [b"daemon:x:0:0:secret", b"<html>secret</html>", b"P5 secret", b"P3\nsecret 1 255\n", b"#define secret 1"]
"""Files that a table may name instead of images; some of them begin as formats that Pillow reads do."""


@pytest.mark.parametrize("data", SECRETS)
def test_something_else_than_an_image_says_so_and_shows_nothing_of_it(data):
    with pytest.raises(PairDecodeError) as raised:
        decode_image(data)
    shown = "".join(traceback.format_exception(raised.value))
    assert "image" in str(raised.value)
    assert not [word for word in ("daemon", "html", "secret", "P5", "P3") if word in shown]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("head", [b"\x89PNG\r\n\x1a\n", b"II*\x00", b"GIF89a", b"\xff\xd8\xff\xe0", b"BM"])
def test_reasons_for_damaged_files_quote_nothing_and_are_of_bounded_length(head):
    for seed in range(20):
        body = np.random.default_rng(seed).integers(32, 127, 3000, dtype=np.uint8).tobytes()
        with pytest.raises(PairDecodeError) as raised:
            decode_image(head + body)
        reason = str(raised.value)
        assert len(reason) < 400
        assert reason.isprintable()
        assert not [at for at in range(2996) if body[at : at + 4].decode() in reason]


@pytest.mark.parametrize("file_format", ["EPS", "ICO", "ICNS"])
def test_formats_that_run_programs_or_hide_a_size_are_not_read(as_bytes, file_format):
    with pytest.raises(PairDecodeError, match="not an image of a kind that is read"):
        decode_image(as_bytes(Image.new("RGB", (16, 16)), file_format))


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


def test_a_png_with_a_large_profile_is_read(as_bytes):
    pixels = noise((6, 5, 3))
    profile = noise(2 << 20).tobytes()
    assert np.array_equal(np.asarray(decode_image(as_bytes(Image.fromarray(pixels), icc_profile=profile))), pixels)


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_chunk_that_would_expand_to_a_gigabyte_is_not_expanded(as_bytes, name):
    pixels, bomb = noise((6, 5, 3)), zlib.compress(bytes(1 << 28), 9)
    head = b"Comment\0\1\0\0\0" if name == b"iTXt" else b"Comment\0\0"
    data = with_chunks(as_bytes(Image.fromarray(pixels)), (name, head + bomb), (b"tEXt", b"a\0b"))
    tracemalloc.start()
    assert np.array_equal(np.asarray(decode_image(data)), pixels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert image_size(data) == (5, 6)


def test_a_webp_that_claims_a_huge_canvas_is_refused_before_it_is_opened(as_bytes):
    for options in ({"lossless": True}, {}, {"icc_profile": bytes(200)}):
        data = bytearray(as_bytes(Image.new("RGB", (7, 9)), "WEBP", **options))
        assert decode_image(bytes(data), max_pixels=63).size == (7, 9)
        with pytest.raises(PairDecodeError, match="7 x 9 pixels, more than the bound of 62"):
            decode_image(bytes(data), max_pixels=62)
    data[24:30] = b"\xff\xff\xff\xff\xff\x00"
    with pytest.raises(PairDecodeError, match="16777216 x 65536 pixels"):
        decode_image(bytes(data))


def test_a_palette_with_alpha_and_cielab_become_rgb_without_a_warning(as_bytes):
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert decode_image(as_bytes(palette, transparency=b"\x00\x80")).getpixel((0, 0)) == (200, 100, 50)
    lab = decode_image(as_bytes(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"))
    assert min(lab.getpixel((0, 0))) >= 250
