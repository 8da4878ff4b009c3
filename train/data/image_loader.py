"""Turns rows into pixels: fetches, decodes within bounds, crops.

It uses threads, because Pillow releases the GIL, or separate processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from store.corpus.image_source import ImageSource
from store.errors import CorpusError, IncompleteStoreError, PairDecodeError
from store.images.decode import decode_image
from store.images.depth import Window
from store.read.pixel_cache import HINT, PixelCache

from .image_workers import ImageWorkers
from .random_bits import Purpose, below, between, bits

log = logging.getLogger(__name__)

MIN_READABLE = 0.5
"""Smallest readable share of a batch: below it, the corpus is probably the wrong one."""

ASPECT_RANGE = (3 / 4, 4 / 3)
"""Width over height of a random resized crop; torchvision's default."""

TRIES = 10
"""Number of boxes that are drawn before the middle is taken; torchvision's number."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of an image, in pixels; right and bottom are outside of it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class View:
    """How a training image is cropped.

    Attributes:
        size_px: side of the square result.
        crop_scale: smallest share of the area that a crop keeps; 1 takes the whole image, its middle square if it is
            not square.
        seed: decides the crops, together with epoch and row.
        max_pixels: largest width times height that is decoded.
        window: the values that become black and white, for pixels of more than 8 bits.
    """

    size_px: int
    crop_scale: float
    seed: int
    max_pixels: int
    window: Window | None = None


class RowImages(Protocol):
    """Images by row: of the corpus, or of the store itself (`PixelCache`).

    It is used from several threads, and pickled to other processes.
    """

    def fetch(self, row: int) -> bytes:
        """Return the image file of a row.

        Raises:
            PairDecodeError: the row has no usable image.
        """


class CorpusImages:
    """Images of the corpus.

    Args:
        table: the pair table's ``uri``, ``member`` and ``image_sha256``, from row 0 on.
    """

    def __init__(self, source: ImageSource, table: pa.Table) -> None:
        # Arrow arrays: Python objects of 2.9 M rows would take gigabytes in each process.
        self._source, self._uris, self._members = source, _whole(table["uri"]), _whole(table["member"])
        self._known = _whole(pc.is_valid(table["image_sha256"]))

    def fetch(self, row: int) -> bytes:
        """Return the image file of a row."""
        known = self._known[row].as_py()
        return self._source.fetch(self._uris[row].as_py(), self._members[row].as_py(), known=known)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, in which access to a row needs no search."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def require_pixels(cache: PixelCache, rows: npt.NDArray[np.int64]) -> None:
    """Check that a store has its own image of each row.

    Raises:
        IncompleteStoreError: it lacks some.
    """
    missing = int((~cache.committed_rows()[rows]).sum())
    if missing:
        raise IncompleteStoreError(
            f"{cache.location}: {missing} of {len(rows)} rows to train on have no image in the store yet", hint=HINT
        )


class ImageLoader:
    """Turns rows of a pair table into batches of pixels.

    Args:
        threads: number of decoding threads.
        workers: number of processes that decode instead of the threads.
        batch_rows: largest number of rows of a batch; needed with workers.
        block_rows: neighbouring rows that one worker reads.
    """

    def __init__(
        self,
        source: RowImages,
        *,
        view: View,
        threads: int,
        workers: int = 0,
        batch_rows: int = 0,
        block_rows: int = 1,
    ) -> None:
        self._source, self._view = source, view
        self._pool = ThreadPoolExecutor(threads)
        self._workers = None
        if workers:
            self._workers = ImageWorkers(
                source, view=view, number=workers, batch_rows=batch_rows, block_rows=block_rows
            )
        self._unreadable: set[int] = set()

    def load(self, rows_B: npt.NDArray[np.int64], *, epoch: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the images of some rows, (B, H, W, 3) uint8, and (B,) whether each could be read.

        A row with a damaged image is black; it is reported once.

        Raises:
            CorpusError: the corpus is missing, or most of a batch cannot be read.
        """
        pixels_BHWC, reasons = self._workers.load(rows_B, epoch=epoch) if self._workers else self._here(rows_B, epoch)
        for row, reason in reasons.items():
            if row not in self._unreadable:
                self._unreadable.add(row)
                log.warning("row %d is left out: %s", row, reason)
        readable_B = np.array([row not in reasons for row in rows_B.tolist()])
        if readable_B.mean() < MIN_READABLE:
            raise CorpusError(
                f"{(~readable_B).sum()} of {len(rows_B)} images of a batch cannot be read",
                hint="the warnings above name them; is this the corpus that was indexed?",
            )
        pixels_BHWC[~readable_B] = 0
        return pixels_BHWC, readable_B

    def _here(self, rows_B: npt.NDArray[np.int64], epoch: int) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
        pixels_BHWC = np.empty((len(rows_B), self._view.size_px, self._view.size_px, 3), np.uint8)
        reasons: dict[int, str] = {}

        def one(place: int, row: int) -> None:
            try:
                pixels_BHWC[place] = cut(self._source.fetch(row), self._view, row=row, epoch=epoch)
            except PairDecodeError as error:
                reasons[row] = str(error)

        list(self._pool.map(one, range(len(rows_B)), rows_B.tolist()))
        return pixels_BHWC, reasons

    def close(self) -> None:
        """Stop threads and workers."""
        self._pool.shutdown()
        if self._workers:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cut(data: bytes, view: View, *, row: int, epoch: int) -> npt.NDArray[np.uint8]:
    """Return the cropped pixels of an image file, (H, W, 3) uint8.

    Raises:
        PairDecodeError: it cannot be decoded.
    """
    return crop(decode_image(data, max_pixels=view.max_pixels, window=view.window), view, row=row, epoch=epoch)


def crop(image: Image.Image, view: View, *, row: int, epoch: int) -> npt.NDArray[np.uint8]:
    """Return a random resized crop, (H, W, 3) uint8; the same for the same seed, epoch and row.

    With the same draw it has the bytes of torchvision's RandomResizedCrop, which cuts before it resizes: the pixels
    outside of the box have no part in the resize.
    """
    if view.crop_scale < 1:
        words = bits(2 * TRIES + 2, seed=view.seed, epoch=epoch, purpose=Purpose.CROPS, row=row)
        box = random_box(*image.size, view.crop_scale, words.tolist())
    else:
        box = _middle(image.width, image.height, min(image.size), min(image.size))
    if box != (0, 0, *image.size):
        image = image.crop(box)
    return np.asarray(image.resize((view.size_px, view.size_px), Image.Resampling.BICUBIC))


def random_box(width: int, height: int, crop_scale: float, words: Iterable[int]) -> Box:
    """Return the box that torchvision's RandomResizedCrop cuts if it draws from the same words, one per number.

    A try draws the share of the area uniformly from [crop_scale, 1] and the logarithm of the aspect uniformly; the one
    that fits draws top and left. If none fits, the box is the largest in the middle whose aspect is within bounds.
    """
    drawn, (narrowest, widest) = iter(words), ASPECT_RANGE
    for _ in range(TRIES):
        area = width * height * between(crop_scale, 1, next(drawn))
        aspect = math.exp(between(math.log(narrowest), math.log(widest), next(drawn)))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            top, left = below(height - down + 1, next(drawn)), below(width - across + 1, next(drawn))
            return left, top, left + across, top + down
    return _middle(width, height, min(width, round(height * widest)), min(height, round(width / narrowest)))


def _middle(width: int, height: int, across: int, down: int) -> Box:
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
