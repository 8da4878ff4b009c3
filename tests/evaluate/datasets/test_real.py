"""Real data, from the files to what a task is given; skipped where they are absent."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from evaluate.datasets.checks import deep_problems, undecodable
from evaluate.datasets.loading import load_dataset
from evaluate.datasets.registry import missing_files, read_registry
from store.images.decode import decode_image

ROOT = Path(__file__).resolve().parents[4] / "shared" / "data"
ENTRIES = read_registry()


@pytest.fixture
def load():
    """Load a dataset, or skip the test where its files are absent."""

    def load_or_skip(name):
        if missing_files(ENTRIES[name], ROOT):
            pytest.skip(f"real data is not here: {name} lies beside the repository only where it was fetched")
        return load_dataset(ENTRIES[name], ROOT)

    return load_or_skip


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("breastmnist", {"train": 546, "val": 78, "test": 156}),
        ("pneumoniamnist", {"train": 4708, "val": 524, "test": 624}),
        ("lc25000_lung_224", {"train": 725, "val": 90, "test": 81}),
        ("medical_mnist_64", {"train": 2908, "val": 368, "test": 322}),
        ("vqa_rad_captions", {"test": 314}),
        ("wpbc", {"test": 198}),
    ],
)
def test_a_real_dataset_has_the_items_it_should(name, sizes, load):
    dataset = load(name)
    assert {split: len(items) for split, items in dataset.splits.items()} == sizes
    assert dataset.excluded == {}


def test_breastmnist_is_what_its_authors_published_but_for_one_image_twice(load):
    dataset = load("breastmnist")
    assert list(deep_problems(dataset, ROOT)) == []
    arrays = np.load(ROOT / "medmnist28/breastmnist.npz")
    np.testing.assert_array_equal(dataset.test.targets, arrays["test_labels"][:, 0])
    pixels = np.asarray(decode_image(dataset.test.image_bytes(7)))
    np.testing.assert_array_equal(pixels[..., 0], arrays["test_images"][7])
    train = {image.tobytes() for image in arrays["train_images"]}
    twice = sum(image.tobytes() in train for image in arrays["test_images"])
    assert dataset.duplicates["train/test"] == twice > 0


def test_vqa_rad_split_by_image_shares_none_and_the_official_split_shares_all(load):
    by_image, official = load("vqa_rad"), load("vqa_rad_official")
    assert by_image.duplicates == {}
    assert sum(len(split) for split in by_image.splits.values()) == 3515
    assert len(official.test) == 451
    assert official.duplicates == {"train/test": 451}
    assert "203 patients are in train and in test" in official.caveats[0]
    questions = {str(each["qid"]): each for each in json.loads((ROOT / "vqa_rad/qa.json").read_text())}
    for item in (0, 100):
        stated = questions[by_image.test.ids[item]]
        assert by_image.test.questions[item] == stated["question"].strip()
        assert by_image.test.answer_types[item] == stated["answer_type"].lower()


def test_a_real_image_is_the_member_of_its_tar(load):
    dataset = load("lc25000_lung_224")
    with tarfile.open(ROOT / "lc25000_lung/lc25000_lung-000000.tar") as tar:
        member = tar.extractfile(f"{dataset.test.ids[3]}.jpg").read()
    assert dataset.test.image_bytes(3) == member
    assert undecodable(dataset.test) == {}


def test_wpbc_is_the_file_of_the_source(load):
    dataset = load("wpbc")
    rows = {line.split(",")[0]: line.split(",") for line in (ROOT / "wpbc/wpbc.data").read_text().splitlines()}
    test = dataset.test
    assert test.features.shape == (198, 30)
    assert not np.isnan(test.features).any()
    for place, name in enumerate(test.ids):
        assert test.times[place] == float(rows[name][2])
        assert test.events[place] == (rows[name][1] == "R")
        np.testing.assert_array_equal(test.features[place], np.array(rows[name][3:33], dtype=float))
