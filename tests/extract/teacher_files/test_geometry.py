"""Fitting an image to a model: to the bit what open_clip's own preprocessing does."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Geometry, Preprocessing, fit, fit_all
from extract.teacher_files.specs import teacher_spec

SIZES = [(64, 64), (63, 65), (201, 77), (33, 190), (1, 1), (300, 5), (97, 96)]
"""Width and height: already fitting, odd, both orientations, tiny, a strip, off by one."""


def image_of(size):
    width, height = size
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def normalized(pixels_HWC, preprocessing):
    """Apply mean and std as ``OpenClipTeacher.encode_image`` does."""
    pixels_CHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels_CHW - mean) / std


@pytest.mark.parametrize("name", ["small", "wide"])
def test_a_folders_preprocessing_equals_open_clips_to_the_bit(teachers, name):
    entry = TeacherEntry(folder=str(teachers[name]), embed_dim={"small": 32, "wide": 48}[name])
    preprocessing = Preprocessing.model_validate(teacher_spec(name, entry).preprocessing)
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{teachers[name]}")
    for size in SIZES:
        image = image_of(size)
        ours_CHW = normalized(fit(image, preprocessing.geometry), preprocessing)
        assert torch.equal(ours_CHW, preprocess(image)), size


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("fill_color", [0, 255])
def test_every_resize_mode_equals_open_clips_to_the_bit(resize_mode, interpolation, fill_color):
    geometry = Geometry(size_px=64, resize_mode=resize_mode, interpolation=interpolation, fill_color=fill_color)
    preprocessing = Preprocessing(geometry=geometry)
    preprocess = image_transform(
        64, is_train=False, resize_mode=resize_mode, interpolation=interpolation, fill_color=fill_color
    )
    for size in SIZES:
        image = image_of(size)
        pixels_HWC = fit(image, geometry)
        assert (pixels_HWC.shape, pixels_HWC.dtype) == ((64, 64, 3), np.uint8)
        assert torch.equal(normalized(pixels_HWC, preprocessing), preprocess(image)), size


def test_geometries_that_are_equal_are_one_key():
    assert len({Geometry(size_px=64), Geometry(size_px=64, resize_mode="shortest"), Geometry(size_px=96)}) == 2


ALL_MODES = ["shortest", "longest", "squash", "shortest_floor_crop", "pad_square_grey"]


def test_geometries_fitted_together_equal_each_alone_to_the_bit():
    geometries = [
        Geometry(size_px=side, resize_mode=mode, interpolation=interpolation, fill_color=fill)
        for side in (48, 64)
        for mode in ALL_MODES
        for interpolation in ("bicubic", "bilinear")
        for fill in (0, 255)
    ]
    for size in SIZES:
        together = fit_all(image_of(size), geometries)
        assert set(together) == set(geometries)
        for geometry in geometries:
            assert np.array_equal(together[geometry], fit(image_of(size), geometry)), (size, geometry)


def test_a_resize_that_several_geometries_begin_with_is_done_once(monkeypatch):
    resized = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *args, **kw: resized.append(1) or resize(self, *args, **kw))
    both = [Geometry(size_px=64), Geometry(size_px=64, resize_mode="shortest_floor_crop")]
    fit_all(image_of((201, 77)), both)
    assert len(resized) == 1
    fit_all(image_of((201, 77)), [*both, Geometry(size_px=64, interpolation="bilinear"), Geometry(size_px=48)])
    assert len(resized) == 1 + 3
