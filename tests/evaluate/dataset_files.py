"""Small datasets on disk, and entries that read them."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import yaml
from PIL import Image

from evaluate.datasets.entry import read_entry

ORIGINS = {"choice": "ours", "classes": "ours", "split": "ours", "templates": "ours", "metrics": "ours"}

BASE = {
    "title": "Drawn",
    "modality": "xray",
    "tasks": {"zero_shot": {"primary": "auroc"}},
    "source": "https://example.org/drawn",
    "licence": "CC0 1.0",
    "access": "open",
    "get": "draw it",
    "citation": "nobody, 2026",
    "classes": {"cat": "a cat", "dog": "a dog"},
    "positive": "cat",
    "templates": ["an image of {label}"],
    "provenance": ORIGINS,
}
"""An entry but for how its files are read."""


def image_bytes(seed, *, size=(8, 6), kind="PNG"):
    """An image file whose pixels a seed decides."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_entry(folder, name="drawn", **changes):
    """Write an entry and return its path; a value of None takes a key away."""
    values = {"name": name, **BASE, **changes}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}, sort_keys=False))
    return path


def entry_of(folder, name="drawn", **changes):
    """Write an entry and read it."""
    return read_entry(write_entry(folder, name, **changes))


def write_folders(root, layout):
    """Write images by path; a value is a seed, or bytes as they are."""
    for name, content in layout.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else image_bytes(content))


def write_tar(path, pairs, **image):
    """Write a WebDataset tar: by key, the seed of the image (or its bytes, None for none) and the JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, (seed, record) in pairs.items():
            members = {"json": json.dumps(record).encode(), "txt": f"about {key}".encode()}
            if seed is not None:
                members["png"] = seed if isinstance(seed, bytes) else image_bytes(seed, **image)
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


FOLDERS = {"format": "folders", "files": ["drawn/{split}/{label}/{patient}-*.png"]}
FOLDER_FIELDS = {"label": "label", "split": "split", "patient": "patient"}
FOLDER_IMAGES = {
    "drawn/train/cat/p1-0.png": 1,
    "drawn/train/dog/p2-0.png": 2,
    "drawn/test/cat/p3-0.png": 3,
    "drawn/test/cat/p3-1.png": 4,
    "drawn/test/dog/p4-0.png": 5,
}
"""Two patients for training, two for testing."""


def folder_dataset(tmp_path, changed=None, **changes):
    """Write the folder dataset, some of its images changed (None: not there), and return its entry."""
    layout = {**FOLDER_IMAGES, **(changed or {})}
    write_folders(tmp_path, {name: content for name, content in layout.items() if content is not None})
    settings = {"read": FOLDERS, "fields": FOLDER_FIELDS, "split": {"rule": "field"}, **changes}
    return entry_of(tmp_path, **settings)
