"""A labelled corpus with damage in it."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from evaluate.config import ZeroShotDataset
from evaluate.suite.labelled import dataset_digest, read_labelled
from extract.teacher_files.geometry import Geometry, fit
from store.corpus.section import Corpus
from store.errors import CorpusError

CLASSES = {"ct": ["cyst", "stone"], "mri": ["tumor"]}
DATASET = {"corpus": "test", "label": "finding", "group": "modality", "classes": CLASSES, "templates": ["{label}"]}
SMALL, WIDE = Geometry(size_px=8), Geometry(size_px=16, resize_mode="squash")
PAIRS = [("cyst", "ct"), ("stone", "ct"), ("tumor", "mri"), ("cyst", "ct")]


def png(number, size=(24, 20)):
    pixels = np.random.default_rng(number).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def write(tmp_path):
    """Write a tar of PAIRS; files of it can be replaced, or left out with None."""

    def write_tar(**replaced):
        files = {}
        for number, (finding, modality) in enumerate(PAIRS):
            files[f"p{number}.png"] = png(number)
            files[f"p{number}.json"] = json.dumps({"finding": finding, "modality": modality}).encode()
        files |= {name.replace("_", "."): data for name, data in replaced.items()}
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, data in files.items():
                if data is not None:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return Corpus(files=[str(tmp_path / "*.tar")])

    return write_tar


def read(corpus, *, geometries=(SMALL,), max_pixels=10_000):
    return read_labelled(corpus, ZeroShotDataset(**DATASET), geometries, max_pixels=max_pixels)


def test_each_image_is_fitted_to_each_geometry_beside_its_label_and_group(write):
    found = read(write(), geometries=[SMALL, WIDE])
    assert (found.labels, found.groups) == ([label for label, _ in PAIRS], [group for _, group in PAIRS])
    assert found.excluded == {}
    for geometry in (SMALL, WIDE):
        expected = [fit(Image.open(io.BytesIO(png(number))), geometry) for number in range(len(PAIRS))]
        np.testing.assert_array_equal(found.pixels[geometry], np.stack(expected))


def test_images_that_cannot_be_used_are_left_out_with_a_warning_and_counted_by_reason(write, caplog):
    found = read(write(p0_png=png(0)[:200], p1_png=None))
    assert (found.labels, found.groups) == (["tumor", "cyst"], ["mri", "ct"])
    assert found.excluded == {"the image cannot be decoded": 1, "there is no image": 1}
    np.testing.assert_array_equal(found.pixels[SMALL][1], fit(Image.open(io.BytesIO(png(3))), SMALL))
    assert "p0 is left out: the image cannot be decoded" in caplog.text
    assert "p1 is left out: there is no image" in caplog.text


def test_images_of_different_sizes_beyond_the_bound_are_one_reason(write):
    found = read(write(p0_png=png(0, (50, 40)), p1_png=png(1, (60, 40))), max_pixels=1000)
    assert found.excluded == {"the image has N x N pixels, more than the bound of N": 2}


def test_a_group_whose_images_are_all_damaged_is_an_error(write):
    with pytest.raises(CorpusError, match="no image belongs to the groups mri") as caught:
        read(write(p2_png=b"no image"))
    assert caught.value.hint.startswith("1 images were left out")


def test_pairs_without_labels_are_counted_in_an_error(write):
    labels = [b"{}", b"not JSON", None]
    corpus = write(p1_json=labels[0], p2_json=labels[1], p3_json=labels[2])
    with pytest.raises(CorpusError, match=r"a\.tar: p1: expected .* 'finding' and 'modality' .*; 3 of 4 pairs"):
        read(corpus)


def test_a_label_that_is_not_listed_ends_reading(write):
    with pytest.raises(CorpusError, match="'tumor' in group 'ct'"):
        read(write(p0_json=b'{"finding": "tumor", "modality": "ct"}'))


def test_the_digest_changes_with_images_prompts_and_bound_and_not_with_the_place_or_time(write, tmp_path):
    def digest(corpus, *, max_pixels=100, **changes):
        return dataset_digest(corpus, ZeroShotDataset(**DATASET | changes), max_pixels=max_pixels)

    corpus = write()
    first = digest(corpus)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes())
    assert digest(Corpus(files=[str(moved / "*.tar")])) == first
    others = {
        digest(corpus, max_pixels=99),
        digest(corpus, templates=["a {label}"]),
        digest(write(p0_png=png(9))),
    }
    assert len(others | {first}) == 4
