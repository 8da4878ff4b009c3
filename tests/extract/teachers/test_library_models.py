"""Models that an entry names by their address compute what their library's own pipeline computes, from the file on."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoImageProcessor

from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.states import convert
from extract.teachers.loading import load_teacher
from store.errors import TeacherError
from store.images.decode import open_image
from tests.extract import library_cases as cases

COSINE = 0.999999


def load(case):
    return load_teacher(teacher_spec("teacher", case.entry), case.entry)


def ours(teacher, data):
    return teacher.encode_image(np.stack([fit(open_image(one).image, teacher.geometry) for one in data]))


def assert_same(found, expected):
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    assert (found * expected).sum(axis=1).min() > COSINE
    # Else the comparison would say nothing.
    assert np.median((found @ expected.T)[~np.eye(len(expected), dtype=bool)]) < COSINE


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", cases.CASES)
def test_features_are_those_of_the_librarys_own_pipeline(tmp_path, name):
    case = cases.CASES[name](tmp_path)
    teacher, files = load(case), list(cases.files().values())
    assert len(files) == 18
    assert len(cases.TEXTS) == 15
    with torch.inference_mode():
        assert_same(ours(teacher, files), case.image(files))
        if case.text is not None:
            assert_same(teacher.encode_text(cases.TEXTS), case.text(cases.TEXTS))
    assert teacher.embed_dim == teacher.spec.embed_dim == ours(teacher, files[:1]).shape[1]
    assert teacher.spec.sides == (("image", "text") if case.text else ("image",))


def rewrite(folder, change):
    path = folder / "model.safetensors"
    safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path)


BIAS = {"dinov2": "layernorm.bias", "siglip": "vision_model.post_layernorm.bias", "timm_vit": "norm.bias"}
MADE = {name: getattr(cases, name) for name in ("dinov2", "timm_vit")} | {"siglip": cases.CASES["transformers SigLIP2"]}


@pytest.mark.parametrize("name", BIAS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state, bias: {key: value for key, value in state.items() if key != bias}, "missing"),
        (lambda state, bias: state | {"another.weight": state[bias].clone()}, "not the model's: another.weight"),
        (lambda state, bias: state | {bias: torch.zeros(7)}, "of another shape|do not fit"),
        (lambda state, bias: state | {bias: state[bias] * torch.nan}, "values that are not finite"),
    ],
)
def test_weights_are_loaded_strictly(tmp_path, name, change, message):
    case = MADE[name](tmp_path)
    rewrite(tmp_path, lambda state: change(state, BIAS[name]))
    with pytest.raises(TeacherError, match=message):
        load(case)


def test_a_checkpoint_of_a_classifier_gives_the_encoders_features(tmp_path):
    case, files = cases.dinov2(tmp_path), list(cases.files().values())[:4]
    before = ours(load(case), files)
    rewrite(
        tmp_path,
        lambda state: {f"dinov2.{name}": value for name, value in state.items()} | {"classifier.bias": torch.zeros(3)},
    )
    np.testing.assert_array_equal(ours(load(case), files), before)


def test_a_vit_without_a_pooler_is_refused_and_its_class_token_is_not(tmp_path):
    rewritten = cases.vit(tmp_path)
    rewrite(tmp_path, lambda state: {name: value for name, value in state.items() if not name.startswith("pooler.")})
    with pytest.raises(TeacherError, match=r"missing: pooler\.dense"):
        load(rewritten)
    by_token = rewritten.entry.model_copy(update={"feature": "cls"})
    assert load_teacher(teacher_spec("teacher", by_token), by_token).embed_dim == 48


@pytest.mark.parametrize("name", ["dinov2", "timm_vit"])
def test_conversion_changes_neither_features_nor_spec(tmp_path, name):
    case, files = MADE[name](tmp_path), list(cases.files().values())[:4]
    safe = tmp_path / "model.safetensors"
    torch.save(safetensors.torch.load_file(safe), tmp_path / "pytorch_model.bin")
    safe.unlink()
    spec, before = teacher_spec("teacher", case.entry), ours(load(case), files)
    assert convert("teacher", case.entry)
    (tmp_path / "pytorch_model.bin").unlink()
    assert teacher_spec("teacher", case.entry).hash == spec.hash
    np.testing.assert_array_equal(ours(load(case), files), before)


def test_a_conversion_without_room_leaves_everything_as_it_was(tmp_path):
    case = cases.dinov2(tmp_path)
    torch.save(safetensors.torch.load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    before, limits = sorted(tmp_path.iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(TeacherError, match=r"converted\.safetensors cannot be written") as error:
            convert("teacher", case.entry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "make room" in error.value.hint
    assert sorted(tmp_path.iterdir()) == before


def test_an_encoder_of_images_has_no_features_of_captions(tmp_path):
    with pytest.raises(TeacherError, match="teacher teacher encodes images alone"):
        load(cases.timm_resnet(tmp_path)).encode_text(["a"])


@pytest.mark.parametrize("gemma", [False, True])
def test_siglips_captions_are_padded_cut_and_counted(tmp_path, gemma):
    tokens = load(cases.siglip(tmp_path, gemma=gemma)).tokenize(["liver", " ".join(["lung"] * 40)])
    assert tokens.ids_BL.shape == (2, 16)
    assert tokens.truncated_B.tolist() == [False, True]
    assert tokens.lengths_B[1] == 16


@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
def test_open_clips_siglip_counts_cut_captions_too(tmp_path, pad):
    tokens = load(cases.open_clip_siglip(tmp_path, pad)).tokenize(["liver", " ".join(["lung"] * 40)])
    assert (tokens.truncated_B.tolist(), tokens.lengths_B.tolist()) == ([False, True], [1, 16])


def test_dinov3s_resize_of_floats_is_one_grey_level_away_at_most(tmp_path):
    """transformers resizes DINOv3's images as floats; here Pillow rounds to 8 bits, as for every teacher."""
    case = cases.dinov3(tmp_path)
    teacher = load(case)
    theirs = AutoImageProcessor.from_pretrained(str(tmp_path))
    for data in cases.files().values():
        image = open_image(data).image.convert("RGB")
        pixels = teacher.normalize(torch.from_numpy(fit(image, teacher.geometry)[None].copy()))
        expected = torch.as_tensor(theirs(image, return_tensors="pt")["pixel_values"])
        assert (pixels - expected).abs().max() * max(cases.IMAGENET["image_std"]) * 255 < 1.3


