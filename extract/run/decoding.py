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
from store.images.decode import decode_image

from .stages import Clock

BATCHES_AHEAD = 2
"""Batches that are decoded while the teachers work: enough to hide reading, few enough to bound memory."""

Pixels = dict[Geometry, npt.NDArray[np.uint8]]


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
    """

    images: ImageSource
    batch_size: int
    threads: int
    max_pixels: int

    def batches(
        self,
        pairs: pa.Table,
        geometries: set[Geometry],
        *,
        leave_out: Collection[int],
        bad: dict[int, str],
        clock: Clock,
    ) -> Iterator[tuple[int, Pixels]]:
        """Yield the position of each batch's first image and the batch's fitted pixels, in order.

        Args:
            leave_out: positions whose images are not read; their pixels are black.
            bad: receives, by position, why an image cannot be used; its pixels are black.
        """
        rows = pairs.select(["key", "uri", "member", "image_sha256"]).to_pylist()

        def pixels(position: int) -> Pixels | str | None:
            return None if position in leave_out else self._pixels(rows[position], geometries, clock)

        firsts = range(0, len(rows), self.batch_size)
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: dict[int, list[Future[Pixels | str | None]]] = {}
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
                yield first, {geometry: _stack(decoded, geometry) for geometry in geometries}

    def _pixels(self, row: dict[str, Any], geometries: set[Geometry], clock: Clock) -> Pixels | str:
        """Return one image in every geometry, or the reason why it cannot be used."""
        misbehave(row["key"])
        began = time.perf_counter()
        try:
            data = self.images.fetch(row["uri"], row["member"], sha256=row["image_sha256"])
            began = clock.add("read", began)
            image = decode_image(data, max_pixels=self.max_pixels)
            began = clock.add("decode", began)
        except PairDecodeError as error:
            return str(error)
        fitted = fit_all(image, geometries)
        clock.add("fit", began)
        return fitted


def _stack(decoded: list[Any], geometry: Geometry) -> npt.NDArray[np.uint8]:
    black = np.zeros((geometry.size_px, geometry.size_px, 3), np.uint8)
    return np.stack([item[geometry] if isinstance(item, dict) else black for item in decoded])
