"""Makes the table and folders that an entry reads out of a download that has another layout."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from evaluate.datasets.entry import DatasetEntry
from store.config.problems import suggest
from store.errors import ConfigError, EvaluationError
from store.files import write_atomic
from store.images.suffixes import image_suffixes

Made = Callable[[Path, Path], int]
"""Takes the folder of the download and the folder to fill, both of one dataset; returns the number of items."""


def prepare(entry: DatasetEntry, folder: Path, root: Path) -> int:
    """Make what an entry reads below the data root, and return the number of its items.

    Tables are written anew. Images are linked, or copied between file systems; those in place already stay.

    Args:
        folder: the unpacked download; it may be the dataset's own folder below the data root.

    Raises:
        ConfigError: the dataset needs no preparation, or none is known.
        EvaluationError: a file of the download is missing or not what it should be.
    """
    if entry.name not in PREPARED:
        raise ConfigError(
            f"{entry.name}: there is nothing to prepare{suggest(entry.name, PREPARED)}; prepare knows "
            f"{', '.join(PREPARED)}",
            hint=entry.get,
        )
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected the folder of the unpacked download", hint=entry.get)
    try:
        return PREPARED[entry.name](folder, root / entry.name)
    except EvaluationError as error:
        raise EvaluationError(f"{entry.name}: {error}", hint=error.hint or entry.get) from error


def _pcam(folder: Path, out: Path) -> int:
    """Save PatchCamelyon's arrays: ``x`` (N, 96, 96, 3) uint8 of one file, ``y`` (N, 1, 1, 1) of another, per split."""
    import h5py

    count = 0
    for split in ("train", "valid", "test"):
        images = _one(folder, f"camelyonpatch_level_2_split_{split}_x.h5")
        labels = _one(folder, f"camelyonpatch_level_2_split_{split}_y.h5")
        try:
            with h5py.File(images, "r") as x, h5py.File(labels, "r") as y:
                target = y["y"][()].reshape(-1)
                if len(x["x"]) != len(target):
                    raise EvaluationError(f"{images} has {len(x['x'])} images, {labels} has {len(target)} labels")
                for number, label in enumerate(target):
                    path = out / split / str(int(label)) / f"{number:06d}.png"
                    buffer = io.BytesIO()
                    Image.fromarray(x["x"][number]).save(buffer, "PNG")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(buffer.getvalue())
                count += len(target)
        except (OSError, KeyError) as error:
            raise EvaluationError(f"{images} and {labels}: expected HDF5 files with 'x' and 'y': {error}") from error
    return count


def _chestxray14(folder: Path, out: Path) -> int:
    lists = {"train": "train_val_list.txt", "test": "test_list.txt"}
    split_of = {name: split for split, file in lists.items() for name in _one(folder, file).read_text().split()}
    table = _table(_one(folder, "Data_Entry_2017*.csv"), "Image Index")
    unlisted = [row["Image Index"] for row in table if row["Image Index"] not in split_of]
    if unlisted:
        raise EvaluationError(f"{len(unlisted)} images are in neither list, the first is {unlisted[0]!r}")
    _link(folder, {row["Image Index"]: out / "images" / row["Image Index"] for row in table})
    return _write(out / "Data_Entry_2017.csv", ({**row, "split": split_of[row["Image Index"]]} for row in table))


def _eyepacs(folder: Path, out: Path) -> int:
    table = _table(_one(folder, "trainLabels.csv"), "image", "level")
    _link(folder, {f"{row['image']}.jpeg": out / "train" / f"{row['image']}.jpeg" for row in table})
    return _write(out / "trainLabels.csv", ({**row, "patient": row["image"].partition("_")[0]} for row in table))


def _idrid(folder: Path, out: Path) -> int:
    found = []
    for split, part in (("train", "Training"), ("test", "Testing")):
        table = _table(_one(folder, f"*Disease Grading_{part} Labels.csv"), "Image name", "Retinopathy grade")
        grades = {f"{row['Image name']}.jpg": row["Retinopathy grade"] for row in table}
        # Both splits begin with IDRiD_001.
        _link(folder, {name: out / split / name for name in grades}, pattern=f"*{part} Set/*")
        found += [{"image": f"{split}/{name}", "grade": grade, "split": split} for name, grade in grades.items()]
    return _write(out / "manifest.csv", found)


def _octdl(folder: Path, out: Path) -> int:
    table = _table(_one(folder, "OCTDL_labels.csv"), "file_name", "disease", "patient_id")
    names = {row["file_name"]: f"{row['file_name'].removesuffix('.jpg')}.jpg" for row in table}
    _link(folder, {name: out / "images" / name for name in names.values()})
    made = (
        {"image": f"images/{names[row['file_name']]}", "disease": row["disease"], "patient_id": row["patient_id"]}
        for row in table
    )
    return _write(out / "manifest.csv", made)


def _rsna_pneumonia(folder: Path, out: Path) -> int:
    # A row for each box: a patient with several has several, all with Target 1.
    target = {
        row["patientId"]: row["Target"]
        for row in _table(_one(folder, "stage_2_train_labels.csv"), "patientId", "Target")
    }
    _link(folder, {f"{patient}.dcm": out / "images" / f"{patient}.dcm" for patient in target})
    made = ({"image": f"images/{patient}.dcm", "label": label} for patient, label in target.items())
    return _write(out / "manifest.csv", made)


PREPARED: Mapping[str, Made] = {
    "pcam": _pcam,
    "chestxray14": _chestxray14,
    "eyepacs": _eyepacs,
    "idrid": _idrid,
    "octdl": _octdl,
    "rsna_pneumonia": _rsna_pneumonia,
}
"""The datasets whose download has another layout than their entry reads."""


def _one(folder: Path, pattern: str) -> Path:
    """Return the file that a pattern names, in any folder below."""
    found = sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.name.startswith("._"))
    if not found:
        raise EvaluationError(f"{folder} has no file {pattern}")
    return found[0]


def _table(path: Path, *columns: str) -> list[dict[str, Any]]:
    """Return the rows of a table that has some columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # IDRiD's tables end with columns without a name.
            found = [{name: value for name, value in row.items() if name} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{path}: expected a CSV: {error}") from error
    missing = [name for name in columns if not found or name not in found[0]]
    if missing:
        there = ", ".join(found[0]) if found else "no rows"
        raise EvaluationError(f"{path}: no column {missing[0]!r}; there are {there}")
    return found


def _link(folder: Path, places: Mapping[str, Path], *, pattern: str = "*") -> None:
    """Put images, found by name in any folder below, in their places.

    Args:
        pattern: only images that match it count.
    """
    there = {path.name: path for path in _images(folder, pattern)}
    missing = [name for name in places if name not in there]
    if missing:
        raise EvaluationError(
            f"{folder}: {len(missing)} of {len(places)} images are missing, the first is {missing[0]}"
        )
    for name, place in places.items():
        _put(there[name], place)


def _images(folder: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(folder.rglob(pattern)):
        if path.suffix.lower().lstrip(".") in image_suffixes() and not path.name.startswith("._"):
            yield path


def _put(image: Path, place: Path) -> None:
    """Link an image to a place, or copy it where there can be no link; what is in place stays."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image, place)
    except OSError:
        shutil.copyfile(image, place)


def _write(path: Path, table: Iterable[Mapping[str, Any]]) -> int:
    """Write a CSV and return the number of its rows."""
    made = list(table)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(made[0]))
    writer.writeheader()
    writer.writerows(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())
    return len(made)
