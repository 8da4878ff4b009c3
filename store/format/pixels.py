"""Format and commit of the pixel cache: small copies of a store's images, so that training needs no corpus.

One Parquet object per range, its row groups the store's chunks; as with features, the receipt is the commit.
``store/read/pixel_cache.py`` reads it, ``extract/run/pixels.py`` makes it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from store.config.pipeline_file import Section
from store.errors import SpecMismatchError
from store.io.location import Location

from .commit import bad_rows, commit_objects, promoted, status_counts, timestamp, valid_receipt
from .pairs import pairs_digest
from .promote import Guard, next_folder, unguarded
from .records import RangeReceipt, Record, Status, StoredObject, StoreInfo, read_record, write_record

PIXEL_SPEC_KEY = "pixels/spec.json"
"""With this record a store's pixel cache begins to exist."""

PIXELS = "pixels"

PIXEL_RECEIPTS = "pixels/receipts"

PIXEL_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("image", pa.binary()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.uint8(), nullable=False),
    ]
)
"""Columns of ``pixels/r000123.parquet``; image, width and height are null where the status is not ok."""


class Pixels(Section):
    """The store's own copies of the images, so that training needs no corpus (``python -m extract pixels``)."""

    short_side_px: int = Field(default=256, gt=0)
    format: Literal["jpeg", "webp"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] | Literal["lossless"] = 90

    @model_validator(mode="after")
    def _jpeg_loses(self) -> Pixels:
        if self.format == "jpeg" and self.quality == "lossless":
            raise ValueError("JPEG has no lossless quality; give a number, or format: webp")
        return self


def pixels_key(range_id: int) -> str:
    """Return where the images of a range lie."""
    return f"pixels/r{range_id:06d}.parquet"


def pixel_receipt_key(range_id: int) -> str:
    """Return the key of the receipt of a range's images."""
    return f"{PIXEL_RECEIPTS}/r{range_id:06d}.json"


