"""The resize by torch: a grey level or two from Pillow's, the same on every CPU, on one thread, within memory."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from extract.teacher_files import geometry as geometry_module
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Geometry, fit, fit_all
from extract.teacher_files.specs import teacher_spec
from store.errors import ConfigError, PairDecodeError
from tests.extract.teacher_files.test_geometry import ALL_MODES, SIZES, image_of
from tests.extract.teacher_files.test_modes import MODES, NARROW, both

SMALLER = [(343, 240), (1000, 301), (640, 640), (3000, 2800)]
"""Wide ones, which every version of Pillow resizes across first. The last lies in several blocks of its memory."""

TALL = [(227, 300), (300, 1000), (225, 500)]


def levels(image, **settings):
    pillow, torch = (fit(image, Geometry(size_px=224, resize_by=by, **settings)) for by in ("pillow", "torch"))
    assert (torch.shape, torch.dtype) == ((224, 224, 3), np.uint8)
    return np.abs(pillow.astype(int) - torch)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("colour", ["RGB", "L"])
def test_a_smaller_image_differs_by_one_level_in_few_places(mode, interpolation, colour):
    gaps = [levels(image_of(size).convert(colour), resize_mode=mode, interpolation=interpolation) for size in SMALLER]
    assert max(gap.max() for gap in gaps) == 1  # and not 0: torch did it
    assert np.mean([(gap > 0).mean() for gap in gaps]) < 0.02


@pytest.mark.parametrize("size", TALL)
def test_a_tall_image_is_resized_across_first_whichever_way_pillow_goes(size):
    """Pillow 13 resizes tall images down first, older ones across first."""
    image = image_of(size)
    across = image.resize((224, size[1]), Image.Resampling.BICUBIC).resize((224, 224), Image.Resampling.BICUBIC)
    ours = fit(image, Geometry(size_px=224, resize_mode="squash", resize_by="torch"))
    gaps = np.abs(np.asarray(across).astype(int) - ours)
    assert gaps.max() <= 1
    assert (gaps > 0).mean() < 0.02


@pytest.mark.parametrize("mode", ALL_MODES)
def test_an_enlarged_image_differs_by_two_levels_at_most_and_one_that_fits_not_at_all(mode):
    for size in SIZES:
        assert levels(image_of(size), resize_mode=mode).max() <= 2, size
    assert levels(image_of((224, 224)), resize_mode=mode).max() == 0


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", MODES)
def test_palettes_bitmaps_and_alpha_are_pillows_where_the_resize_comes_first(name):
    image, _ = both(name, (343, 240))
    by_pillow = name not in ("RGB", "grey")
    for mode in ("shortest", "longest", "squash"):
        assert (levels(image, resize_mode=mode).max() == 0) == by_pillow
    assert 1 <= levels(image, resize_mode="shortest_floor_crop").max() <= 2


def test_both_fitted_together_equal_each_alone_and_leave_the_image_as_it_was():
    geometries = [
        Geometry(size_px=64, resize_mode=mode, resize_by=by) for mode in ALL_MODES for by in ("pillow", "torch")
    ]
    image = image_of((201, 77))
    before = image.tobytes()
    together = fit_all(image, geometries)
    assert image.tobytes() == before
    for geometry in geometries:
        assert np.array_equal(together[geometry], fit(image_of((201, 77)), geometry)), geometry


def test_a_narrow_image_is_a_bad_row_as_with_pillow():
    for size in NARROW:
        for colour in ("L", "RGB"):
            with pytest.raises(PairDecodeError, match="too long and narrow"):
                fit(Image.new(colour, size), Geometry(size_px=224, resize_by="torch"))
            with pytest.raises(PairDecodeError, match=r"cannot be resized|too long and narrow"):
                fit(Image.new(colour, size), Geometry(size_px=224, resize_mode="longest", resize_by="torch"))


def test_a_padded_square_that_torch_would_unpack_to_four_times_its_bytes_is_pillows(monkeypatch):
    image = image_of((343, 240))
    monkeypatch.setattr(geometry_module, "MAX_PIXELS", 343 * 343 - 1)
    assert levels(image, resize_mode="pad_square_grey").max() == 0
    monkeypatch.setattr(geometry_module, "MAX_PIXELS", 343 * 343)
    assert levels(image, resize_mode="pad_square_grey").max() == 1


def test_a_spec_names_it_only_where_it_is_torch(teachers):
    def spec(**preprocess):
        entry = {"folder": str(teachers["small"]), "preprocess": preprocess or None}
        return teacher_spec("small", TeacherEntry.model_validate(entry))

    own, pillow, torch = spec(), spec(resize_by="pillow"), spec(resize_by="torch")
    assert own.hash == pillow.hash != torch.hash
    assert "resize_by" not in own.preprocessing["geometry"]
    assert torch.preprocessing["geometry"]["resize_by"] == "torch"
    assert "by torch" in str(Geometry(**torch.preprocessing["geometry"]))
    with pytest.raises(ConfigError, match="resize_by torch is always antialiased"):
        spec(resize_by="torch", antialias=False)


ALONE = """
import hashlib, os, sys
import numpy as np, torch
from PIL import Image
from extract.teacher_files.geometry import Geometry, fit
torch.set_num_threads(8)
drawn = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
geometries = [Geometry(size_px=224, resize_by="torch", interpolation=how) for how in ("bicubic", "bilinear")]
fit(Image.fromarray(drawn[:300, :400]), Geometry(size_px=224))
before, digest = len(os.listdir("/proc/self/task")), hashlib.sha256()
for image in (Image.fromarray(drawn), Image.fromarray(drawn).convert("L")):
    for geometry in geometries:
        digest.update(fit(image, geometry).tobytes())
started = len(os.listdir("/proc/self/task")) - before
print(started if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else 0, digest.hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_it_starts_no_threads_and_is_the_same_without_the_cpus_vector_instructions():
    found = set()
    for capability in ("default", None):
        environment = os.environ | ({"ATEN_CPU_CAPABILITY": capability} if capability else {})
        done = subprocess.run(
            [sys.executable, "-c", ALONE], capture_output=True, text=True, env=environment, check=True
        )
        found.add(done.stdout)
    (line,) = found
    assert line.startswith("0 ")
