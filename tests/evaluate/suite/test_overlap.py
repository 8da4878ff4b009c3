"""Images that a store's corpus shares with a dataset: by bytes, by look, and noted in results."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from evaluate.datasets.loading import load_dataset
from evaluate.results.files import read_results, write_result
from evaluate.suite.overlap import find_overlap, nearest_within, note_overlap
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from store.corpus.section import Corpus
from store.errors import EvaluationError
from store.index.create import index_corpus
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.evaluate import synthetic
from tests.evaluate.dataset_files import entry_of

SAME, ALIKE, OTHER = 3, 4, 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store of drawn pairs, and a dataset with some of their images, some again as larger PNGs, and others."""
    folder = tmp_path_factory.mktemp("overlap")
    write_corpus(folder / "corpus", PhantomSettings(rows=40, seed=3, size_px=96))
    index_corpus(folder / "store", Corpus(files=[str(folder / "corpus/*.tar")]), range_rows=32, chunk_rows=16)
    write_corpus(folder / "others", PhantomSettings(rows=OTHER, seed=99, size_px=96))
    own, others = images_of(folder / "corpus"), images_of(folder / "others")
    files = [(f"same{number}", "jpg", data) for number, data in enumerate(own[:SAME])]
    files += [(f"alike{number}", "png", again(data)) for number, data in enumerate(own[SAME : SAME + ALIKE])]
    files += [(f"other{number}", "jpg", data) for number, data in enumerate(others)]
    (folder / "data/drawn").mkdir(parents=True)
    with tarfile.open(folder / "data/drawn/test.tar", "w") as tar:
        for number, (key, suffix, data) in enumerate(files):
            record = json.dumps({"label": ("cat", "dog")[number % 2]}).encode()
            for ending, content in ((suffix, data), ("json", record)):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def images_of(folder):
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]
    return found


def again(data):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((192, 192), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def dataset(place, tmp_path):
    return load_dataset(
        entry_of(
            tmp_path,
            read={"format": "webdataset", "files": ["drawn/*.tar"]},
            fields={"id": "key", "label": "json.label"},
            split={"rule": "all_test"},
        ),
        place / "data",
    )


def test_images_of_the_same_bytes_and_of_the_same_look_are_found_and_others_are_not(place, dataset):
    found = find_overlap(FeatureStore(place / "store"), dataset)
    assert found.items == SAME + ALIKE + OTHER
    assert sorted(found.exact) == [f"same{number}" for number in range(SAME)]
    assert sorted(found.near) == [f"alike{number}" for number in range(ALIKE)]
    keys = {item for item, _ in found.pairs}
    assert keys == {*found.exact, *found.near}
    assert found.unreadable == 0


def test_a_corpus_on_object_storage_is_looked_at_to_its_last_image(place, dataset):
    far = locate("memory://overlap")
    for path in sorted((place / "corpus").glob("*.tar")):
        far.write(path.name, path.read_bytes())
    index_corpus(place / "far", Corpus(files=["memory://overlap/*.tar"]), range_rows=32, chunk_rows=16)
    found, near = (find_overlap(FeatureStore(place / name), dataset) for name in ("far", "store"))
    assert (sorted(found.exact), sorted(found.near)) == (sorted(near.exact), sorted(near.near))
    assert found.near


def test_without_looking_only_the_same_bytes_are_found_and_no_image_is_read(place, dataset, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("evaluate.suite.overlap.decode_image", fail)
    found = find_overlap(FeatureStore(place / "store"), dataset, near=False)
    assert (len(found.exact), found.near) == (SAME, [])


def test_counts_are_noted_in_the_results_of_that_dataset_only(place, dataset, tmp_path):
    for name in ("drawn", "another"):
        record, predictions = synthetic.zero_shot("student", name, skill=0.5, classes=2)
        write_result(tmp_path / "results", record, predictions)
    found = find_overlap(FeatureStore(place / "store"), dataset, near=False)
    assert note_overlap(tmp_path / "results", "drawn", found, store="runs/store") == 1
    assert note_overlap(tmp_path / "results", "drawn", found, store="runs/store") == 0
    noted = {record.dataset.name: record.overlap for record in read_results(tmp_path / "results")}
    assert noted["another"] is None
    assert (noted["drawn"].exact, noted["drawn"].near, noted["drawn"].store) == (SAME, 0, "runs/store")


def test_the_nearest_hash_within_the_bound_is_that_of_comparing_all():
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 2**63, 300, dtype=np.uint64)
    asked = rows[rng.integers(0, 300, 50)] ^ (np.uint64(1) << rng.integers(0, 63, 50, dtype=np.uint64))
    asked[::5] = rng.integers(0, 2**63, 10, dtype=np.uint64)
    found = nearest_within(asked, rows, bits=3)
    for value, row in zip(asked.tolist(), found.tolist(), strict=True):
        distances = [(value ^ other).bit_count() for other in rows.tolist()]
        assert row == (int(np.argmin(distances)) if min(distances) <= 3 else -1)
    assert (found[::5] == -1).all()
    assert (np.delete(found, np.arange(0, 50, 5)) >= 0).all()


def test_a_dataset_without_images_is_refused(place, dataset):
    from dataclasses import replace

    table = replace(dataset, splits={"test": replace(dataset.test, images=None, image_digests=None)})
    with pytest.raises(EvaluationError, match="are no images"):
        find_overlap(FeatureStore(place / "store"), table)