class PixelSpec(Record):
    """``pixels/spec.json``: everything that decides the bytes of an image.

    Attributes:
        resample: filter of the resize, antialiased.
        keeps_small_originals: the file of an image that need not be made smaller is kept as it is, if it is a JPEG or
            PNG of 8-bit grey or RGB and no larger than the image encoded again.
        window: the pipeline's ``image.window``; left out of the file where there is none.
    """

    version: Literal[1] = 1
    short_side_px: int
    resample: Literal["lanczos"] = "lanczos"
    format: Literal["jpeg", "webp"]
    options: dict[str, int | bool | str]
    keeps_small_originals: bool = True
    window: tuple[float, float] | Literal["minmax"] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    @classmethod
    def of(cls, section: Pixels, *, window: tuple[float, float] | Literal["minmax"] | None = None) -> PixelSpec:
        """Return what a pipeline's ``pixels:`` and ``image.window`` ask for."""
        quality: dict[str, int | bool | str] = (
            {"quality": section.quality} if section.quality != "lossless" else {"lossless": True}
        )
        # The method is Pillow's default, stated because it decides the bytes. Full colour resolution adds a quarter to
        # a colour image and more than halves what encoding does to the features of most models (docs/benchmarks.md).
        rest: dict[str, int | bool | str] = {"method": 4} if section.format == "webp" else {"subsampling": "4:4:4"}
        return cls(short_side_px=section.short_side_px, format=section.format, options=quality | rest, window=window)

    @property
    def hash(self) -> str:
        """SHA-256 of the spec, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


class PixelReceipt(RangeReceipt):
    """``pixels/receipts/r000123.json``: the commit of the images of one range, which are one object."""

    @property
    def subject(self) -> str:
        """Return the name of what was made."""
        return PIXELS


@dataclass(kw_only=True, frozen=True, slots=True)
class SmallImage:
    """One row's image as it is kept.

    Attributes:
        width, height: in pixels, of what is kept.
    """

    data: bytes | None = None
    width: int | None = None
    height: int | None = None
    reason: str = "no reason was given"

    @property
    def status(self) -> Status:
        """Ok or bad image."""
        return Status.BAD_IMAGE if self.data is None else Status.OK


def register_pixels(location: Location, spec: PixelSpec, *, replace: bool = False) -> str:
    """Make a store ready for images of a spec, and return the prefix below which they are committed.

    The prefix is empty, or that of a new spec: readers see the old images until `promote.replace_units` is called.

    Args:
        replace: images of another spec are to be replaced.

    Raises:
        SpecMismatchError: there are images of another spec, and ``replace`` is not given.
    """
    stored = read_record(location, PIXEL_SPEC_KEY, PixelSpec) if location.exists(PIXEL_SPEC_KEY) else None
    if stored and stored.hash == spec.hash:
        return ""
    if stored and not replace:
        raise SpecMismatchError(
            f"{location} holds images of another kind than the one asked for:\n"
            f"  {_shown(spec)} here, {_shown(stored)} there",
            hint="--replace makes them anew and replaces the stored ones when all are there; or change pixels: in the "
            "pipeline",
        )
    at = next_folder(spec.hash) if stored else ""
    write_record(location.below(at) if at else location, PIXEL_SPEC_KEY, spec)
    return at


def _shown(spec: PixelSpec) -> str:
    options = ", ".join(f"{name} {value}" for name, value in spec.options.items())
    return f"short side {spec.short_side_px} px, {spec.format} ({options})"


def commit_pixels(
    location: Location,
    *,
    info: StoreInfo,
    spec: PixelSpec,
    range_id: int,
    pairs: pa.Table,
    images: Sequence[SmallImage],
    timings_s: dict[str, float],
    versions: dict[str, str],
    guard: Guard = unguarded,
    holds_lock: bool = True,
) -> PixelReceipt:
    """Write the images of one range and return their receipt; what is already committed is left alone.

    Args:
        pairs: the range's key, caption and image_sha256, as in the pair table.
        holds_lock: as in `commit_unit`.

    Raises:
        CorruptChunkError: what is read back is not what was written.
    """
    digest, receipt_at = pairs_digest(pairs), pixel_receipt_key(range_id)
    existing = valid_receipt(location, receipt_at, PixelReceipt, spec_hash=spec.hash, digest=digest)
    if existing:
        return existing
    start, stop = info.bounds(range_id)
    if len(images) != pairs.num_rows:
        raise ValueError(f"{len(images)} images were given for {pairs.num_rows} pairs")
    status = np.array([image.status for image in images], np.uint8)

    def describe(stored: dict[str, StoredObject]) -> PixelReceipt:
        reasons = {position: image.reason for position, image in enumerate(images)}
        return PixelReceipt(
            range=range_id,
            start=start,
            stop=stop,
            spec_hash=spec.hash,
            pairs_digest=digest,
            objects=stored,
            status_counts=status_counts(status),
            bad_rows=bad_rows(status, reasons, start=start, keys=pairs["key"].to_pylist()),
            timings_s=timings_s,
            versions=versions,
            finished=timestamp(),
        )

    objects = {pixels_key(range_id): encode_range(images, start=start, chunk_rows=info.chunk_rows)}
    receipt = commit_objects(location, receipt_at, objects, describe, guard=guard)
    return promoted(location, receipt, receipt_at, guard=guard) if holds_lock else receipt


def encode_range(images: Sequence[SmallImage], *, start: int, chunk_rows: int) -> bytes:
    """Return the Parquet file of a range's images; the same images give the same bytes."""
    columns = {
        "row": range(start, start + len(images)),
        "image": [image.data for image in images],
        "width": [image.width for image in images],
        "height": [image.height for image in images],
        "status": [int(image.status) for image in images],
    }
    table = pa.table([pa.array(columns[field.name], field.type) for field in PIXEL_SCHEMA], schema=PIXEL_SCHEMA)
    buffer = io.BytesIO()
    # Images are compressed already, and statistics of them would repeat whole images.
    pq.write_table(
        table,
        buffer,
        row_group_size=chunk_rows,
        compression="none",
        use_dictionary=False,
        write_statistics=["row", "status"],
        write_page_checksum=True,
    )
    return buffer.getvalue()
