"""Turns pairs into batches of pixels: decodes each image once, on threads, and fits it once per geometry."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extract.teacher_files.geometry import Geometry, fit_all
from store.corpus.image_source import ImageSource
from store.errors import PairDecodeError
from store.faults import misbehave
from store.images.decode import open_image
from store.images.depth import Window

from .stages import Clock

BATCHES_AHEAD = 2
"""Batches that are decoded while the teachers work: enough to hide reading, few enough to bound memory."""

Pixels = dict[Geometry, npt.NDArray[np.uint8]]

Made = tuple[Pixels, str | None]
"""An image in every geometry, and what was done to its pixels of more than 8 bits."""


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
    """Decodes images ahead of the teachers.

    Attributes:
        max_pixels: largest width times height that is decoded.
        window: the values that become black and white, for pixels of more than 8 bits.
    """

    images: ImageSource
    batch_size: int
    threads: int
    max_pixels: int
    window: Window | None = None

    def batches(
        self,
        pairs: pa.Table,
        geometries: set[Geometry],
        *,
        leave_out: Collection[int],
        bad: dict[int, str],
        changed: dict[int, str],
        clock: Clock,
    ) -> Iterator[tuple[int, Pixels]]:
        """Yield the position of each batch's first image and the batch's fitted pixels, in order.

        Args:
            leave_out: positions whose images are not read; their pixels are black.
            bad: receives, by position, why an image cannot be used; its pixels are black.
            changed: receives, by position, what was done to pixels of more than 8 bits.
        """
        rows = pairs.select(["key", "uri", "member", "image_sha256"]).to_pylist()

        def pixels(position: int) -> Made | str | None:
            return None if position in leave_out else self._pixels(rows[position], geometries, clock)

        firsts = range(0, len(rows), self.batch_size)
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: dict[int, list[Future[Made | str | None]]] = {}
            for number, first in enumerate(firsts):
                for ahead in firsts[number : number + 1 + BATCHES_AHEAD]:
                    if ahead not in waiting:
                        positions = range(ahead, min(ahead + self.batch_size, len(rows)))
                        waiting[ahead] = [pool.submit(pixels, position) for position in positions]
                decoded = []
                for future in waiting.pop(first):
                    with clock("wait_for_images"):
                        decoded.append(future.result())
                bad.update({first + i: item for i, item in enumerate(decoded) if isinstance(item, str)})
                made = {first + i: item for i, item in enumerate(decoded) if isinstance(item, tuple)}
                changed.update({position: done for position, (_, done) in made.items() if done is not None})
                yield first, {geometry: _stack(decoded, geometry) for geometry in geometries}

    def _pixels(self, row: dict[str, Any], geometries: set[Geometry], clock: Clock) -> Made | str:
        """Return one image in every geometry, or the reason why it cannot be used."""
        misbehave(row["key"])
        began = time.perf_counter()
        try:
            data = self.images.fetch(row["uri"], row["member"], sha256=row["image_sha256"])
            began = clock.add("read", began)
            opened = open_image(data, max_pixels=self.max_pixels, window=self.window)
            began = clock.add("decode", began)
            fitted = fit_all(opened.image, geometries, max_pixels=self.max_pixels)
        except PairDecodeError as error:
            return str(error)
        clock.add("fit", began)
        return fitted, opened.changed


def _stack(decoded: list[Any], geometry: Geometry) -> npt.NDArray[np.uint8]:
    black = np.zeros((geometry.size_px, geometry.size_px, 3), np.uint8)
    return np.stack([item[0][geometry] if isinstance(item, tuple) else black for item in decoded])
