"""How fast workers are, from a probe or from a profile, and the hours that follow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.config import ExtractSection
from extract.run.plan import RangeWork
from store.errors import ConfigError
from store.format.pairs import PairTable
from store.format.records import Receipt, StoreInfo

RANGES_READ = 16
"""Ranges whose captions and images are counted: reading the pair table whole takes minutes at 2.9 M rows."""

PROFILE_HINT = "python -m extract teachers --profile --json > FILE measures them; or leave --profile out, for a probe"


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherRate:
    """How fast one worker runs one teacher: distinct images and distinct captions per second."""

    images_per_s: float
    captions_per_s: float


@dataclass(kw_only=True, frozen=True, slots=True)
class Rates:
    """What one worker needs, from a probe or from a profile.

    Attributes:
        teachers: by id.
        shared_s: seconds per row beside the teachers: waiting for images, writing.
        decoded_per_s: images that one thread decodes and fits, of a profile.
        bad_row_bytes: of bad rows in a receipt, per row.
        source: ``probe`` or the file that was given.
        rows: that were probed; 0 of a profile.
        seconds: that the probe took.
        timings_s: stages of one unit of the probe.
    """

    teachers: Mapping[str, TeacherRate]
    shared_s: float
    bad_row_bytes: float
    source: str
    decoded_per_s: float | None = None
    rows: int = 0
    seconds: float = 0.0
    timings_s: Mapping[str, float] | None = None


@dataclass(kw_only=True, frozen=True, slots=True)
class Distinct:
    """Share of a range's rows that show an image, or say a caption, which no row before them does."""

    images: float
    captions: float


def count_distinct(pairs: PairTable, *, info: StoreInfo, ranges: Sequence[int]) -> Distinct:
    """Count distinct images and captions in some of the ranges, spread evenly."""
    picked = sorted({ranges[i] for i in np.linspace(0, len(ranges) - 1, min(RANGES_READ, len(ranges))).astype(int)})
    rows = images = captions = 0
    for range_id in picked:
        table = pairs.read(*info.bounds(range_id), ["caption", "image_sha256"])
        rows += table.num_rows
        images += len(set(table["image_sha256"].drop_null().to_pylist())) + table["image_sha256"].null_count
        captions += len(set(filter(None, table["caption"].to_pylist())))
    return Distinct(images=images / rows, captions=captions / rows)


def predicted_hours(
    work: Iterable[RangeWork], *, info: StoreInfo, rates: Rates, distinct: Distinct, section: ExtractSection
) -> float:
    """Return the hours that one worker needs for some ranges.

    Where a profile says how fast images are decoded: a GPU's teachers go on beside the threads that do it, and the
    slower decides; on a CPU it takes its time from theirs.

    Args:
        work: the ranges.
        info: the store's shape.
        rates: of one worker.
        distinct: how many of a range's rows need decoding and encoding.
        section: says what the workers run on and how many threads decode.
    """
    seconds = 0.0
    for item in work:
        start, stop = info.bounds(item.range_id)
        rates_of_item = [rates.teachers[name] for name in item.teachers]
        row_s = sum(
            distinct.images / one.images_per_s + distinct.captions / one.captions_per_s for one in rates_of_item
        )
        if rates.decoded_per_s:
            decode_s = distinct.images / rates.decoded_per_s
            row_s = max(row_s, decode_s / section.decode_threads) if section.device == "cuda" else row_s + decode_s
        seconds += (stop - start) * (row_s + rates.shared_s)
    return seconds / 3600


def rates_of_profile(path: Path, *, teachers: Iterable[str]) -> Rates:
    """Return the rates that ``python -m extract teachers --profile --json`` measured.

    Args:
        path: its JSON: by teacher, or by teacher under ``teachers``, ``images_per_s`` and ``captions_per_s``.
        teachers: whose rates are needed.

    Raises:
        ConfigError: it is no JSON, or names the teachers whose rates it lacks.
    """
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}", hint=PROFILE_HINT) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}", hint=PROFILE_HINT) from error
    entries = content.get("teachers", content) if isinstance(content, dict) else {}
    if isinstance(entries, list):
        entries = {str(entry.get("teacher", entry.get("name"))): entry for entry in entries if isinstance(entry, dict)}
    found, lacking = {}, []
    for name in teachers:
        entry = entries.get(name) if isinstance(entries, dict) else None
        values = [entry.get(key) for key in ("images_per_s", "captions_per_s")] if isinstance(entry, dict) else []
        rates = [float(value) for value in values if isinstance(value, (int, float)) and value > 0]
        if len(rates) == 2:
            found[name] = TeacherRate(images_per_s=rates[0], captions_per_s=rates[1])
        else:
            lacking.append(name)
    if lacking:
        raise ConfigError(
            f"{path}: no images_per_s and captions_per_s of {', '.join(lacking)}",
            hint=PROFILE_HINT,
        )
    decoded = content.get("decoded_per_s")
    return Rates(
        teachers=found,
        shared_s=0.0,
        bad_row_bytes=0.0,
        source=str(path),
        decoded_per_s=float(decoded) if isinstance(decoded, (int, float)) and decoded > 0 else None,
    )


def bad_row_bytes(receipts: Iterable[Receipt]) -> float:
    """Return how many bytes bad rows take in receipts, per row of one unit."""
    rows = nbytes = 0
    for receipt in receipts:
        rows += receipt.stop - receipt.start
        whole = len(receipt.model_dump_json(indent=1))
        nbytes += whole - len(receipt.model_copy(update={"bad_rows": []}).model_dump_json(indent=1))
    return nbytes / rows if rows else 0.0
