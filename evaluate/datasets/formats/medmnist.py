"""MedMNIST's npz files: arrays of images by split, read image by image."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from store.errors import EvaluationError

from .record import Record


class NpzImages:
    """An array of images in an npz that is read image by image.

    Reading in order decompresses the array once; going back starts again at its beginning. Thread-safe.

    Args:
        name: name of the array, (N, H, W) or (N, H, W, 3) uint8.

    Raises:
        EvaluationError: it is not such an array.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._lock = threading.Lock()
        self._file = zipfile.ZipFile(path).open(f"{name}.npy")  # noqa: SIM115 - images are read as long as it lives
        version = np.lib.format.read_magic(self._file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, by_columns, dtype = header(self._file)
        if dtype != np.uint8 or by_columns or len(self.shape) not in {3, 4} or self.shape[3:] not in {(), (3,), (1,)}:
            raise EvaluationError(
                f"{path}: {name} has shape {self.shape} of {dtype}; expected (N, H, W) or (N, H, W, 3) of uint8"
            )
        self._start = self._file.tell()
        self._nbytes = int(np.prod(self.shape[1:]))

    def read(self, row: int) -> bytes:
        """Return one image as a PGM or PPM file: its pixels as they are, behind a header of three lines."""
        with self._lock:
            self._file.seek(self._start + row * self._nbytes)
            pixels = self._file.read(self._nbytes)
        height, width = self.shape[1:3]
        return f"P{6 if self.shape[3:] == (3,) else 5}\n{width} {height}\n255\n".encode() + pixels


@dataclass(frozen=True, slots=True)
class ArrayImage:
    """One image of an array."""

    images: NpzImages
    name: str
    row: int

    @property
    def place(self) -> str:
        """Return its location."""
        return f"{self.name} {self.row}"

    def read(self) -> bytes:
        """Return it as a file."""
        return self.images.read(self.row)


def read_medmnist(path: Path, file: str) -> Iterator[Record]:
    """Yield the items of an npz: ``label`` is a text of digits, or a list of them where an image has several.

    Raises:
        EvaluationError: it is no MedMNIST file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = {name: arrays[f"{name}_labels"] for name in ("train", "val", "test") if f"{name}_labels" in arrays}
        if not labels:
            raise EvaluationError(f"{path}: has no train_labels, val_labels or test_labels; is it a MedMNIST file?")
        for split, labels_NL in labels.items():
            yield from _split(NpzImages(path, f"{split}_images"), split, labels_NL, file)
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise EvaluationError(f"{path}: not a readable MedMNIST npz: {error}", hint="fetch the file again") from error


def _split(images: NpzImages, split: str, labels_NL: npt.NDArray[np.integer], file: str) -> Iterator[Record]:
    if len(labels_NL) != images.shape[0]:
        raise EvaluationError(f"{file}: {split} has {images.shape[0]} images and {len(labels_NL)} labels")
    for row, label_L in enumerate(labels_NL.reshape(len(labels_NL), -1)):
        label = str(label_L[0]) if len(label_L) == 1 else [str(index) for index in np.flatnonzero(label_L)]
        image = ArrayImage(images, f"{file} {split}_images", row)
        yield Record(
            id=f"{split}-{row:06d}",
            file=file,
            values={"label": label, "split": split},
            image=image,
            sha256=hashlib.sha256(image.read()).hexdigest(),
        )
