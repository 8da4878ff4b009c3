"""Every format, from files to a loaded dataset."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import tracemalloc
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from evaluate.datasets.loading import load_dataset
from store.errors import CorpusError, EvaluationError
from store.images.decode import decode_image
from tests.evaluate.dataset_files import entry_of, folder_dataset, image_bytes, write_folders, write_tar

SHA = {seed: hashlib.sha256(image_bytes(seed)).hexdigest() for seed in range(20)}


def write_csv(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def test_folders_say_label_split_and_patient(tmp_path):
    dataset = load_dataset(folder_dataset(tmp_path), tmp_path)
    test = dataset.test
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 2, "test": 3}
    assert test.ids == ["drawn/test/cat/p3-0.png", "drawn/test/cat/p3-1.png", "drawn/test/dog/p4-0.png"]
    assert test.patients == ["p3", "p3", "p4"]
    assert test.targets.tolist() == [0, 0, 1]
    assert test.image_digests == [SHA[3], SHA[4], SHA[5]]
    assert test.image_bytes(2) == image_bytes(5)


@pytest.mark.parametrize("left", ["._p3-0.png", ".DS_Store.png", "__MACOSX/p3-0.png", ".cache/p3-0.png"])
def test_what_an_operating_system_left_in_a_folder_is_no_image(left, tmp_path, caplog):
    write_folders(tmp_path, {"d/cat/a.png": 0, "d/dog/b.png": 1})
    (tmp_path / f"d/cat/{left}").parent.mkdir(exist_ok=True)
    (tmp_path / f"d/cat/{left}").write_bytes(b"Mac OS X")
    read = {"format": "folders", "files": ["d/{label}/**/*.png"]}
    entry = entry_of(tmp_path, read=read, fields={"label": "label"}, split={"rule": "all_test"})
    assert load_dataset(entry, tmp_path).test.ids == ["d/cat/a.png", "d/dog/b.png"]
    assert "hidden files, such as the ._NAME of macOS, are no images: 1" in caplog.text


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_members_of_an_archive_may_come_in_any_order(kind, tmp_path):
    texts = {f"{n}.json": json.dumps({"kind": ("cat", "dog")[n % 2]}).encode() for n in range(4)}
    images = {f"{n}.png": image_bytes(n) for n in range(4)}
    members = {**texts, **images, "._0.png": b"Mac OS X"}
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "0.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    read, fields = {"format": "webdataset", "files": [f"0.{kind}"]}, {"label": "json.kind"}
    entry = entry_of(tmp_path, read=read, fields=fields, split={"rule": "all_test"})
    test = load_dataset(entry, tmp_path).test
    assert test.targets.tolist() == [0, 1, 0, 1]
    assert [test.image_bytes(row) for row in range(4)] == list(images.values())


def test_a_part_that_a_path_names_twice_must_be_the_same(tmp_path):
    write_folders(
        tmp_path, {"a/cat/cat (1).png": 1, "a/cat/cat (1)_mask.png": 2, "a/dog/cat (2).png": 3, "a/dog/dog (1).png": 4}
    )
    read = {"format": "folders", "files": ["a/{label}/{label} ({number}).png"]}
    dataset = load_dataset(
        entry_of(tmp_path, read=read, fields={"label": "label"}, split={"rule": "all_test"}), tmp_path
    )
    assert dataset.test.ids == ["a/cat/cat (1).png", "a/dog/dog (1).png"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_table_names_its_images(suffix, tmp_path):
    write_folders(tmp_path, {f"drawn/images/{number}.png": number for number in range(4)})
    records = [{"image": f"images/{number}.png", "kind": ("cat", "dog")[number % 2]} for number in range(4)]
    path = tmp_path / f"drawn/list.{suffix}"
    match suffix:
        case "csv":
            write_csv(path, records)
        case "tsv":
            path.write_text("image\tkind\n" + "".join(f"{each['image']}\t{each['kind']}\n" for each in records))
        case "jsonl":
            path.write_text("".join(json.dumps(each) + "\n" for each in records))
        case "json":
            path.write_text(json.dumps(records))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
    read = {"format": "table", "files": [f"drawn/list.{suffix}"], "image": "image"}
    dataset = load_dataset(
        entry_of(tmp_path, read=read, fields={"label": "kind"}, split={"rule": "all_test"}), tmp_path
    )
    assert dataset.test.image_digests == [SHA[0], SHA[1], SHA[2], SHA[3]]
    assert dataset.test.targets.tolist() == [0, 1, 0, 1]


def test_images_may_lie_in_a_column_of_a_parquet_file(tmp_path):
    images = [{"bytes": image_bytes(seed), "path": f"{seed}.png"} for seed in (7, 8)]
    (tmp_path / "drawn").mkdir()
    pq.write_table(pa.table({"image": images, "kind": ["cat", "dog"]}), tmp_path / "drawn/a.parquet")
    read = {"format": "table", "files": ["drawn/*.parquet"], "image": "image"}
    dataset = load_dataset(
        entry_of(tmp_path, read=read, fields={"label": "kind"}, split={"rule": "all_test"}), tmp_path
    )
    assert dataset.test.image_digests == [SHA[7], SHA[8]]
    assert dataset.test.image_bytes(1) == image_bytes(8)


def test_a_path_made_of_columns_is_looked_for_in_several_places(tmp_path):
    write_folders(tmp_path, {"one/a 1.png": 1, "two/b.png": 2})
    write_csv(tmp_path / "list.csv", [{"Image Name": "a 1", "kind": "cat"}, {"Image Name": "b", "kind": "dog"}])
    read = {"format": "table", "files": ["list.csv"], "image": ["one/{Image Name}.png", "two/{Image Name}.png"]}
    fields = {"label": "kind", "id": "Image Name"}
    dataset = load_dataset(entry_of(tmp_path, read=read, fields=fields, split={"rule": "all_test"}), tmp_path)
    assert (dataset.test.ids, dataset.test.image_digests) == (["a 1", "b"], [SHA[1], SHA[2]])


def test_a_table_without_a_header_line_is_told_its_columns(tmp_path):
    (tmp_path / "list.data").write_text("p1,5,R,1.5,?\np2,7,N,2.5,4\np3,2,R,0.5,1\n")
    read = {
        "format": "survival_table",
        "files": ["list.data"],
        "columns": ["id", "months", "outcome", "a", "b"],
        "features": ["a", "b"],
    }
    entry = entry_of(
        tmp_path,
        tasks={"survival": {"primary": "harrell_c"}},
        read=read,
        fields={"id": "id", "patient": "id", "time": "months", "event": "outcome"},
        event_values=["R"],
        censored_values=["N"],
        split={"rule": "folds"},
        missing="impute",
        classes=None,
        positive=None,
        templates=None,
    )
    test = load_dataset(entry, tmp_path).test
    assert test.times.tolist() == [5, 7, 2]
    assert test.events.tolist() == [True, False, True]
    np.testing.assert_array_equal(test.features, [[1.5, np.nan], [2.5, 4], [0.5, 1]])


def test_a_tar_says_all_in_its_json(tmp_path):
    pairs = {
        "a": (1, {"kind": "cat", "split": "train"}),
        "b": (2, {"kind": "dog", "split": "test"}),
        "c": (3, {"kind": "cat", "split": "test"}),
    }
    write_tar(tmp_path / "drawn/0.tar", pairs)
    entry = entry_of(
        tmp_path,
        tasks={"zero_shot": {"primary": "auroc"}, "retrieval": {"primary": "mean_recall"}},
        read={"format": "webdataset", "files": ["drawn/*.tar"]},
        fields={"id": "key", "label": "json.kind", "split": "json.split", "caption": "txt"},
        split={"rule": "field"},
    )
    test = load_dataset(entry, tmp_path).test
    assert (test.ids, test.captions) == (["b", "c"], ["about b", "about c"])
    assert test.image_bytes(0) == image_bytes(2)


def medmnist(path, images, labels):
    arrays = {}
    for split in ("train", "val", "test"):
        arrays |= {f"{split}_images": images[split], f"{split}_labels": labels[split]}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_an_image_of_a_medmnist_file_is_its_array(channels, tmp_path):
    rng = np.random.default_rng(3)
    images = {name: rng.integers(0, 256, (4, 28, 28, *channels), dtype=np.uint8) for name in ("train", "val", "test")}
    labels = {name: np.array([[0], [1], [1], [0]], dtype=np.uint8) for name in images}
    medmnist(tmp_path / "m.npz", images, labels)
    entry = entry_of(
        tmp_path,
        read={"format": "medmnist", "files": ["m.npz"]},
        split={"rule": "field"},
        classes={"0": "a cat", "1": "a dog"},
        positive="0",
    )
    test = load_dataset(entry, tmp_path).test
    assert test.targets.tolist() == [0, 1, 1, 0]
    for item in (2, 0, 3):
        pixels = np.asarray(decode_image(test.image_bytes(item)))
        expected = images["test"][item] if channels else np.repeat(images["test"][item][..., None], 3, axis=-1)
        np.testing.assert_array_equal(pixels, expected)


def test_several_labels_of_an_image_are_a_row_of_zeros_and_ones(tmp_path):
    rng = np.random.default_rng(4)
    images = {name: rng.integers(0, 256, (3, 28, 28), dtype=np.uint8) for name in ("train", "val", "test")}
    labels = {name: np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=np.uint8) for name in images}
    medmnist(tmp_path / "m.npz", images, labels)
    entry = entry_of(
        tmp_path,
        read={"format": "medmnist", "files": ["m.npz"]},
        split={"rule": "field"},
        classes={"0": "mass", "1": "nodule", "2": "edema"},
        positive=None,
        multi_label={"by": "list"},
        negative_templates=["no {label}"],
    )
    assert load_dataset(entry, tmp_path).test.targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


QUESTIONS = [
    {"qid": 1, "image": "a.png", "question": "Is it a cat?", "answer": "Yes", "lang": "en"},
    {"qid": 2, "image": "a.png", "question": "What is it?", "answer": "a cat", "lang": "en"},
    {"qid": 3, "image": "b.png", "question": "How many?", "answer": 2, "lang": "en"},
    {"qid": 4, "image": "b.png", "question": "Combien?", "answer": "2", "lang": "fr"},
]


@pytest.mark.parametrize("in_tar", [True, False])
def test_questions_share_the_images_they_are_about(in_tar, tmp_path):
    (tmp_path / "qa.json").write_text(json.dumps(QUESTIONS))
    write_tar(tmp_path / "images/0.tar", {"a": (1, {"split": "test"}), "b": (2, {"split": "test"})})
    write_folders(tmp_path, {"images/a.png": 1, "images/b.png": 2})
    where = {"image": "{image}", "images": ["images/*.tar"]} if in_tar else {"image": "images/{image}"}
    split = "image.json.split" if in_tar else None
    entry = entry_of(
        tmp_path,
        tasks={"vqa": {"primary": "vqa_overall"}},
        read={"format": "vqa_json", "files": ["qa.json"], **where},
        fields={"id": "qid", "question": "question", "answer": "answer"} | ({"split": split} if split else {}),
        split={"rule": "field"} if in_tar else {"rule": "digest", "by": "image", "salt": "x", "train": 0.0, "val": 0.0},
        keep={"lang": ["en"]},
        classes=None,
        positive=None,
        templates=None,
    )
    dataset = load_dataset(entry, tmp_path)
    test = dataset.test
    assert (test.ids, test.answers) == (["1", "2", "3"], ["Yes", "a cat", "2"])
    assert test.answer_types == ["closed", "open", "open"]
    assert dataset.excluded == {"ignored lang": 1}
    first, which = test.distinct_images()
    assert (first, which.tolist()) == ([0, 2], [0, 0, 1])


def write_bag(folder, name, features, kind):
    match kind:
        case ".npy":
            np.save(folder / f"{name}.npy", features)
        case ".npz":
            np.savez(folder / f"{name}.npz", features=features)
        case ".h5":
            with h5py.File(folder / f"{name}.h5", "w") as file:
                file["features"] = features
        case ".zarr":
            zarr.open_group(folder / f"{name}.zarr", mode="w").create_array("features", data=features)


SLIDES = [
    {"slide": "s1", "patient": "p1", "kind": "cat", "split": "train"},
    {"slide": "s2", "patient": "p2", "kind": "dog", "split": "test"},
    {"slide": "s3", "patient": "p3", "kind": "cat", "split": "test"},
    {"slide": "s4", "patient": "p3", "kind": "cat", "split": "test"},
]


def bags(tmp_path, kind, **read):
    rng = np.random.default_rng(5)
    features = {
        each["slide"]: rng.normal(size=(number + 1, 6)).astype(np.float32) for number, each in enumerate(SLIDES)
    }
    (tmp_path / "features").mkdir()
    for name, bag in features.items():
        write_bag(tmp_path / "features", name, bag, kind)
    write_csv(tmp_path / "slides.csv", SLIDES)
    return features, entry_of(
        tmp_path,
        tasks={"diagnosis": {"primary": "auroc"}},
        read={"format": "bags", "files": ["slides.csv"], "bags": f"features/{{slide}}{kind}", **read},
        fields={"id": "slide", "label": "kind", "patient": "patient", "split": "split"},
        split={"rule": "field"},
    )


@pytest.mark.parametrize("kind", [".npy", ".npz", ".h5", ".zarr"])
def test_a_bag_is_read_from_each_kind_of_file(kind, tmp_path):
    features, entry = bags(tmp_path, kind)
    test = load_dataset(entry, tmp_path).test
    assert (test.ids, test.patients) == (["s2", "s3", "s4"], ["p2", "p3", "p3"])
    np.testing.assert_array_equal(test.bags[1].features(), features["s3"])


def test_slides_of_a_patient_make_one_bag(tmp_path):
    features, entry = bags(tmp_path, ".h5", per="patient")
    test = load_dataset(entry, tmp_path).test
    assert (test.ids, test.targets.tolist()) == (["p2", "p3"], [1, 0])
    np.testing.assert_array_equal(test.bags[1].features(), np.concatenate([features["s3"], features["s4"]]))


def test_an_array_that_is_not_there_is_named(tmp_path):
    _, entry = bags(tmp_path, ".h5", array="feats")
    with pytest.raises(EvaluationError, match=r"s1.h5: cannot read the array 'feats'"):
        load_dataset(entry, tmp_path)


def test_a_damaged_medmnist_file_says_so(tmp_path):
    (tmp_path / "m.npz").write_bytes(b"PK\x03\x04 cut short")
    entry = entry_of(tmp_path, read={"format": "medmnist", "files": ["m.npz"]}, split={"rule": "field"})
    with pytest.raises(CorpusError, match=r"m\.npz: cannot be read as an npz"):
        load_dataset(entry, tmp_path)


@pytest.mark.parametrize("kind", ["folders", "webdataset", "table"])
def test_images_are_read_without_being_kept(kind, tmp_path):
    """A hundred images of 450 kB are 45 MB; what is held at a time is an image per thread, or two blocks of a tar."""
    count, image = 100, {"size": (500, 300), "kind": "BMP"}
    if kind == "webdataset":
        pairs = {str(seed): (seed, {"kind": ("cat", "dog")[seed % 2]}) for seed in range(count)}
        write_tar(tmp_path / "0.tar", pairs, **image)
        read, fields = {"format": "webdataset", "files": ["0.tar"]}, {"label": "json.kind"}
    else:
        names = [f"{('cat', 'dog')[seed % 2]}/{seed}.png" for seed in range(count)]
        write_folders(tmp_path, {f"d/{name}": image_bytes(seed, **image) for seed, name in enumerate(names)})
        write_csv(tmp_path / "d/list.csv", [{"image": name, "label": name.split("/")[0]} for name in names])
        fields = {"label": "label"}
        read = {"format": "folders", "files": ["d/{label}/*.png"]}
        if kind == "table":
            read = {"format": "table", "files": ["d/list.csv"], "image": "image"}
    entry = entry_of(tmp_path, read=read, fields=fields, split={"rule": "all_test"})
    load_dataset(entry, tmp_path)  # what is imported on the way is not counted
    tracemalloc.start()
    dataset = load_dataset(entry, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset.test) == count
    assert peak < 25e6
