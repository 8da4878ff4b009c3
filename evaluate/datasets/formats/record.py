"""One item as readers yield it, and the location of its image or features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from store.corpus.image_source import ImageSource
from store.errors import EvaluationError


class Image(Protocol):
    """An image that can be read."""

    @property
    def place(self) -> str:
        """Return its location; the same text for the same image."""

    def read(self) -> bytes:
        """Return its file's bytes, for ``store.images.decode.decode_image``."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image file, or a part of a tar or of a Parquet file.

    Attributes:
        uri: relative to the source's root.
        member: position in that file, see ``ImageSource.fetch``; None if the file is the image.
    """

    source: ImageSource
    uri: str
    member: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """Return its location."""
        return self.uri if self.member is None else f"{self.uri} {sorted(self.member.items())}"

    def read(self) -> bytes:
        """Return the file's bytes."""
        return self.source.fetch(self.uri, self.member)


@dataclass(frozen=True, slots=True)
class BagFile:
    """Features of the tiles of one slide, in a file or in the folder of a Zarr store."""

    path: Path
    array: str

    @property
    def place(self) -> str:
        """Return their location."""
        return f"{self.path} {self.array}"

    def read(self) -> npt.NDArray[np.float32]:
        """Return the features, (tiles, width) float32.

        Raises:
            EvaluationError: there is no such array, or it is not of two dimensions.
        """
        try:
            found = np.asarray(_array(self.path, self.array), dtype=np.float32)
        except (KeyError, ValueError, OSError, TypeError) as error:
            raise EvaluationError(f"{self.path}: cannot read the array {self.array!r}: {error}") from error
        if found.ndim == 3 and found.shape[0] == 1:  # some extractors keep the axis of a batch
            found = found[0]
        if found.ndim != 2 or not found.size:
            raise EvaluationError(f"{self.path}: {self.array!r} has shape {found.shape}; expected (tiles, width)")
        return found

    def sha256(self) -> str:
        """Return the SHA-256 of its features and their shape."""
        features = self.read()
        return hashlib.sha256(f"{features.shape}".encode() + features.tobytes()).hexdigest()


def _array(path: Path, name: str) -> Any:
    match path.suffix:
        case ".npy":
            return np.load(path, allow_pickle=False)
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[name]
        case ".h5" | ".hdf5":
            import h5py

            with h5py.File(path, "r") as file:
                return file[name][()]
        case ".zarr":
            import zarr

            group = zarr.open_group(path, mode="r")
            return group[name][...]
    raise EvaluationError(f"{path}: expected features in .npy, .npz, .h5 or .zarr")


@dataclass(kw_only=True, slots=True)
class Record:
    """One item of a dataset, before its columns are mapped.

    Attributes:
        file: the file that it comes from, relative to the data root.
        sha256: digest of the image's bytes; None if they were not read.
        problem: why it has no image or no bag, in the same words for all such items.
    """

    id: str
    file: str
    values: Mapping[str, Any]
    image: Image | None = None
    sha256: str | None = None
    bag: BagFile | None = None
    problem: str | None = None
