"""Preprocessing pixel by pixel: the authors' rule on drawn images of every kind and, where they are, on real ones."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from extract.teacher_files.geometry import Geometry, fit
from extract.teacher_files.specs import MEDCLIP_MEAN, MEDCLIP_STD
from store.images.decode import decode_image
from tests.extract.teacher_inputs import GREY, OPENAI, normalized

SIZES = [(224, 224), (343, 240), (227, 224), (224, 227), (231, 500), (97, 61), (30, 300), (1000, 301), (1, 1)]
"""Width and height: fitting, margins of every remainder by four, odd, smaller than the crop, a strip, large."""


def drawn():
    """Return images of every mode and size that the corpus may hold, encoded."""
    rng = np.random.default_rng(3)
    images = {}
    for width, height in SIZES:
        coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
        rgb = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        images |= {f"{mode} {width}x{height}": rgb.convert(mode) for mode in ("RGB", "L", "P")}
    return images


def real(folder, count=2):
    """Return the first images of a real corpus."""
    tar_path = next(iter(sorted(folder.glob("*.tar"))))
    images = {}
    with tarfile.open(tar_path) as tar:
        for member in tar:
            if member.name.lower().endswith((".png", ".jpg", ".jpeg")):
                images[member.name] = Image.open(io.BytesIO(tar.extractfile(member).read()))
                images[member.name].load()
            if len(images) == count:
                break
    return images


def decoded(image):
    """Return an image as extraction reads it from a file."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return decode_image(buffer.getvalue())


def ours(image, mode, normal):
    pixels_HWC = fit(decoded(image), Geometry(size_px=224, resize_mode=mode))
    assert pixels_HWC.shape == (224, 224, 3)
    return normalized(pixels_HWC[None].copy(), normal)[0]


def open_clip_rule(image):
    """BMCA, BiomedCLIP, UniMed-CLIP, QuiltNet, GenMedClip, PMC-CLIP: open_clip's transform of the RGB image."""
    return image_transform(224, is_train=False, mean=OPENAI[0], std=OPENAI[1])(image.convert("RGB"))


def transformers_rule(image):
    """PLIP, PubMedCLIP: CLIPImageProcessor as version 4.24 had it, on Pillow."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=list(OPENAI[0]),
        image_std=list(OPENAI[1]),
    )
    return torch.as_tensor(np.asarray(processor(image.convert("RGB"), return_tensors="np")["pixel_values"]))[0]


def medclip_rule(image):
    """MedCLIP: dataset.py of its repository, pad_img, resize, rescale, normalise; one channel thrice in the model."""
    image = image.convert("RGB")
    width, height = image.size
    size = max(224, width, height)
    canvas = Image.new("L", (size, size), 0)
    canvas.paste(image, (int((size - width) / 2), int((size - height) / 2)))
    grey = np.asarray(canvas.resize((224, 224), resample=Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy((grey - MEDCLIP_MEAN) / MEDCLIP_STD).float().expand(3, 224, 224)


RULES = {
    "shortest": (open_clip_rule, OPENAI),
    "shortest_floor_crop": (transformers_rule, OPENAI),
    "pad_square_grey": (medclip_rule, GREY),
}


@pytest.mark.parametrize("mode", RULES)
def test_drawn_images_become_what_the_authors_rule_makes_of_them(mode):
    rule, normal = RULES[mode]
    for name, image in drawn().items():
        torch.testing.assert_close(ours(image, mode, normal), rule(image), rtol=0, atol=5e-7, msg=name)


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize("corpus", ["vqa_rad", "lc25000_lung"])
def test_real_images_become_what_the_authors_rule_makes_of_them(mode, corpus, shared_data):
    rule, normal = RULES[mode]
    images = real(shared_data(corpus))
    assert images
    for name, image in images.items():
        for variant in (image, image.convert("L"), image.convert("P"), image.crop((3, 5, 150, 128))):
            torch.testing.assert_close(ours(variant, mode, normal), rule(variant), rtol=0, atol=5e-7, msg=name)


def test_the_two_crops_differ_where_margins_are_uneven_and_only_there():
    modes = ("shortest", "shortest_floor_crop")
    differ = {
        name: not np.array_equal(*(fit(decoded(image), Geometry(size_px=224, resize_mode=mode)) for mode in modes))
        for name, image in drawn().items()
    }
    assert differ["RGB 227x224"]
    assert not differ["RGB 224x224"]
    assert not differ["RGB 97x61"]  # 356 x 224: margins of 66
