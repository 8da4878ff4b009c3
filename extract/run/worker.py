"""Does one range: decodes once, fits once per geometry, runs every teacher, commits. Knows nothing of Ray."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from extract.teachers.base import FrozenTeacher
from store.format.commit import Circumstances, UnitFeatures, commit_unit, valid_receipt
from store.format.pairs import PairTable, pairs_digest, strings
from store.format.promote import Guard, unguarded
from store.format.records import Receipt, Status, StoreInfo, receipt_key
from store.io.location import Location
from store.texts.captions import has_word

from .batch_size import BatchSize
from .captions import DistinctCaptions
from .decoding import Decoder, DistinctImages
from .stages import Clock

PACKAGES = ("torch", "open_clip_torch", "timm", "transformers", "zarr")
"""A receipt records the versions of these; the teachers' arithmetic and tokenizers are theirs."""


@dataclass(kw_only=True, slots=True)
class Worker:
    """Runs teachers over ranges of a store.

    Attributes:
        places: where the units of each teacher are committed.
        decoder: counts its batches from the range's first image, so that features do not depend on which worker does
            which range.
        device, run_id: for the receipts.
        guard: called before each receipt.
        on_step: called many times in a range, to show progress.
        teacher_s: seconds so far by teacher and stage.
    """

    places: Mapping[str, Location]
    info: StoreInfo
    pairs: PairTable
    decoder: Decoder
    teachers: dict[str, FrozenTeacher]
    device: str
    run_id: str
    on_step: Callable[[], object] = lambda: None
    guard: Guard = unguarded
    teacher_s: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float), init=False)
    _batch_sizes: dict[str, BatchSize] = field(default_factory=dict, init=False)

    def run(
        self, range_id: int, names: Sequence[str], *, attempt: int = 1, killers: Mapping[int, str] | None = None
    ) -> list[Receipt]:
        """Extract one range with the named teachers and write each one's unit, which `Dispatch.done` then promotes.

        Args:
            attempt: counted from 1, for the receipt.
            killers: rows to leave out, with the reason.

        Raises:
            OutOfMemoryError: a single row does not fit into the device's memory.
        """
        start, stop = self.info.bounds(range_id)
        clock = Clock(self.on_step)
        pairs = self.pairs.read(start, stop)
        found = {} if attempt == 1 else self._committed(range_id, names, pairs)
        teachers = [self.teachers[name] for name in names if name not in found]
        left_out = {row - start: reason for row, reason in (killers or {}).items()}
        features = self._features(pairs, teachers, left_out, clock)
        for teacher in teachers:
            circumstances = Circumstances(
                device=self.device,
                batch_size=self._batch_size(teacher).rows,
                run_id=self.run_id,
                attempt=attempt,
                timings_s=clock.timings(),
                versions={package: importlib.metadata.version(package) for package in PACKAGES},
            )
            with clock("write"):
                found[teacher.name] = commit_unit(
                    self.places[teacher.name],
                    info=self.info,
                    spec=teacher.spec,
                    range_id=range_id,
                    pairs=pairs,
                    features=features[teacher.name],
                    circumstances=circumstances,
                    guard=self.guard,
                    holds_lock=False,
                )
        return [found[name] for name in names]

    def probe(self, rows: range, names: Sequence[str]) -> None:
        """Do everything with some rows except the commit, to see whether this process survives."""
        pairs = self.pairs.read(rows.start, rows.stop)
        self._features(pairs, [self.teachers[name] for name in names], {}, Clock(self.on_step))

    def _committed(self, range_id: int, names: Sequence[str], pairs: pa.Table) -> dict[str, Receipt]:
        """Return what an earlier attempt committed before it failed."""
        digest = pairs_digest(pairs)
        receipts = {
            name: valid_receipt(
                self.places[name],
                receipt_key(name, range_id),
                Receipt,
                spec_hash=self.teachers[name].spec.hash,
                digest=digest,
            )
            for name in names
        }
        return {name: receipt for name, receipt in receipts.items() if receipt and receipt.run_id == self.run_id}

    def _features(
        self, pairs: pa.Table, teachers: Sequence[FrozenTeacher], left_out: Mapping[int, str], clock: Clock
    ) -> dict[str, UnitFeatures]:
        """Return each teacher's features of some pairs; rows that are left out have a status and zeros."""
        if not teachers:
            return {}
        distinct = DistinctImages.of(pairs)
        image_KD, bad_images, changed = self._encode_images(pairs, distinct, teachers, left_out, clock)
        bad_rows = {
            row: bad_images[image] for row, image in enumerate(distinct.of_row_N.tolist()) if image in bad_images
        }
        captions = strings(pairs, "caption")
        of_images = _status(len(captions), {}, bad_rows, left_out)
        of_pairs = _status(len(captions), _bad_captions(captions), bad_rows, left_out)
        captions[list(left_out)] = None
        texts = DistinctCaptions(captions)
        changed_N = [changed.get(image) for image in distinct.of_row_N.tolist()]
        features = {}
        for teacher in teachers:
            paired = "text" in teacher.spec.sides
            text_ND, truncated_N = (
                self._encode_captions(teacher, texts, len(captions), clock) if paired else (None, None)
            )
            status, reasons = of_pairs if paired else of_images
            features[teacher.name] = UnitFeatures(
                image=image_KD[teacher.name][distinct.of_row_N],
                text=text_ND,
                status=status,
                reasons=reasons,
                truncated=truncated_N,
                changed=changed_N,
            )
        return features

    def _encode_images(
        self,
        pairs: pa.Table,
        distinct: DistinctImages,
        teachers: Sequence[FrozenTeacher],
        left_out: Mapping[int, str],
        clock: Clock,
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[int, str], dict[int, str]]:
        """Return features of the K distinct images by teacher, why some cannot be used, and how some were changed."""
        count = len(distinct.firsts_K)
        bad: dict[int, str] = {}
        changed: dict[int, str] = {}
        image_KD = {teacher.name: np.zeros((count, teacher.embed_dim), np.float32) for teacher in teachers}
        shown = {image for row, image in enumerate(distinct.of_row_N.tolist()) if row not in left_out}
        batches = self.decoder.batches(
            pairs.take(distinct.firsts_K),
            {teacher.geometry for teacher in teachers},
            leave_out={*range(count)} - shown,
            bad=bad,
            changed=changed,
            clock=clock,
        )

        def encode(teacher: FrozenTeacher, batch_BHWC: torch.Tensor, rows: slice) -> npt.NDArray[np.float32]:
            with self._stage("forward_image", teacher, clock):
                return teacher.image_features(batch_BHWC[rows]).cpu().numpy()

        for first, pixels in batches:
            for teacher in teachers:
                batch_BHWC = torch.from_numpy(pixels[teacher.geometry]).to(self.device)
                parts = self._batch_size(teacher).over(len(batch_BHWC), partial(encode, teacher, batch_BHWC))
                image_KD[teacher.name][first : first + len(batch_BHWC)] = np.concatenate(parts)
        return image_KD, bad, changed

    def _encode_captions(
        self, teacher: FrozenTeacher, captions: DistinctCaptions, count: int, clock: Clock
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Encode each distinct caption once; return every row's feature and whether its caption was cut."""
        features_BD = np.zeros((count, teacher.embed_dim), np.float32)
        truncated_B = np.zeros(count, np.bool_)
        if not captions.texts:
            return features_BD, truncated_B
        tokens = captions.tokens(teacher, clock)

        def encode(rows: slice) -> npt.NDArray[np.float32]:
            with self._stage("forward_text", teacher, clock):
                ids_BL = torch.from_numpy(tokens.ids_BL[rows]).to(self.device)
                return teacher.text_features(ids_BL, tokens.lengths_B[rows].tolist()).cpu().numpy()

        encoded_KD = np.concatenate(self._batch_size(teacher).over(len(captions.texts), encode))
        features_BD[captions.rows] = encoded_KD[captions.of_rows]
        truncated_B[captions.rows] = tokens.truncated_B[captions.of_rows]
        return features_BD, truncated_B

    @contextlib.contextmanager
    def _stage(self, stage: str, teacher: FrozenTeacher, clock: Clock) -> Iterator[None]:
        began = time.perf_counter()
        with clock(stage):
            yield
        self.teacher_s[teacher.name, stage] += time.perf_counter() - began

    def _batch_size(self, teacher: FrozenTeacher) -> BatchSize:
        return self._batch_sizes.setdefault(teacher.name, BatchSize(self.decoder.batch_size, teacher=teacher.name))


def _bad_captions(captions: npt.NDArray[np.object_]) -> dict[int, str]:
    bad: dict[int, str] = {}
    for position, caption in enumerate(captions):
        if not caption:
            bad[position] = "the caption is missing or empty"
        elif not has_word(caption):
            bad[position] = "the caption has no letter or digit"
    return bad


def _status(
    rows: int, bad_captions: Mapping[int, str], bad_images: Mapping[int, str], killers: Mapping[int, str]
) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    status = np.full(rows, Status.OK, np.uint8)
    reasons: dict[int, str] = {}
    kinds = ((Status.BAD_TEXT, bad_captions), (Status.BAD_IMAGE, bad_images), (Status.KILLER_ROW, killers))
    for kind, found in kinds:
        for position, reason in found.items():
            status[position], reasons[position] = kind, reason
    return status, reasons
