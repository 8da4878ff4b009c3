"""Predicts the memory that a worker's rows take on the host while they are on their way, beside teachers and files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from extract.teacher_files.geometry import Preprocessing
from extract.worker.task import TASKS_AT_ONCE
from store.format.records import Spec

CHANNELS, FLOAT_BYTES, ID_BYTES = 3, 4, 8


@dataclass(kw_only=True, frozen=True, slots=True)
class InFlight:
    """Most bytes of rows in one worker, which does not depend on the number of ranges.

    Attributes:
        pixels: images in every geometry, of the batches that are decoded, encoded or not collected yet.
        tokens: ids of their captions by every tokenizer.
        features: of the ranges in the worker, and a copy of one teacher's that are being committed.
    """

    pixels: int
    tokens: int
    features: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.pixels + self.tokens + self.features


def in_flight(specs: Iterable[Spec], *, batch_size: int, range_rows: int) -> InFlight:
    """Return the most bytes of rows that a worker holds, if every row has an image and a caption of its own."""
    from extract.worker.worker import BATCHES_AHEAD  # imports torch, which a plan without work need not load

    specs, rows = list(specs), min(batch_size, range_rows)
    geometries = {Preprocessing.model_validate(spec.preprocessing).geometry for spec in specs}
    paired = [spec for spec in specs if "text" in spec.sides]
    contexts = {json.dumps(one.tokenizer, sort_keys=True): int(one.tokenizer["context_length"]) for one in paired}
    unit_bytes = [range_rows * one.embed_dim * FLOAT_BYTES * len(one.sides) for one in specs]
    return InFlight(
        pixels=BATCHES_AHEAD * rows * CHANNELS * sum(geometry.size_px**2 for geometry in geometries),
        tokens=BATCHES_AHEAD * rows * ID_BYTES * sum(contexts.values()),
        features=TASKS_AT_ONCE * sum(unit_bytes) + max(unit_bytes, default=0),
    )
