"""The work of one range: decode once, fit once per geometry, run every teacher, commit. Knows nothing of Ray."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.commit import Circumstances, UnitFeatures, commit_unit
from store.errors import PairDecodeError
from store.image_source import ImageSource
from store.images import decode_image
from store.location import Location
from store.pairs import PairTable, strings
from store.records import Receipt, Status, StoreInfo

from .geometry import Geometry, fit
from .teacher import Teacher

BATCHES_AHEAD = 2
"""Batches decoded while the teachers work: enough to hide reading, little enough to bound memory."""

PACKAGES = ("torch", "open_clip_torch", "timm", "transformers", "zarr")
"""Whose versions a receipt records: the teachers' arithmetic and tokenizers are theirs."""

Pixels = dict[Geometry, npt.NDArray[np.uint8]]


@dataclass(kw_only=True, frozen=True, slots=True)
class DistinctImages:
    """The images of a range without repetition: one that has several captions is decoded and encoded once.

    Attributes:
        firsts_K: (K,) position of the first row of each.
        of_row_N: (N,) which of the K a row shows.
    """

    firsts_K: npt.NDArray[np.int64]
    of_row_N: npt.NDArray[np.int64]

    @classmethod
    def of(cls, pairs: pa.Table) -> DistinctImages:
        """Tell images apart by digest; a row without one is an image of its own."""
        digests = [digest or row for row, digest in enumerate(pairs["image_sha256"].to_pylist())]
        place = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
        of_row_N = np.array([place[digest] for digest in digests], np.int64)
        return cls(firsts_K=np.unique(of_row_N, return_index=True)[1].astype(np.int64), of_row_N=of_row_N)


