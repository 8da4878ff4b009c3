"""Reads an ``.npz`` of arrays by split (``train_images``, ``train_labels``, ...) as records with an image each."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from store.corpus.corpus_files import CorpusFile
from store.corpus.image_tables import DAMAGED, NpzImages
from store.errors import CorpusError
from store.io.object_file import open_object

LABELS_BYTES = 2**28
"""Bytes of an array at most that is not of images: it is held in memory whole."""


class PlacedImage(NamedTuple):
    """An image of an array: the array, its position there, and its bytes as a PGM or PPM file."""

    column: str
    row: int
    data: bytes


def read_npz(file: CorpusFile) -> Iterator[dict[str, Any]]:
    """Yield a record for each image of each array ``NAME_images``, in the order of the file.

    It has ``image``, ``split`` (NAME) and the values at its position in every other array ``NAME_X``, as ``X``: a
    number or text, or a list where the array has several columns. Of MedMNIST that is ``labels``.

    Raises:
        CorpusError: it is no such file, or an array is pickled or too large.
    """
    if not file.plain_name.lower().endswith(".npz"):
        raise CorpusError(f"{file.uri}: a file of arrays has to be named .npz, by which its images are found later")
    try:
        with open_object(file.folder, file.name) as content, zipfile.ZipFile(content) as arrays:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in arrays.infolist()}
            names = [name for name in sizes if name == "images" or name.endswith("_images")]
            if not names:
                raise CorpusError(f"{file.uri}: has no array NAME_images; there are {', '.join([*sizes][:12])}")
            for name in names:
                yield from _split(file, arrays, name, sizes)
    except FileNotFoundError as error:
        raise CorpusError(f"{file.uri}: no such corpus file") from error
    except DAMAGED as error:
        if isinstance(error, CorpusError):
            raise
        hint = None if "pickle" in str(error) else "fetch the file again"
        raise CorpusError(f"{file.uri}: cannot be read as an npz: {error}", hint=hint) from error


def _split(file: CorpusFile, arrays: zipfile.ZipFile, name: str, sizes: dict[str, int]) -> Iterator[dict[str, Any]]:
    prefix = name.removesuffix("images")
    others = {}
    for other, nbytes in sizes.items():
        if other == name or not other.startswith(prefix) or (not prefix and other.endswith("_images")):
            continue
        if nbytes > LABELS_BYTES:
            raise CorpusError(f"{file.uri}: {other} has {nbytes:,} bytes; expected at most {LABELS_BYTES:,}")
        with arrays.open(f"{other}.npy") as array:
            others[other.removeprefix(prefix)] = np.lib.format.read_array(array, allow_pickle=False)
    with open_object(file.folder, file.name) as content:
        images = NpzImages(content, file.uri, name)
        for other, values in others.items():
            if values.shape[:1] != images.shape[:1]:
                raise CorpusError(f"{file.uri}: {name} is {images.shape}, {prefix}{other} is {values.shape}")
        block: list[bytes] = []
        for row in range(images.shape[0]):
            number, position = images.place(row)
            block = images.block(number) if position == 0 else block
            record = {other: _plain(values[row]) for other, values in others.items()}
            yield {
                "split": prefix.removesuffix("_") or None,
                **record,
                "image": PlacedImage(name, row, block[position]),
            }


def _plain(value: Any) -> Any:
    found = value.tolist()
    return found[0] if isinstance(found, list) and len(found) == 1 else found
