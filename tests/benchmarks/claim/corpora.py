"""Corpora of the claim: train splits of three real datasets, shared out by digest among teachers and students.

Half of the images, by a hash of draw and digest, are private to the teachers; of the other half students see some.
Every private image belongs to one teacher: that of its part, or, for 15 % of them, one of the others, so that no
teacher sees one thing only. Images that occur in a validation or test split too are left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from evaluate.datasets.loading import load_dataset
from evaluate.datasets.registry import find_dataset, read_registry

DATASETS = ("medical_mnist_64", "breastmnist", "pneumoniamnist")

PART_OF_LABEL = {
    "AbdomenCT": "ct",
    "ChestCT": "ct",
    "HeadCT": "ct",
    "CXR": "xray",
    "Hand": "xray",
    "BreastMRI": "mri",
}
"""Parts of Medical MNIST; each of the two others is a part of its own."""

PART_OF_DATASET = {"breastmnist": "breast_ultrasound", "pneumoniamnist": "child_xray"}

REAL_PARTS = ("ct", "xray", "mri", "breast_ultrasound", "child_xray")

OTHERS = 0.15
"""Share of a part's private images that other teachers get."""

MOST_OF_LABEL = {"medical_mnist_64": 150, "breastmnist": 400, "pneumoniamnist": 300}
"""Images of a class that students see at most, so that no dataset outweighs the others."""

PHRASES = {
    ("medical_mnist_64", "AbdomenCT"): ("", "CT of the abdomen.", "Abdomen, computed tomography."),
    ("medical_mnist_64", "BreastMRI"): ("", "MRI of the breast.", "Breast, magnetic resonance imaging."),
    ("medical_mnist_64", "ChestCT"): ("", "CT of the chest.", "Chest, computed tomography."),
    ("medical_mnist_64", "CXR"): ("", "X-ray of the chest.", "Chest, plain radiograph."),
    ("medical_mnist_64", "Hand"): ("", "Hand X-ray.", "Hand, plain radiograph."),
    ("medical_mnist_64", "HeadCT"): ("", "CT of the head.", "Head, computed tomography."),
    ("breastmnist", "0"): (
        "Breast sonogram with a malignant tumor.",
        "Malignant tumor of the breast, ultrasound.",
        "Ultrasound of the breast: malignant lesion.",
    ),
    ("breastmnist", "1"): (
        "Breast sonogram, normal tissue or benign tumor.",
        "Benign tumor or normal tissue of the breast, ultrasound.",
        "Ultrasound of the breast: nothing malignant, normal or benign.",
    ),
    ("pneumoniamnist", "0"): (
        "Chest radiograph of a child with normal lungs.",
        "Normal lungs, pediatric chest X-ray.",
        "X-ray of a child's chest: the lungs are normal.",
    ),
    ("pneumoniamnist", "1"): (
        "Chest radiograph of a child with pneumonia.",
        "Pneumonia, pediatric chest X-ray.",
        "X-ray of a child's chest: pneumonia.",
    ),
}
"""Captions that say the class in words near to the registry's prompts; none is such a prompt.

An empty one stands for the caption that the image came with. Several are needed: where all captions of a modality are
one, its teacher's text features do not vary, and there is nothing to standardise them by (recipe ``improved``).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RealPair:
    """One training image with what its caption says."""

    key: str
    image: bytes
    digest: str
    caption: str
    label: str
    dataset: str

    @property
    def part(self) -> str:
        """The part of the specialist to which the image belongs."""
        return PART_OF_DATASET.get(self.dataset) or PART_OF_LABEL[self.label]

    def draw(self, purpose: str) -> float:
        """Return a number from 0 to 1 that depends on the image's bytes and the purpose alone."""
        said = hashlib.sha256(f"{purpose}:{self.digest}".encode()).digest()
        return int.from_bytes(said[:8], "big") / 2**64


