"""Turns rows into pixels on threads: decodes each distinct image once and fits it once per geometry."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from extract.teacher_files.geometry import Geometry, fit_all
from store.corpus.read_ahead import ReadAhead
from store.errors import PairDecodeError
from store.faults import misbehave
from store.images.decode import open_image
from store.images.depth import Window

from .stages import Clock


class ImageNotes(NamedTuple):
    """Notes about an image: why it cannot be used, or what was done to its pixels of more than 8 bits."""

    bad: str | None = None
    changed: str | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class DistinctImages:
    """A range's K distinct images: an image with several captions is decoded and encoded once.

    Attributes:
        firsts_K: (K,) position of each image's first row.
        of_row_N: (N,) number of each row's image.
    """

    firsts_K: npt.NDArray[np.int64]
    of_row_N: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pairs: pa.Table) -> DistinctImages:
        """Tell images apart by digest; a row without a digest counts as a distinct image."""
        digests = [digest or row for row, digest in enumerate(pairs["image_sha256"].to_pylist())]
        place = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
        of_row_N = np.array([place[digest] for digest in digests], np.int64)
        return cls(firsts_K=np.unique(of_row_N, return_index=True)[1].astype(np.int64), of_row_N=of_row_N)


@dataclass(kw_only=True, slots=True)
class Decoder:
    """Decodes and fits single images.

    Attributes:
        batch_size: images of a batch.
        threads: threads that read and decode.
        max_pixels: largest width times height that is decoded.
        window: the values that become black and white, for pixels of more than 8 bits.
    """

    images: ReadAhead
    batch_size: int
    threads: int
    max_pixels: int
    window: Window | None = None

    def decode(
        self, key: str, read: Callable[[], bytes], places: Mapping[Geometry, Tensor], clock: Clock
    ) -> ImageNotes:
        """Write one image in every geometry, (S, S, 3) uint8, to its places; zeros if it is bad.

        Args:
            key: the pair's.
            read: returns the image file's bytes.

        Raises:
            CorpusError: the corpus is not where the store says it is, or not what was indexed.
        """
        misbehave(key)
        began = time.perf_counter()
        try:
            data = read()
            began = _lap(clock, "read", began)
            opened = open_image(data, max_pixels=self.max_pixels, window=self.window)
            began = _lap(clock, "decode", began)
            fitted = fit_all(opened.image, places, max_pixels=self.max_pixels)
        except PairDecodeError as error:
            for place in places.values():
                place.zero_()
            return ImageNotes(bad=str(error))
        for geometry, place in places.items():
            np.copyto(place.numpy(), fitted[geometry])
        _lap(clock, "fit", began)
        return ImageNotes(changed=opened.changed)


def _lap(clock: Clock, stage: str, began: float) -> float:
    now = time.perf_counter()
    clock.add(stage, now - began)
    return now
