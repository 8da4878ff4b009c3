"""Models that an entry names by their address compute what their library's own pipeline computes, from the file on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
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
    assert teacher.sides == (("image", "text") if case.text else ("image",))
