"""Images of odd modes become what each author's own transform makes of them; narrow ones stay within memory."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from extract.teacher_files.geometry import Geometry, fit, fit_all
from store.errors import PairDecodeError
from store.images.decode import open_image
from tests.extract.teacher_inputs import OPENAI, normalized

SIZES = [(343, 240), (227, 224), (97, 61), (30, 300)]
OWN = ["shortest", "longest", "squash"]


def drawn(size):
    rng = np.random.default_rng(size)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 4), np.uint8), "RGBA")
    return coarse.resize(size, Image.Resampling.BILINEAR)


def palette_with_alpha(image):
    converted = image.convert("RGB").quantize(64)
    converted.info["transparency"] = bytes(range(0, 256, 4))
    return converted


MODES = {
    "palette": (lambda image: image.convert("RGB").quantize(64), "PNG", "P"),
    "palette with one clear colour": (lambda image: image.convert("RGB").quantize(16), "GIF", "P"),
    "palette with alpha": (palette_with_alpha, "PNG", "P"),
    "1 bit": (lambda image: image.convert("1"), "PNG", "1"),
    "RGBA": (lambda image: image, "PNG", "RGBA"),
    "grey with alpha": (lambda image: image.convert("LA"), "PNG", "LA"),
    "CMYK": (lambda image: image.convert("RGB").convert("CMYK"), "TIFF", "CMYK"),
    "YCbCr": (lambda image: image.convert("RGB").convert("YCbCr"), "TIFF", "YCbCr"),
    "grey": (lambda image: image.convert("L"), "PNG", "L"),
    "RGB": (lambda image: image.convert("RGB"), "PNG", "RGB"),
}


def both(name, size):
    """Return an image as extraction opens it, and as Pillow alone does."""
    make, file_format, _ = MODES[name]
    buffer = io.BytesIO()
    made = make(drawn(size))
    made.save(buffer, file_format, **({"transparency": 3} if file_format == "GIF" else {}))
    plain = Image.open(io.BytesIO(buffer.getvalue()))
    plain.load()
    return open_image(buffer.getvalue()).image, plain


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", MODES)
def test_open_clips_own_transform_gives_the_same_pixels(name):
    for size in SIZES:
        ours, plain = both(name, size)
        for mode in OWN:
            theirs = image_transform(64, is_train=False, resize_mode=mode, mean=OPENAI[0], std=OPENAI[1])(plain)
            pixels = normalized(fit(ours, Geometry(size_px=64, resize_mode=mode))[None].copy(), OPENAI)[0]
            torch.testing.assert_close(pixels, theirs, rtol=0, atol=5e-7, msg=f"{size} {mode}")


ALPHA = {"palette with one clear colour", "palette with alpha", "RGBA", "grey with alpha"}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", MODES)
def test_transformers_processor_gives_the_same_pixels(name):
    """Its present version lays what is transparent on white; the authors' (4.24) called ``convert("RGB")`` as we do."""
    options = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "resample": 3}
    processor = CLIPImageProcessorPil(**options, image_mean=list(OPENAI[0]), image_std=list(OPENAI[1]))
    for size in SIZES:
        ours, plain = both(name, size)
        seen = plain.convert("RGB") if name in ALPHA else plain
        seen.info.pop("transparency", None)
        theirs = torch.as_tensor(np.asarray(processor(seen, return_tensors="np")["pixel_values"]))[0]
        geometry = Geometry(size_px=64, resize_mode="shortest_floor_crop")
        pixels = normalized(fit(ours, geometry)[None].copy(), OPENAI)[0]
        torch.testing.assert_close(pixels, theirs, rtol=0, atol=5e-7, msg=str(size))


def test_a_bitmap_differs_by_the_order_so_that_the_order_matters():
    ours, _ = both("1 bit", (343, 240))
    first, after = (
        fit(ours, Geometry(size_px=64, resize_mode=mode)).astype(float) for mode in ("shortest_floor_crop", "shortest")
    )
    assert np.abs(first - after).mean() > 20
    assert len(np.unique(after)) == 2


def test_geometries_of_both_orders_fitted_together_equal_each_alone():
    geometries = [Geometry(size_px=64, resize_mode=mode) for mode in (*OWN, "shortest_floor_crop", "pad_square_grey")]
    for name in MODES:
        image, _ = both(name, (97, 61))
        together = fit_all(image, geometries)
        for geometry in geometries:
            assert np.array_equal(together[geometry], fit(image, geometry)), (name, geometry)


@pytest.mark.parametrize("mode", ["PA", "LAB", "RGBa", "La", "HSV"])
def test_modes_that_a_resize_does_not_know_are_fitted_or_make_a_bad_row(mode):
    image = Image.new(mode, (40, 30)) if mode != "PA" else Image.new("P", (40, 30)).convert("PA")
    try:
        assert fit(image, Geometry(size_px=16)).shape == (16, 16, 3)
    except PairDecodeError as error:
        assert "cannot be" in str(error)  # noqa: PT017 - one of two right ends


NARROW = [(10_000, 1), (1, 6_000), (300_000, 1), (1, 300_000), (1, 2_000_000)]
MODELS = [*OWN, "shortest_floor_crop", "pad_square_grey"]


@pytest.mark.parametrize("size", NARROW)
def test_a_long_and_narrow_image_is_a_bad_row_for_models_that_enlarge_it(size):
    for colour in ("L", "RGB", "P"):
        for mode in ("shortest", "shortest_floor_crop"):
            with pytest.raises(PairDecodeError, match="too long and narrow"):
                fit(Image.new(colour, size), Geometry(size_px=224, resize_mode=mode))


FIT = """
import resource, sys
import open_clip.transform
from PIL import Image
from extract.teacher_files.geometry import Geometry, fit
from store.errors import PairDecodeError
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
fit(Image.new("RGB", (300, 200)), Geometry(size_px=224))
before, sizes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, eval(sys.argv[1])
for size in sizes:
    for mode in sys.argv[2:]:
        try:
            fit(Image.new("RGB", size), Geometry(size_px=224, resize_mode=mode))
        except PairDecodeError:
            pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_the_memory_of_a_fit_is_bounded_whatever_the_shape():
    sizes = [*NARROW, (2_000_000, 1), (250_000, 224), (31_000, 26)]
    command = [sys.executable, "-c", FIT, repr(sizes), *MODELS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >> 10 < 3 * 256  # MB: the image, and the two results of one resize
