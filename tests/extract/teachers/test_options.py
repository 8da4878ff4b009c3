"""Options of an entry: precision, compilation, and the variants that pipelines.yaml names."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from extract.config import ExtractPipeline
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from store.cli.options import PIPELINES_FILE
from store.config.pipeline_file import read_pipeline
from store.errors import TeacherError
from tests.extract import teacher_cases as cases
from tests.extract.teacher_inputs import CAPTIONS, normalized, pixels_of
from tests.extract.teacher_references import quick_gelu

FAMILIES = ("bmca", "biomedclip", "plip", "pmcclip", "medclip")

LOWEST_COSINE = {"bf16": 0.995, "fp16": 0.9999}
"""The lowest cosine of tiny random teachers with their float32 selves: mantissas of 8 and 11 bits, a few layers."""


def load(name, entry):
    return load_teacher(teacher_spec(name, entry), entry)


def features(teacher):
    return teacher.encode_image(pixels_of(teacher.geometry.size_px)), teacher.encode_text(CAPTIONS)


@pytest.mark.parametrize("precision", LOWEST_COSINE)
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_stays_close_and_is_another_spec(tmp_path, name, precision):
    case = cases.written(name, tmp_path)
    entry = case.entry.model_copy(update={"precision": precision})
    exact, half = load(name, case.entry), load(name, entry)
    assert half.spec.hash != exact.spec.hash
    assert half.spec.difference(exact.spec) == [
        f"compute_dtype: '{half.spec.compute_dtype}' here, 'float32' there",
    ]
    for ours, theirs in zip(features(half), features(exact), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
        assert (ours * theirs).sum(axis=1).min() > LOWEST_COSINE[precision]
        # It was really computed in fewer bits.
        assert np.abs(ours - theirs).max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_compiled_teacher_has_the_same_features_and_in_float32_the_same_spec(tmp_path, precision):
    """The compiler's ``eager`` backend traces and guards as the real one does, and needs no C++ compiler."""
    entry = cases.written("biomedclip", tmp_path).entry.model_copy(update={"precision": precision})
    plain, compiled = load("biomedclip", entry), load("biomedclip", entry.model_copy(update={"compile": "eager"}))
    assert (compiled.spec.hash == plain.spec.hash) == (precision is None)
    for ours, theirs in zip(features(compiled), features(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


quick = partial(cases.open_clip_hub, act=quick_gelu)

TINY = {
    ("quiltnet", "quick_gelu"): quick,
    ("quiltnet", "b16"): partial(cases.open_clip_hub, patch=16),
    ("quiltnet", "b16_pmb"): cases.biomedclip,
    ("genmedclip", "quick_gelu"): quick,
    ("pubmedclip", "authors_file"): cases.pubmedclip_authors,
    ("pmcclip", "heads32"): partial(cases.pmcclip, heads=32),
    ("pmcclip", "cls"): partial(cases.pmcclip, text_feature="cls"),
    ("pmcclip", "per_image"): partial(cases.pmcclip, batch_norm="per_image"),
    ("pmcclip", "heads32_per_image"): partial(cases.pmcclip, heads=32, batch_norm="per_image"),
    ("pmcclip", "mask"): partial(cases.pmcclip, text_mask=True),
    ("pmcclip", "cls_mask"): partial(cases.pmcclip, text_feature="cls", text_mask=True),
    ("pmcclip", "vit_l_14"): cases.open_clip_hub,
    ("medclip", "resnet50"): partial(cases.medclip, tower="resnet50"),
}
"""Every variant of the pipeline mmkd, and the files in its form, tiny."""

FREE = ("folder", "embed_dim", "config", "architecture")
"""Keys that say where a tiny teacher lies and how large it is; the other keys of an entry are kept."""


@pytest.fixture(scope="module")
def variants():
    teachers = read_pipeline(PIPELINES_FILE, "mmkd", ExtractPipeline).teachers
    return {(name, which): entry for name, own in teachers.items() for which, entry in own.readings().items()}


def test_every_variant_is_tested(variants):
    assert set(variants) == set(TINY)


@pytest.mark.parametrize(("name", "which"), TINY)
def test_a_variant_of_the_pipeline_computes_what_its_authors_do(tmp_path, variants, name, which):
    case = TINY[name, which](tmp_path)
    shipped = variants[name, which]
    entry = shipped.model_copy(update={field: getattr(case.entry, field) for field in FREE})
    teacher = load(name, entry)
    pixels_BHWC = pixels_of(teacher.geometry.size_px)
    with torch.inference_mode():
        image = functional.normalize(case.image(normalized(pixels_BHWC, case.normal)), dim=-1).numpy()
        text = functional.normalize(case.text(CAPTIONS), dim=-1).numpy()
    assert (teacher.encode_image(pixels_BHWC) * image).sum(axis=1).min() > 0.99999
    assert (image @ image.T)[~np.eye(len(image), dtype=bool)].max() < 0.99999
    assert (teacher.encode_text(CAPTIONS) * text).sum(axis=1).min() > 0.99999


def test_medclips_towers_are_told_apart(tmp_path):
    swin, resnet = (cases.written("medclip", tmp_path / tower, tower=tower) for tower in ("swin", "resnet50"))
    other = swin.entry.model_copy(update={"folder": resnet.entry.folder})
    with pytest.raises(TeacherError, match="do not fit the model") as caught:
        load("medclip", other)
    assert "another variant of this teacher" in caught.value.hint
