"""TF32, layout and kernels of attention: set for the forward pass alone, and part of the spec below float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from extract.teachers.arithmetic import KERNELS, arithmetic
from tests.extract import teacher_cases as cases
from tests.extract.teachers.test_options import FAMILIES, features, load

FUSED = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "cudnn_sdp_enabled", "math_sdp_enabled")


def tf32():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def kernels():
    return tuple(getattr(torch.backends.cuda, name)() for name in FUSED)


@pytest.fixture(params=[(False, True), (True, False)])
def before(request):
    """Settings of the process, as somebody else left them."""
    own = tf32()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = own


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_tf32_is_set_on_a_card_for_the_forward_alone_and_restored(dtype, before):
    allowed = dtype == "tf32"
    with arithmetic(dtype, device="cuda"):
        assert tf32() == (allowed, allowed)
    with pytest.raises(ZeroDivisionError), arithmetic(dtype, device="cuda"):
        raise ZeroDivisionError
    assert tf32() == before
    with arithmetic(dtype, device="cpu"):
        assert tf32() == before


@pytest.mark.parametrize("chosen", KERNELS)
def test_attention_has_one_kernel_and_the_plain_one_beside_it(chosen):
    before = kernels()
    with arithmetic("float32", device="cpu", attention=chosen):
        flash, efficient, cudnn, math = kernels()
    assert {"flash": flash, "efficient": efficient, "cudnn": cudnn, "math": math}[chosen]
    assert math
    assert flash + efficient + cudnn == (chosen != "math")
    assert kernels() == before


@pytest.mark.parametrize("name", FAMILIES)
def test_layout_and_kernels_leave_the_spec_as_it_is_in_float32_and_move_features_by_rounding(tmp_path, name):
    entry = cases.written(name, tmp_path).entry
    plain, other = load(name, entry), load(name, entry.model_copy(update={"channels_last": True, "attention": "math"}))
    assert other.spec == plain.spec
    for ours, theirs in zip(features(other), features(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    convolutions = [weight for weight in other._model.parameters() if weight.dim() == 4 and weight[0, 0].numel() > 1]
    assert convolutions
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


def test_below_float32_the_spec_names_them_and_tf32(tmp_path):
    entry = cases.written("plip", tmp_path).entry
    plain = load("plip", entry)
    dtypes = {}
    for precision in ("tf32", "bf16"):
        settings = {"precision": precision, "channels_last": True, "attention": "math"}
        bare, full = (load("plip", entry.model_copy(update=one)) for one in ({"precision": precision}, settings))
        assert len({plain.spec.hash, bare.spec.hash, full.spec.hash}) == 3
        dtypes[precision] = (bare.spec.compute_dtype, full.spec.compute_dtype)
        for ours, theirs in zip(features(full), features(bare), strict=True):
            assert (ours * theirs).sum(axis=1).min() > 0.995
    assert dtypes["tf32"] == ("tf32", "tf32, channels last, attention math")
    assert dtypes["bf16"] == ("bfloat16", "bfloat16, channels last, attention math")


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_forward_pass_on_a_card_that_is_not_there_mixes_no_devices(tmp_path, name, precision):
    """Fake tensors have a device and a shape and no values, so that every operation is checked without a card.

    MedCLIP chooses captions by a list of rows, which torch sends to a real card even then: only its images are here.
    """
    settings = {"precision": precision, "channels_last": True, "attention": "efficient"}
    teacher = load(name, cases.written(name, tmp_path).entry.model_copy(update=settings))
    tokens, side, during = teacher.tokenize(["a chest image", "liver"]), teacher.geometry.size_px, set()
    encode = teacher._run_image
    teacher._run_image = lambda normal_BCHW: during.add(tf32()) or encode(normal_BCHW)
    with FakeTensorMode():
        teacher._device = torch.device("cuda")
        teacher._model._apply(lambda own: torch.empty(own.shape, dtype=own.dtype, device="cuda"))
        teacher._mean, teacher._std = torch.zeros(2, 1, 3, 1, 1, device="cuda")
        image_BD = teacher.image_features(torch.zeros((2, side, side, 3), dtype=torch.uint8, device="cuda"))
        found = [image_BD]
        if name != "medclip":
            ids_BL = torch.zeros(tokens.ids_BL.shape, dtype=torch.int64, device="cuda")
            found.append(teacher.text_features(ids_BL, tokens.lengths_B.tolist()))
    assert during == {(precision == "tf32", precision == "tf32")}
    for features_BD in found:
        assert (features_BD.device.type, features_BD.dtype) == ("cuda", torch.float32)
        assert features_BD.shape == (2, teacher.embed_dim)
