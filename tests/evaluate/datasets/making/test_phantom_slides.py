"""Phantom slides: bags of tiles of which a known share is tumour."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest

from evaluate.datasets.loading import load_dataset
from evaluate.datasets.making.phantom_slides import TUMOR, SlidePlan, plan_slides, write_phantom_slides
from evaluate.datasets.registry import read_registry
from store.errors import EvaluationError
from store.files import sha256_file
from store.images.decode import decode_image

PLAN = SlidePlan(slides={"train": 4, "test": 4}, tiles=5, size_px=32)


def test_the_share_of_tumour_is_the_planned_one():
    plan = SlidePlan(slides={"train": 200, "test": 2}, tiles=20, least=0.1, most=0.4)
    slides = [slide for slide in plan_slides(plan) if slide.split == "train"]
    with_tumor = [slide for slide in slides if slide.label == "tumor"]
    assert len(with_tumor) == 100
    assert {slide.share for slide in slides if slide.label == "normal"} == {0.0}
    shares = [slide.share for slide in with_tumor]
    assert (min(shares), max(shares)) == (0.1, 0.4)
    # The share is uniform: its mean lies within three standard errors of the middle, 3 * 0.3 / sqrt(12 * 100).
    assert np.mean(shares) == pytest.approx(0.25, abs=0.026)
    assert len({frozenset(slide.findings) for slide in slides}) > 2


def test_two_slides_of_a_patient_need_not_be_alike():
    slides = list(plan_slides(SlidePlan(slides={"test": 16})))
    labels = {}
    for slide in slides:
        labels.setdefault(slide.patient, []).append(slide.label)
    assert {len(found) for found in labels.values()} == {2}
    assert sum(slide.label == "tumor" for slide in slides) == 8


def test_slides_are_written_the_same_from_the_same_seed_and_read_as_bags(tmp_path):
    slides = write_phantom_slides(tmp_path / "phantom_slides", PLAN)
    write_phantom_slides(tmp_path / "again", PLAN)
    for name in ("train.tar", "test.tar"):
        assert sha256_file(tmp_path / "again" / name) == sha256_file(tmp_path / "phantom_slides" / name)
    write_phantom_slides(tmp_path / "other", SlidePlan(slides=PLAN.slides, tiles=5, size_px=32, seed=1))
    assert sha256_file(tmp_path / "other/test.tar") != sha256_file(tmp_path / "phantom_slides/test.tar")
    dataset = load_dataset(read_registry()["phantom_slides"], tmp_path)
    test = dataset.test
    planned = [slide for slide in slides if slide.split == "test"]
    assert test.ids == [slide.name for slide in planned]
    assert test.patients == [slide.patient for slide in planned]
    assert [("normal", "tumor")[target] for target in test.targets] == [slide.label for slide in planned]
    assert {len(bag.images) for bag in test.bags} == {5}
    assert decode_image(test.bags[0].images[0].read()).size == (32, 32)
    assert not dataset.caveats
    with pytest.raises(EvaluationError, match="encode them first"):
        test.bags[0].features()


def test_a_tile_says_what_was_drawn(tmp_path):
    slides = {slide.name: slide for slide in write_phantom_slides(tmp_path, PLAN)}
    with tarfile.open(tmp_path / "test.tar") as tar:
        records = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    for name, slide in slides.items():
        if slide.split == "test":
            drawn = [record["finding"] for record in records if record["slide"] == name]
            assert tuple(drawn) == slide.findings
            assert drawn.count(TUMOR) / len(drawn) == slide.share


def test_a_folder_with_other_slides_is_left_alone(tmp_path):
    write_phantom_slides(tmp_path, PLAN)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_phantom_slides(tmp_path, PLAN)
    with pytest.raises(EvaluationError, match="holds phantom slides with other parameters"):
        write_phantom_slides(tmp_path, SlidePlan(slides=PLAN.slides, tiles=6, size_px=32))
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "changes",
    [{"slides": {"test": 1}}, {"slides": {"train": 4}}, {"tiles": 0}, {"least": 0.0}, {"least": 0.6}, {"seed": -1}],
)
def test_what_cannot_be_drawn_is_refused(changes):
    with pytest.raises(EvaluationError, match="phantom slides need"):
        SlidePlan(**{"slides": {"test": 4}, **changes})