def read_pairs(data: Path, dataset: str) -> tuple[list[RealPair], int]:
    """Return the pairs of a dataset's train split, and how many were left out because they are not in train alone."""
    entry = find_dataset(dataset, read_registry())
    loaded = load_dataset(entry, data)
    train = loaded.splits["train"]
    elsewhere = {digest for name in ("val", "test") for digest in loaded.splits[name].image_digests or []}
    pairs, left_out = [], 0
    for item, name in enumerate(train.ids):
        label = list(entry.classes)[int(train.targets[item])]
        digest = train.image_digests[item]
        if digest in elsewhere:
            left_out += 1
            continue
        phrases = PHRASES[dataset, label]
        caption = phrases[int(digest[-4:], 16) % len(phrases)] or train.captions[item]
        pairs.append(
            RealPair(
                key=f"{dataset}-{name.replace('/', '-').replace('.', '-')}",
                image=train.image_bytes(item),
                digest=digest,
                caption=caption,
                label=label,
                dataset=dataset,
            )
        )
    return pairs, left_out


def owner(pair: RealPair, draw: int) -> str:
    """Return which teacher's a private pair is in a draw."""
    if pair.draw(f"{draw} other") >= OTHERS:
        return pair.part
    others = [part for part in REAL_PARTS if part != pair.part]
    return others[int(pair.draw(f"{draw} which") * len(others))]


def share_out(pairs: list[RealPair], draw: int) -> dict[str, list[RealPair]]:
    """Return the pairs of each teacher by its part, and those of the students under ``distill``, in a draw."""
    shares = defaultdict(list)
    seen: Counter[tuple[str, str]] = Counter()
    for pair in sorted(pairs, key=lambda pair: pair.digest):
        if pair.draw(f"{draw} private") < 0.5:
            shares[owner(pair, draw)].append(pair)
        elif seen[pair.dataset, pair.label] < MOST_OF_LABEL[pair.dataset]:
            seen[pair.dataset, pair.label] += 1
            shares["distill"].append(pair)
    return dict(shares)


def write_corpora(data: Path, out: Path, draw: int) -> dict[str, dict[str, int]]:
    """Write the corpora of a draw below a folder: tars of Medical MNIST, Parquet of the others.

    Returns:
        The number of pairs of each dataset in each share.
    """
    counts: dict[str, dict[str, int]] = {"left out": {}}
    shares = defaultdict(list)
    for dataset in DATASETS:
        pairs, left_out = read_pairs(data, dataset)
        counts["left out"][dataset] = left_out
        for name, share in share_out(pairs, draw).items():
            shares[name] += share
    for name, share in shares.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        tiles = [pair for pair in share if pair.dataset == "medical_mnist_64"]
        _write_tar(folder / "medical_mnist.tar", tiles)
        _write_parquet(folder / "medmnist.parquet", [pair for pair in share if pair.dataset != "medical_mnist_64"])
        counts[name] = dict(Counter(pair.dataset for pair in share))
    return counts


def _record(pair: RealPair) -> dict[str, str]:
    return {"modality": pair.part, "source": pair.dataset, "label": pair.label, "split": "train"}


def _write_tar(path: Path, pairs: list[RealPair]) -> None:
    with tarfile.open(path, "w") as tar:
        for pair in pairs:
            for suffix, content in _members(pair):
                member = tarfile.TarInfo(f"{pair.key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _members(pair: RealPair) -> Iterator[tuple[str, bytes]]:
    yield "jpg", pair.image
    yield "txt", pair.caption.encode()
    yield "json", json.dumps(_record(pair)).encode()


def _write_parquet(path: Path, pairs: list[RealPair]) -> None:
    rows = [{"key": pair.key, "image": _png(pair.image), "caption": pair.caption, **_record(pair)} for pair in pairs]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=64)


def _png(image: bytes) -> bytes:
    """Return the pixels of a MedMNIST image, which the registry gives as PNM, as PNG."""
    png = io.BytesIO()
    Image.open(io.BytesIO(image)).save(png, "PNG")
    return png.getvalue()
