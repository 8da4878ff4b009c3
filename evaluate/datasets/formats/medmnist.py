"""MedMNIST's npz files: arrays of images by split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from store.corpus.corpus_files import as_corpus_file
from store.corpus.image_source import ImageSource
from store.errors import EvaluationError
from store.layouts.records.npz_records import read_npz

from .record import Record, StoredImage


def read_medmnist(root: Path, path: Path) -> Iterator[Record]:
    """Yield the items of an npz: ``label`` is a text of digits, or a list of them where an image has several.

    Raises:
        EvaluationError, CorpusError: it is no MedMNIST file.
    """
    source, file = ImageSource(root), path.relative_to(root).as_posix()
    rows: Counter[str] = Counter()
    for values in read_npz(as_corpus_file(path)):
        split, labels, image = values["split"], values.get("labels"), values["image"]
        if split is None or labels is None:
            raise EvaluationError(f"{path}: has no {split or 'train'}_labels; is it a MedMNIST file?")
        many = isinstance(labels, list)
        yield Record(
            id=f"{split}-{rows[split]:06d}",
            file=file,
            values={"label": list(map(str, np.flatnonzero(labels))) if many else str(labels), "split": split},
            image=StoredImage(source, file, {"column": image.column, "row": image.row}),
            sha256=hashlib.sha256(image.data).hexdigest(),
        )
        rows[split] += 1
