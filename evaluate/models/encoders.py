"""Encoders of images and texts: a model that runs here, or the stored features of a teacher.

Axes: N images or texts, E embedding width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.datasets.formats.record import Image
from evaluate.results.record import ModelFacts
from extract.teacher_files.geometry import fit
from extract.teachers.base import FrozenTeacher
from store.console import progress
from store.errors import EvaluationError, PairDecodeError
from store.format.records import Side, Status
from store.images.decode import open_image
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore

Embeddings = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

NOT_STORED = "not in the store"
"""Reason for an image without embedding if features are read and not computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """Distinct images, with the SHA-256 of the bytes of each."""

    images: Sequence[Image]
    digests: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """Embeddings of images.

    Attributes:
        rows: (N, E) float32, unit norm; NaN for images without an embedding.
        without: reason, by position.
    """

    rows: Embeddings
    without: dict[int, str] = field(default_factory=dict)


class Encoder(Protocol):
    """A model that can be evaluated.

    Attributes:
        logit_scale: multiplier of the cosines, exponentiated.
    """

    facts: ModelFacts
    logit_scale: float

    def embed_images(self, images: ImageSet) -> Embedded:
        """Return an embedding per image."""

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Return unit-norm embeddings, (N, E).

        Raises:
            EvaluationError: it cannot embed these texts.
        """


class ModelEncoder:
    """A model that runs here.

    Args:
        batch_size: images or texts of a forward pass.
        threads: threads that decode images.
        max_pixels: width times height that is decoded.
    """

    def __init__(
        self, model: FrozenTeacher, facts: ModelFacts, *, batch_size: int, threads: int, max_pixels: int
    ) -> None:
        self.facts, self.logit_scale = facts, model.logit_scale
        self._model, self._batch_size, self._threads, self._max_pixels = model, batch_size, threads, max_pixels

    def embed_images(self, images: ImageSet) -> Embedded:
        """Decode, fit and encode images, a batch at a time; one that cannot be decoded has no embedding."""
        rows_NE = np.full((len(images.images), self._model.embed_dim), np.nan, np.float32)
        without: dict[int, str] = {}
        label = f"{self.facts.name}: images"
        with (
            ThreadPoolExecutor(self._threads) as pool,
            progress(len(rows_NE), label=label, noun="images") as advance,
        ):
            parts = [*_parts(len(rows_NE), self._batch_size), range(0)]
            coming = self._decode(pool, images, parts[0])
            for places, next_places in pairwise(parts):
                # The next ones are decoded while these are encoded.
                fitted, coming = list(coming), self._decode(pool, images, next_places)
                good = [place for place, pixels in zip(places, fitted, strict=True) if not isinstance(pixels, str)]
                without |= {p: why for p, why in zip(places, fitted, strict=True) if isinstance(why, str)}
                if good:
                    pixels_BHWC = np.stack([pixels for pixels in fitted if not isinstance(pixels, str)])
                    rows_NE[good] = self._model.encode_image(pixels_BHWC)
                advance(len(places))
        return Embedded(rows=rows_NE, without=without)

    def _decode(self, pool: ThreadPoolExecutor, images: ImageSet, places: range) -> Iterator[Pixels | str]:
        return pool.map(self._pixels, [images.images[place] for place in places])

    def _pixels(self, image: Image) -> Pixels | str:
        try:
            opened = open_image(image.read(), max_pixels=self._max_pixels, window=self._model.window)
            return fit(opened.image, self._model.geometry, max_pixels=self._max_pixels)
        except PairDecodeError as error:
            return short_reason(error)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Encode each distinct text once."""
        distinct = list(dict.fromkeys(texts))
        places = {text: place for place, text in enumerate(distinct)}
        parts = [
            self._model.encode_text([distinct[i] for i in part]) for part in _parts(len(distinct), self._batch_size)
        ]
        if not parts:
            return np.empty((0, self._model.embed_dim), np.float32)
        return np.asarray(np.concatenate(parts)[[places[text] for text in texts]], np.float32)


def short_reason(error: PairDecodeError) -> str:
    """Return an error's message without what differs between images: numbers, and all after a colon or bracket."""
    return re.sub(r"\d+", "N", re.split(r" \(|:", str(error))[0])


def _parts(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


class StoreEncoder:
    """The features of a teacher in a store: of images with the same bytes, and of captions with the same words."""

    def __init__(self, store: FeatureStore, teacher: str, facts: ModelFacts) -> None:
        self.facts, self._store, self._teacher = facts, store, teacher
        self._chunks = ChunkReader(store)
        self.logit_scale = float(store.spec(teacher).notes.get("logit_scale") or 1.0)

    def embed_images(self, images: ImageSet) -> Embedded:
        """Return the features of the rows that hold these images."""
        row_N = self._rows("image_sha256", list(images.digests))
        rows_NE = self._read(row_N, side="image")
        return Embedded(rows=rows_NE, without=dict.fromkeys(np.flatnonzero(row_N < 0).tolist(), NOT_STORED))

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Return the features of the rows that have these captions."""
        row_N = self._rows("caption", list(texts))
        missing = np.flatnonzero(row_N < 0)
        if len(missing):
            raise EvaluationError(
                f"{self.facts.address}: has no feature of {len(missing)} of {len(texts)} texts, such as "
                f"{texts[int(missing[0])][:60]!r}: a store has features of its own captions only",
                hint="give the model itself (teacher:NAME) where prompts or questions have to be encoded",
            )
        return self._read(row_N, side="text")

    def _rows(self, column: str, wanted: list[str]) -> npt.NDArray[np.int64]:
        """Return the first row with a feature that has each value, -1 where there is none."""
        distinct = pa.array(list(dict.fromkeys(wanted)), pa.string())
        table = self._store.pairs.read(0, self._store.info.rows, [column])
        found_R = pc.fill_null(pc.index_in(table[column].cast(pa.string()), value_set=distinct), -1).to_numpy()
        status_R = self._store.status(self._teacher)
        rows = np.flatnonzero((found_R >= 0) & (status_R == Status.OK))
        first_D = np.full(len(distinct), -1, np.int64)
        # In reverse order, so that the first row of each value remains.
        first_D[found_R[rows[::-1]]] = rows[::-1]
        place = {value: number for number, value in enumerate(distinct.to_pylist())}
        return first_D[[place[value] for value in wanted]]

    def _read(self, row_N: npt.NDArray[np.int64], *, side: Side) -> Embeddings:
        rows_NE = np.full((len(row_N), self._store.spec(self._teacher).embed_dim), np.nan, np.float32)
        there = np.flatnonzero(row_N >= 0)
        rows_NE[there] = self._chunks.read(row_N[there], teacher=self._teacher, side=side)
        return rows_NE
