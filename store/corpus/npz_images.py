"""Images in the arrays of an ``.npz``, as MedMNIST has them, read a block at a time; nothing is ever unpickled."""

from __future__ import annotations

import threading
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from store.errors import CorpusError

BLOCK_BYTES = 16 * 2**20
"""Bytes of images read at a time: threads that read neighbouring rows share one or two blocks."""

DAMAGED = (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""Exceptions of zipfile and numpy where a file is damaged, encrypted, pickled or has no such array."""


class NpzImages:
    """An array of images, (N, H, W), (N, H, W, 1) or (N, H, W, 3) of uint8.

    A compressed array has to be decompressed from its beginning; reading forwards goes on where the last read ended,
    going back starts again. Safe for use from several threads.

    Args:
        file: the npz.
        uri: its name, for messages.
        name: the array's.

    Raises:
        CorpusError: it is not such an array.
    """

    def __init__(self, file: BinaryIO, uri: str, name: str) -> None:
        self._lock, self._where = threading.Lock(), f"{uri}: {name}"
        try:
            self._array = zipfile.ZipFile(file).open(f"{name}.npy")  # noqa: SIM115 - open as long as this lives
            version = np.lib.format.read_magic(self._array)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, by_columns, dtype = header(self._array)
        except DAMAGED as error:
            raise CorpusError(f"{self._where}: no readable array: {error}") from error
        images = len(self.shape) in {3, 4} and self.shape[3:] in {(), (1,), (3,)} and 0 not in self.shape[1:]
        if dtype != np.uint8 or by_columns or not images:
            raise CorpusError(
                f"{self._where}: has shape {self.shape} of {dtype}; expected (N, H, W) or (N, H, W, 3) of uint8"
            )
        self._start = self._array.tell()
        self._nbytes = int(np.prod(self.shape[1:], dtype=np.int64))
        self._block_rows = max(1, BLOCK_BYTES // self._nbytes)

    def place(self, row: int) -> tuple[int, int]:
        """Return the block of a row, and its position there."""
        if row >= self.shape[0]:
            raise CorpusError(f"{self._where}: has {self.shape[0]} images, not {row + 1}; was the file replaced?")
        return divmod(row, self._block_rows)

    def block(self, number: int) -> list[bytes]:
        """Return the images of a block as PGM or PPM files: their pixels as they are, behind three lines."""
        first = number * self._block_rows
        rows = min(self._block_rows, self.shape[0] - first)
        try:
            with self._lock:
                self._array.seek(self._start + first * self._nbytes)
                pixels = self._array.read(rows * self._nbytes)
        except DAMAGED as error:
            raise CorpusError(f"{self._where}: cannot be read: {error}", hint="fetch the file again") from error
        if len(pixels) != rows * self._nbytes:
            raise CorpusError(f"{self._where}: is cut short within images {first} to {first + rows - 1}")
        head = f"P{6 if self.shape[3:] == (3,) else 5}\n{self.shape[2]} {self.shape[1]}\n255\n".encode()
        return [head + pixels[at : at + self._nbytes] for at in range(0, len(pixels), self._nbytes)]
