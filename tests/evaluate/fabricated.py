"""Files of any dataset of the registry, made from what its entry says of them: drawn, tiny, and laid out as it asks."""

from __future__ import annotations

import csv
import json
from itertools import count

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evaluate.datasets.formats.rules import wild
from evaluate.datasets.split_rules import SPLITS

from .dataset_files import image_bytes, write_folders, write_tar

BY_DIGEST = 60
"""Items of a dataset that a digest splits: a fifth of them is for testing, so that no split is empty."""


def spelled(rule, split):
    """Return the value of a column for the items of a split."""
    return next((value for value, name in getattr(rule, "values", {}).items() if name == split), split)


def labels_of(entry):
    """Every label that the files may have, one text each; for datasets without classes one empty text."""
    none = entry.multi_label.none if entry.multi_label else []
    return [*entry.classes, *entry.label_map, *none] or [""]


def items(entry):
    """Yield (number, split, label) of the items to make; a split of None is left to a digest."""
    numbers = count()
    splits = (None,) if entry.split.rule in {"digest", "all_test", "folds"} else SPLITS
    labels = labels_of(entry)
    times = BY_DIGEST // len(labels) if entry.split.rule == "digest" else 2
    for split in splits:
        for label in labels:
            for _ in range(times):
                yield next(numbers), split, label


def record_of(entry, number, split, label):
    """The columns that the entry's fields, filters and paths ask for."""
    named = {path: name for name, path in entry.fields.model_dump().items() if path}
    values = {
        "label": label,
        "split": split and spelled(entry.split, split),
        "time": str(10 + number),
        "event": (entry.event_values[0], entry.censored_values[0])[number % 2],
        "answer": ("yes", "a cat")[number % 2],
        "answer_type": ("CLOSED", "OPEN")[number % 2],
        "caption": f"caption {number // 2}",
    }
    record = {path: values.get(name) or f"{name}{number}.png" for path, name in named.items()}
    record |= {path: kept[0] for path, kept in entry.keep.items()}
    if entry.one_hot or (entry.multi_label and entry.multi_label.by == "columns"):
        record |= {name: ("0.0", "1.0")[name == label] for name in entry.classes}
    record |= dict.fromkeys(getattr(entry.read, "features", ()), "1.5")
    return record


def fabricate(entry, root):
    """Write a dataset's files below a data root."""
    match entry.read.format:
        case "folders":
            _folders(entry, root)
        case "webdataset":
            _tar(entry, root)
        case "medmnist":
            _npz(entry, root)
        case "list":
            _list(entry, root)
        case _:
            _tables(entry, root)


def _folders(entry, root):
    for pattern in entry.read.files:
        for number, split, label in items(entry):
            values = {"label": label, "split": split and spelled(entry.split, split)}
            path = pattern.replace("**/", "deep/").replace(".*", ".png").replace("*", f"x{number}")
            parts = {name: values.get(name) or f"{name}{number}" for name in _parts(pattern)}
            write_folders(root, {path.format(**parts): _image(pattern, number)})


def _image(pattern, number):
    # Two patterns of one dataset, for training and for testing, are to have other images.
    return image_bytes([number, *pattern.encode()], size=(3, 3))


def _parts(pattern):
    return [piece.split("}")[0] for piece in pattern.split("{")[1:]]


def _tar(entry, root):
    pairs = {}
    for number, split, label in items(entry):
        record = {"label": label, "split": split or "test", "slide": f"s{number}", "patient": f"p{number}"}
        pairs[f"k{number}"] = (number, record)
    write_tar(root / entry.read.files[0].replace("*", "0"), pairs, size=(3, 3))


def _list(entry, root):
    path = root / entry.read.files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"i{number}.png {label}" for number, _, label in items(entry)]
    path.write_text("\n".join(lines) + "\n")
    for number, line in enumerate(lines):
        _content(root / entry.read.image.format(split=path.stem, name=line.split()[0]), number, ())


def _npz(entry, root):
    rng, arrays, classes = np.random.default_rng(0), {}, len(entry.classes)
    for split in SPLITS:
        labels = np.eye(classes, dtype=np.uint8) if entry.multi_label else np.arange(classes, dtype=np.uint8)[:, None]
        arrays |= {f"{split}_labels": labels, f"{split}_images": rng.integers(0, 256, (classes, 4, 4), dtype=np.uint8)}
    path = root / entry.read.files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def _tables(entry, root):
    read = entry.read
    places = getattr(read, "image", None) or getattr(read, "bags", None) or []
    places = [places] if isinstance(places, str) else places
    records = {split: [] for split in SPLITS}
    for number, split, label in items(entry):
        record = record_of(entry, number, split, label)
        if places and "{" in places[0]:
            record |= {name: record.get(name) or f"i{number}.png" for name in _parts(places[0])}
            _content(root / places[number % len(places)].format_map(record), number, getattr(read, "images", ()))
        elif places:
            record[places[0]] = f"images/i{number}.png"
            _content(root / read.files[0].rpartition("/")[0] / record[places[0]], number, ())
        records[split or "test"].append(record)
    for pattern in getattr(read, "images", ()):
        named = [record["image_name"].removesuffix(".png") for split in SPLITS for record in records[split]]
        inside = {name: (place, {"split": SPLITS[place % 3]}) for place, name in enumerate(named)}
        write_tar(root / pattern.replace("*", "0"), inside, size=(3, 3))
    _write_tables(entry, root, records)


def _write_tables(entry, root, records):
    patterns = {}
    if entry.split.rule == "files":
        patterns = {split: found[0] for split in SPLITS if (found := getattr(entry.split, split))}
    for split, found in records.items():
        if patterns and split not in patterns:  # carved from another split, or none
            continue
        name = patterns.get(split, entry.read.files[0])
        if name.startswith("*"):  # RFMiD's: the pattern of the split lies within that of the file
            name = entry.read.files[0].replace("_*_", name.strip("*"))
        name = name.replace("*", "0.parquet") if entry.read.files[0].endswith(".parquet") else name
        _write(root / wild(name), found if patterns else [each for some in records.values() for each in some], entry)


def _write(path, records, entry):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        for place, record in enumerate(records):
            record["image"] = {"bytes": image_bytes(_seed(path.name, place)), "path": None}
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        columns = getattr(entry.read, "columns", None) or list(records[0])
        with path.open("w", newline="") as file:
            separator = getattr(entry.read, "separator", None) or ","
            writer = csv.DictWriter(file, fieldnames=columns, restval="1.5", delimiter=separator)
            if not getattr(entry.read, "columns", None):
                writer.writeheader()
            writer.writerows(records)


def _seed(name, place):
    """A seed that is another for each file and place."""
    return [place, *name.encode()]


def _content(path, number, in_tars):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["features"] = np.random.default_rng(number).normal(size=(3, 4)).astype(np.float32)
    elif not in_tars:
        path.write_bytes(image_bytes(number, size=(3, 3)))