@dataclass(kw_only=True, slots=True)
class Worker:
    """Runs teachers over ranges of a store.

    Attributes:
        store: where it lies.
        info: its shape.
        pairs: its pair table.
        images: where the images are.
        teachers: by id, resident.
        batch_size: rows of a forward pass; borders count from the range's first image, so that
            results do not depend on who does which range.
        decode_threads: threads that read and decode.
        max_pixels: width times height that is decoded.
        device: for the receipts.
        run_id: for the receipts.
    """

    store: Location
    info: StoreInfo
    pairs: PairTable
    images: ImageSource
    teachers: dict[str, Teacher]
    batch_size: int
    decode_threads: int
    max_pixels: int
    device: str
    run_id: str

    def run(self, range_id: int, names: Sequence[str], *, attempt: int = 1) -> list[Receipt]:
        """Extract one range with the named teachers and commit each one's unit.

        Args:
            range_id: which range.
            names: teachers that still lack it.
            attempt: counted from 1, for the receipt.
        """
        start, stop = self.info.bounds(range_id)
        pairs = self.pairs.read(start, stop)
        teachers = [self.teachers[name] for name in names]
        clock = _Clock()
        distinct = DistinctImages.of(pairs)
        bad_images: dict[int, str] = {}
        image_KD = {t.name: np.zeros((len(distinct.firsts_K), t.embed_dim), np.float32) for t in teachers}
        decoded = self._decoded(pairs.take(distinct.firsts_K), {t.geometry for t in teachers}, bad_images, clock)
        for first, pixels in decoded:
            for teacher in teachers:
                with clock("forward_image"):
                    batch_BHWC = pixels[teacher.geometry]
                    image_KD[teacher.name][first : first + len(batch_BHWC)] = teacher.encode_image(batch_BHWC)
        bad_rows = {
            row: bad_images[image] for row, image in enumerate(distinct.of_row_N.tolist()) if image in bad_images
        }
        captions = strings(pairs, "caption")
        texts = {t.name: self._encode_captions(t, captions, clock) for t in teachers}
        receipts = []
        for teacher in teachers:
            status, reasons = _status(captions, bad_rows)
            features = UnitFeatures(
                image=image_KD[teacher.name][distinct.of_row_N],
                text=texts[teacher.name][0],
                status=status,
                reasons=reasons,
                truncated=texts[teacher.name][1],
            )
            # Decoding and the teachers share a range, so each receipt of it carries the range's stages.
            receipts.append(
                commit_unit(
                    self.store,
                    info=self.info,
                    spec=teacher.spec,
                    range_id=range_id,
                    pairs=pairs,
                    features=features,
                    circumstances=self._circumstances(clock, attempt),
                )
            )
        return receipts

    def _decoded(
        self, pairs: pa.Table, geometries: set[Geometry], bad_images: dict[int, str], clock: _Clock
    ) -> Iterator[tuple[int, Pixels]]:
        """Yield batches of fitted pixels in order; a bad image leaves black pixels and, by position, its reason."""
        uris, members, digests = (pairs[name].to_pylist() for name in ("uri", "member", "image_sha256"))
        firsts = list(range(0, len(uris), self.batch_size))

        def decode(position: int) -> dict[Geometry, npt.NDArray[np.uint8]] | str:
            try:
                data = self.images.fetch(uris[position], members[position], sha256=digests[position])
                image = decode_image(data, max_pixels=self.max_pixels)
            except PairDecodeError as error:
                return str(error)
            return {geometry: fit(image, geometry) for geometry in geometries}

        with ThreadPoolExecutor(self.decode_threads) as pool:
            waiting: dict[int, list[Any]] = {}
            for number, first in enumerate(firsts):
                for ahead in firsts[number : number + 1 + BATCHES_AHEAD]:
                    if ahead not in waiting:
                        positions = range(ahead, min(ahead + self.batch_size, len(uris)))
                        waiting[ahead] = [pool.submit(decode, position) for position in positions]
                with clock("wait_for_images"):
                    decoded = [future.result() for future in waiting.pop(first)]
                bad_images.update({first + i: item for i, item in enumerate(decoded) if isinstance(item, str)})
                yield first, {geometry: _stack(decoded, geometry) for geometry in geometries}

    def _encode_captions(
        self, teacher: Teacher, captions: npt.NDArray[np.object_], clock: _Clock
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Encode each distinct caption once; give every row its own feature, and whether its caption was cut."""
        distinct = list(dict.fromkeys(caption for caption in captions if caption))
        features_BD = np.zeros((len(captions), teacher.embed_dim), np.float32)
        truncated_B = np.zeros(len(captions), np.bool_)
        if not distinct:
            return features_BD, truncated_B
        with clock("forward_text"):
            batches = [distinct[i : i + self.batch_size] for i in range(0, len(distinct), self.batch_size)]
            tokens = [teacher.tokenize(batch) for batch in batches]
            encoded_KD = np.concatenate([teacher.encode_tokens(batch) for batch in tokens])
        cut_K = np.array([cut for batch in tokens for cut in batch.truncated_B])
        place = {caption: number for number, caption in enumerate(distinct)}
        has_caption = np.array([bool(caption) for caption in captions])
        of_rows = [place[caption] for caption in captions if caption]
        features_BD[has_caption], truncated_B[has_caption] = encoded_KD[of_rows], cut_K[of_rows]
        return features_BD, truncated_B

    def _circumstances(self, clock: _Clock, attempt: int) -> Circumstances:
        return Circumstances(
            device=self.device,
            batch_size=self.batch_size,
            run_id=self.run_id,
            attempt=attempt,
            timings_s={stage: round(seconds, 4) for stage, seconds in clock.seconds.items()},
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        )


def _stack(decoded: list[Any], geometry: Geometry) -> npt.NDArray[np.uint8]:
    black = np.zeros((geometry.size_px, geometry.size_px, 3), np.uint8)
    return np.stack([black if isinstance(item, str) else item[geometry] for item in decoded])


def _status(
    captions: npt.NDArray[np.object_], bad_images: dict[int, str]
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    status = np.full(len(captions), Status.OK, np.uint8)
    reasons: dict[int, str] = {}
    for position, caption in enumerate(captions):
        if not caption:
            status[position], reasons[position] = Status.BAD_TEXT, "the caption is missing or empty"
    for position, reason in bad_images.items():
        status[position], reasons[position] = Status.BAD_IMAGE, reason
    return status, reasons


class _Clock:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start
