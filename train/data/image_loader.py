"""Turns rows into pixels: fetches, decodes within bounds, crops.

Threads of the trainer fetch. They also decode, because Pillow releases the interpreter's lock, or processes do.

Axes: B rows of a batch, K those whose image can be read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

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

from .buffers import Buffers
from .image_workers import File, ImageWorkers, Reasons
from .random_bits import Purpose, below, between, bits

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MIN_READABLE = 0.5
"""Smallest readable share of a batch: below it, the corpus is probably the wrong one."""

PART_ROWS = 8
"""Rows that a decoder is given at a time: a few, so that no decoder has much more than another when a batch is due."""

FETCH_THREADS = 8
"""Threads that fetch for each worker: an object storage answers in tens of milliseconds."""

KEEP_BYTES = 256 * 2**20
"""Memory of a process for decoded images, so that a small corpus is decoded once and not in each epoch."""

PILLOW_PIXEL = 4
"""Bytes of an RGB pixel in Pillow's memory."""

ASPECT_RANGE = (3 / 4, 4 / 3)
"""Width over height of a random resized crop; torchvision's default."""

TRIES = 10
"""Number of boxes that are drawn before the middle is taken; torchvision's number."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of an image, in pixels; right and bottom are outside of it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class View:
    """Settings of the crop of training images.

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


Pixels: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]
"""The pixels of the rows of a batch that could be read, (K, H, W, 3), and which rows these are, (B,)."""


class RowImages(Protocol):
    """Images by row: of the corpus, or of the store itself (`PixelCache`).

    It is used from several threads.
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
        # Arrow arrays: Python objects of 2.9 M rows would take gigabytes.
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
    """Turns rows of a pair table into batches of pixels, several batches at a time.

    The rows of a batch are handed out in small parts of neighbours to whichever decoder is free, so that all decoders
    work all the time and a chunk or a file is read for its rows together. Memory holds the buffers, for each thread the
    image files of one part, and the decoded images that are kept.

    Args:
        threads: number of decoding threads.
        workers: number of processes that decode instead of the threads, which then only fetch, and keep no image.
        keep_bytes: memory of decoded images that are kept for later epochs, the first ones that come.
        batch_rows: largest number of rows of a batch.
        batches: number of batches that may be begun and not closed at a time.
        pinned: batches are copied to a card.
    """

    def __init__(
        self,
        source: RowImages,
        *,
        view: View,
        batch_rows: int,
        threads: int,
        workers: int = 0,
        keep_bytes: int = KEEP_BYTES,
        batches: int = 1,
        pinned: bool = False,
    ) -> None:
        self._source, self._view = source, view
        shape = (batch_rows, view.size_px, view.size_px, 3)
        self._buffers = Buffers(batches, shape, shared=workers > 0, pinned=pinned)
        self._workers = ImageWorkers(workers, view=view, memories=self._buffers.memories, shape=shape)
        self._threads = ThreadPoolExecutor(FETCH_THREADS * workers or threads, "images")
        self._unreadable: set[int] = set()
        self._kept: dict[int, Image.Image] = {}
        self._room = keep_bytes

    def begin(self, rows_B: npt.NDArray[np.int64], *, epoch: int) -> Loading:
        """Begin to load the images of some rows; waits for a free buffer."""
        number, order = self._buffers.take(), np.argsort(rows_B, kind="stable")
        parts = [order[begin : begin + PART_ROWS] for begin in range(0, len(order), PART_ROWS)]
        futures = [self._threads.submit(self._load, number, part, rows_B[part], epoch) for part in parts]
        return Loading(self, number, rows_B, futures)

    def _load(self, number: int, places: npt.NDArray[np.intp], rows: npt.NDArray[np.int64], epoch: int) -> Reasons:
        files: list[File] = []
        reasons: Reasons = {}
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            try:
                if self._workers:
                    files.append((place, row, self._source.fetch(row)))
                else:
                    self._buffers[number][place] = crop(self._decoded(row), self._view, row=row, epoch=epoch)
            except PairDecodeError as error:
                reasons[row] = str(error)
        return reasons | self._workers.fill(number, files, epoch=epoch) if files else reasons

    def _decoded(self, row: int) -> Image.Image:
        if row in self._kept:
            return self._kept[row]
        image = decode(self._source.fetch(row), self._view)
        size = image.width * image.height * PILLOW_PIXEL
        if size <= self._room:  # two threads may both find room for their last image: a few more bytes than asked
            self._room -= size
            self._kept[row] = image
        return image

    def found(self, number: int, rows_B: npt.NDArray[np.int64], reasons: Reasons) -> Pixels:
        """Return what `Loading.result` does of a buffer that is filled."""
        for row in reasons.keys() - self._unreadable:
            self._unreadable.add(row)
            log.warning("row %d is left out: %s", row, reasons[row])
        readable_B = np.array([row not in reasons for row in rows_B.tolist()])
        if readable_B.mean() < MIN_READABLE:
            raise CorpusError(
                f"{(~readable_B).sum()} of {len(rows_B)} images of a batch cannot be read",
                hint="the warnings above name them; is this the corpus that was indexed?",
            )
        pixels_BHWC = self._buffers[number][: len(rows_B)]
        if reasons:
            first = int(readable_B.argmin())  # what lies before it stays where it is
            pixels_BHWC[first : readable_B.sum()] = pixels_BHWC[first:][readable_B[first:]]
            pixels_BHWC = pixels_BHWC[: readable_B.sum()]
        return pixels_BHWC, readable_B

    def give(self, number: int, *, copied: torch.cuda.Event | None) -> None:
        """Take a buffer back."""
        self._buffers.give(number, copied=copied)

    def close(self) -> None:
        """Stop threads and workers."""
        self._threads.shutdown(cancel_futures=True)
        self._workers.close()
        self._buffers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Loading:
    """A batch of images that is being loaded into a buffer, which it holds until it is closed."""

    def __init__(
        self, loader: ImageLoader, number: int, rows_B: npt.NDArray[np.int64], parts: list[Future[Reasons]]
    ) -> None:
        self._loader, self._number, self._rows_B, self._parts = loader, number, rows_B, parts

    def result(self) -> Pixels:
        """Return the pixels of the rows that could be read, and which rows these are.

        The pixels are those of the buffer: they are valid until this is closed. A damaged image is reported once.

        Raises:
            CorpusError: the corpus is missing, or most of a batch cannot be read.
            MMKDError: a worker is gone.
        """
        reasons: Reasons = {}
        for part in self._parts:
            reasons |= part.result()
        return self._loader.found(self._number, self._rows_B, reasons)

    def close(self, *, copied: torch.cuda.Event | None = None) -> None:
        """Give the buffer back, when no decoder writes into it any more; ``copied`` is as in `Buffers.give`."""
        wait([part for part in self._parts if not part.cancel()])
        self._loader.give(self._number, copied=copied)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fill(pixels_BHWC: npt.NDArray[np.uint8], files: list[File], view: View, *, epoch: int) -> Reasons:
    """Write the crops of some image files to their places in a batch; return why some cannot be decoded."""
    reasons: Reasons = {}
    for place, row, data in files:
        try:
            pixels_BHWC[place] = crop(decode(data, view), view, row=row, epoch=epoch)
        except PairDecodeError as error:
            reasons[row] = str(error)
    return reasons


def decode(data: bytes, view: View) -> Image.Image:
    """Decode an image file within the bounds of a view.

    Raises:
        PairDecodeError: it cannot be decoded.
    """
    return decode_image(data, max_pixels=view.max_pixels, window=view.window)


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
