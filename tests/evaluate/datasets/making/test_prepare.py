"""Downloads rebuilt tiny in the layout that their sources ship, prepared, and read as an evaluation reads them."""

from __future__ import annotations

import csv

import h5py
import numpy as np
import pytest

from evaluate.datasets.loading import load_dataset
from evaluate.datasets.making.prepare import PREPARED, prepare
from evaluate.datasets.registry import read_registry
from store.errors import ConfigError, EvaluationError
from store.images.decode import decode_image
from tests.evaluate.dataset_files import write_folders
from tests.store.images.dicom_files import dicom, written

ENTRIES = read_registry()


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def pcam(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for name, shape in (("x", (6, 96, 96, 3)), ("y", (6, 1, 1, 1))):
            values = rng.integers(0, 256, shape, dtype=np.uint8) if name == "x" else np.arange(6).reshape(shape) % 2
            folder.mkdir(exist_ok=True)
            with h5py.File(folder / f"camelyonpatch_level_2_split_{split}_{name}.h5", "w") as file:
                file[name] = values.astype(np.uint8)


def chestxray14(folder):
    labels = list(ENTRIES["chestxray14"].classes)
    names = [f"{number:08d}_000.png" for number in range(len(labels) + 4)]
    found = [*labels, "No Finding", "|".join(labels[:2]), "No Finding", labels[0]]
    header = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"]
    rows = [[name, label, 0, n, 50, "M"] for n, (name, label) in enumerate(zip(names, found, strict=True))]
    write_csv(folder / "Data_Entry_2017_v2020.csv", header, rows)
    (folder / "train_val_list.txt").write_text("\n".join(names[-2:]))
    (folder / "test_list.txt").write_text("\n".join(names[:-2]))
    for number, name in enumerate(names):
        write_folders(folder / f"images_00{1 + number % 2}" / "images", {name: number})


def eyepacs(folder):
    names = [f"{patient}_{side}" for patient in range(40) for side in ("left", "right")]
    write_csv(folder / "trainLabels.csv", ["image", "level"], [[name, n // 2 % 5] for n, name in enumerate(names)])
    write_folders(folder / "train", {f"{name}.jpeg": number for number, name in enumerate(names)})


def idrid(folder):
    base = folder / "B. Disease Grading"
    for place, (part, letter) in enumerate((("Training", "a"), ("Testing", "b"))):
        header = ["Image name", "Retinopathy grade", "Risk of macular edema ", ""]
        rows = [[f"IDRiD_{number + 1:03d}", number % 5, 0, ""] for number in range(10)]
        write_csv(base / "2. Groundtruths" / f"{letter}. IDRiD_Disease Grading_{part} Labels.csv", header, rows)
        images = {f"{row[0]}.jpg": 100 * place + number for number, row in enumerate(rows)}
        write_folders(base / "1. Original Images" / f"{letter}. {part} Set", images)


def octdl(folder):
    labels = list(ENTRIES["octdl"].classes)
    rows = [[f"{labels[n % len(labels)].lower()}_{n}", labels[n % len(labels)], "", "", n] for n in range(70)]
    write_csv(folder / "OCTDL_labels.csv", ["file_name", "disease", "subcategory", "condition", "patient_id"], rows)
    write_folders(folder / "OCTDL", {f"{row[1]}/{row[0]}.jpg": number for number, row in enumerate(rows)})


def rsna_pneumonia(folder):
    header = ["patientId", "x", "y", "width", "height", "Target"]
    rows = [["p0", "", "", "", "", 0], ["p1", 1, 2, 3, 4, 1], ["p1", 5, 6, 7, 8, 1], ["p2", "", "", "", "", 0]]
    write_csv(folder / "stage_2_train_labels.csv", header, rows)
    images = {f"p{number}.dcm": written(dicom(np.full((6, 5), 90 * number, np.uint8))) for number in range(3)}
    write_folders(folder / "stage_2_train_images", images)


DOWNLOADS = {each.__name__: each for each in (pcam, chestxray14, eyepacs, idrid, octdl, rsna_pneumonia)}
ITEMS = {"pcam": 18, "chestxray14": 18, "eyepacs": 80, "idrid": 20, "octdl": 70, "rsna_pneumonia": 3}


@pytest.mark.parametrize("name", PREPARED)
def test_what_is_prepared_is_read_as_its_entry_says(name, tmp_path):
    DOWNLOADS[name](tmp_path / "download")
    root = tmp_path / "data"
    assert prepare(ENTRIES[name], tmp_path / "download", root) == ITEMS[name]
    dataset = load_dataset(ENTRIES[name], root, allow=["empty_classes"])
    assert sum(len(split) for split in dataset.splits.values()) == ITEMS[name]
    assert dataset.excluded == {}
    decode_image(dataset.test.image_bytes(0))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert prepare(ENTRIES[name], tmp_path / "download", root) == ITEMS[name]
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_labels_splits_and_patients_are_those_of_the_download(tmp_path):
    root, loaded = tmp_path / "data", {}
    for name in ("chestxray14", "eyepacs", "idrid", "rsna_pneumonia", "pcam"):
        DOWNLOADS[name](tmp_path / name)
        prepare(ENTRIES[name], tmp_path / name, root)
        loaded[name] = load_dataset(ENTRIES[name], root, allow=["empty_classes"])
    assert (len(loaded["chestxray14"].splits["train"]), len(loaded["chestxray14"].test)) == (2, 16)
    assert len(loaded["idrid"].test) == 10
    assert loaded["idrid"].test.targets.tolist() == [0, 1, 2, 3, 4] * 2
    assert loaded["rsna_pneumonia"].test.targets.tolist() == [0, 1, 0]
    assert {name: len(split) for name, split in loaded["pcam"].splits.items()} == {"train": 6, "val": 6, "test": 6}
    with (root / "eyepacs/trainLabels.csv").open() as file:
        assert {row["patient"] for row in csv.DictReader(file)} == {str(number) for number in range(40)}


def test_a_download_in_its_own_place_is_prepared_there(tmp_path):
    eyepacs(tmp_path / "eyepacs")
    prepare(ENTRIES["eyepacs"], tmp_path / "eyepacs", tmp_path)
    assert len((tmp_path / "eyepacs/trainLabels.csv").read_text().splitlines()) == 81


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "trainLabels.csv").unlink(), "eyepacs: .*has no file trainLabels.csv"),
        (
            lambda folder: (folder / "train/3_left.jpeg").unlink(),
            "1 of 80 images are missing, the first is 3_left",
        ),
        (lambda folder: write_csv(folder / "trainLabels.csv", ["name"], [["a"]]), "no column 'image'; there are name"),
        (lambda folder: (folder / "trainLabels.csv").write_bytes(b"\xff\xfe\xfa"), "trainLabels.csv: expected a CSV"),
    ],
)
def test_a_download_that_is_not_whole_is_refused_with_what_to_fetch(spoil, message, tmp_path):
    eyepacs(tmp_path)
    spoil(tmp_path)
    with pytest.raises(EvaluationError, match=message) as caught:
        prepare(ENTRIES["eyepacs"], tmp_path, tmp_path / "data")
    assert "python -m evaluate prepare eyepacs FOLDER" in caught.value.hint
    assert not (tmp_path / "data").exists()


def test_a_damaged_array_is_refused(tmp_path):
    pcam(tmp_path)
    (tmp_path / "camelyonpatch_level_2_split_test_y.h5").write_bytes(b"no hdf5")
    with pytest.raises(EvaluationError, match=r"split_test_y\.h5: expected HDF5 files with 'x' and 'y'"):
        prepare(ENTRIES["pcam"], tmp_path, tmp_path / "data")


def test_a_dataset_that_needs_nothing_or_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"busi: there is nothing to prepare.*; prepare knows pcam"):
        prepare(ENTRIES["busi"], tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="expected the folder of the unpacked download"):
        prepare(ENTRIES["pcam"], tmp_path / "none", tmp_path)


@pytest.mark.parametrize("name", PREPARED)
def test_the_entry_says_that_prepare_makes_its_files(name):
    assert f"python -m evaluate prepare {name} FOLDER" in ENTRIES[name].get