TINY_RESNET = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
TINY_VIT = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "img_size": 32}


def test_a_head_of_timm_that_widens_the_feature_is_refused_until_the_width_is_stated(tmp_path):
    """num_features of a file is the width before the pooling; both maximum and mean are twice as wide."""
    args = {**TINY_RESNET, "global_pool": "catavgmax"}
    case = cases.timm_model(tmp_path, "resnet18", args, {"input_size": [3, 32, 32]})
    with pytest.raises(TeacherError, match="features of 64 numbers an image, expected 32") as error:
        load(case)
    assert error.value.hint == "state teachers.teacher.embed_dim: 64"
    stated, files = case.entry.model_copy(update={"embed_dim": 64}), list(cases.files().values())
    teacher = load_teacher(teacher_spec("teacher", stated), stated)
    with torch.inference_mode():
        assert_same(ours(teacher, files), case.image(files))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet18", TINY_RESNET | {"in_chans": 1}, "does not take RGB images of 32 px"),
        ("vit_tiny_patch16_224", TINY_VIT | {"global_pool": ""}, "features of 17 x 48 numbers an image, expected 48"),
    ],
)
def test_a_model_that_gives_no_feature_of_an_rgb_image_is_refused_when_it_is_loaded(tmp_path, name, args, message):
    case = cases.timm_model(tmp_path, name, args, {"input_size": [3, 32, 32]})
    with pytest.raises(TeacherError, match=message):
        load(case)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused_whatever_reads_them(tmp_path, dtype):
    """transformers casts them to float32 when it renames them, which are other weights."""
    case = cases.dinov2(tmp_path)
    rewrite(tmp_path, lambda state: {name: value.to(dtype) for name, value in state.items()})
    with pytest.raises(TeacherError, match=f"holds numbers of {dtype}, because the weights are quantised"):
        load(case)


def test_a_two_sided_model_whose_file_is_in_bfloat16_is_read(tmp_path):
    case, files = cases.CASES["transformers SigLIP2"](tmp_path), list(cases.files().values())
    with torch.inference_mode():
        rewrite(tmp_path, lambda state: {name: value.bfloat16() for name, value in state.items()})
        exact = safetensors.torch.load_file(tmp_path / "model.safetensors")["logit_scale"].float().exp().item()
        teacher = load(case)
        assert teacher.spec.notes["logit_scale"] == pytest.approx(exact, rel=1e-6)
        assert teacher.logit_scale == pytest.approx(exact, rel=1e-6)
        # The same numbers in a file of float32 are the same model.
        before = ours(teacher, files)
        rewrite(tmp_path, lambda state: {name: value.float() for name, value in state.items()})
        np.testing.assert_array_equal(ours(load(case), files), before)


def test_a_vits_pooler_may_have_another_width(tmp_path):
    sizes = {"image_size": 32, "patch_size": 8, "pooler_output_size": 20, **cases.VIT}
    case = cases.vision(tmp_path, "vit", "ViTImageProcessor", cases.SQUARE | cases.HALF, **sizes)
    assert ours(load(case), list(cases.files().values())[:2]).shape == (2, 20)
