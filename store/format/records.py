"""The store's JSON records: store.json, specs and receipts, and how to read and write them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from store.errors import FormatVersionError, LocationError, StoreError, StoreNotFoundError
from store.io.location import Location

log = logging.getLogger(__name__)

VERSION = 2
"""The store format that this code writes; docs/store-format.md describes it."""

READABLE_VERSIONS = (1, VERSION)
"""Formats that this code reads; ``python -m store upgrade`` makes the present one of an older one."""


Side: TypeAlias = Literal["image", "text"]
SIDES: tuple[Side, Side] = ("image", "text")
"""The sides of a pair, in the order of the pair."""

StoredDtype: TypeAlias = Literal["float16", "float32", "int8"]
"""Types in which features are stored; docs/benchmarks.md gives the cost of each in bytes and in cosine."""


class Status(IntEnum):
    """The result for one row under one teacher."""

    MISSING = 0
    OK = 1
    BAD_IMAGE = 2
    BAD_TEXT = 3
    KILLER_ROW = 4
    NON_FINITE = 5
    NOT_APPLICABLE = 6


class Record(BaseModel):
    """A JSON file of the store. Unknown fields are errors, so that a typo in a hand-written store is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreInfo(Record):
    """``store.json``: a store exists when this file does.

    Attributes:
        rows: N, the pairs of the table.
        range_rows: R, rows of a store shard.
        chunk_rows: C, rows of a chunk; divides R.
        corpus_root: the folder that the pair table's uris are relative to.
        corpus: what was indexed; a second index of the same corpus then has nothing to do.
        parts: rows of each part of the pair table; None in format 1, where parts are found by listing.
    """

    format: Literal["mmkd-feature-store"] = "mmkd-feature-store"
    version: int = VERSION
    rows: int
    range_rows: int
    chunk_rows: int
    created_by: str
    corpus_root: str
    corpus: dict[str, Any]
    parts: list[int] | None = None

    @property
    def ranges(self) -> int:
        """Number of ranges; the last one may be partial."""
        return -(-self.rows // self.range_rows)

    def bounds(self, range_id: int) -> tuple[int, int]:
        """Return the first row of a range and the row after its last."""
        start = range_id * self.range_rows
        return start, min(start + self.range_rows, self.rows)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, first row and row after the last of each range that holds some rows, cut to these rows."""
        for range_id in range(start // self.range_rows, -(-min(stop, self.rows) // self.range_rows)):
            first, end = self.bounds(range_id)
            yield range_id, max(first, start), min(end, stop)


class Spec(Record):
    """``specs/<teacher>.json``: everything that determines a teacher's features.

    All fields but ``notes`` are in the spec hash.

    Attributes:
        embed_dim: D, the width of a feature.
        preprocessing: geometry, colour mode, mean and std.
        tokenizer: digest of the tokenizer's files, context length.
        output: which vector of the model it is.
        sides: sides that the teacher encodes, both or the image alone; both are left out of the file and of the hash.
        notes: facts that change no feature: logit scale, origin of the weights, licence.
    """

    teacher: str
    embed_dim: int
    weights_sha256: str | None
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]
    tokenizer: dict[str, Any]
    output: str
    compute_dtype: str
    stored_dtype: StoredDtype = "float16"
    sides: tuple[Side, ...] = SIDES
    notes: dict[str, Any] = {}

    @field_validator("sides")
    @classmethod
    def _known_sides(cls, sides: tuple[Side, ...]) -> tuple[Side, ...]:
        if sides not in (SIDES, ("image",)):
            raise ValueError(f"a teacher encodes both sides, {list(SIDES)}, or ['image'] alone, not {list(sides)}")
        return sides

    @model_serializer(mode="wrap")
    def _without_both_sides(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        if self.sides == SIDES:
            content.pop("sides", None)
        return content

    def require(self, side: Side) -> None:
        """Refuse, with a StoreError, a side that the teacher does not encode."""
        if side not in self.sides:
            raise StoreError(
                f"teacher {self.teacher} encodes images alone: it has neither text features nor similarities",
                hint="ask for its image features, or for a teacher that encodes both sides",
            )

    @property
    def hash(self) -> str:
        """SHA-256 of the spec without its notes, in hexadecimal."""
        hard = self.model_dump(mode="json", exclude={"notes"})
        return hashlib.sha256(json.dumps(hard, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def difference(self, other: Spec) -> list[str]:
        """Return one line per hashed field in which another spec differs."""
        ours, theirs = (spec.model_dump(exclude={"notes"}) | {"sides": spec.sides} for spec in (self, other))
        return _difference(ours, theirs, "")


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str) -> list[str]:
    lines = []
    for name in sorted({*ours, *theirs}):
        left, right = ours.get(name), theirs.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += _difference(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: {left!r} here, {right!r} there")
    return lines


class BadRow(Record):
    """One row that has no feature, and why."""

    row: int
    key: str
    status: Status
    reason: str


class StoredObject(Record):
    """An object that a unit wrote.

    Attributes:
        crc32c: of the object, 8 hexadecimal digits; None in format 1.
        chunk_crc32c: of each chunk of a shard of features that has rows, in order; None for other objects.
    """

    nbytes: int
    sha256: str
    crc32c: str | None = None
    chunk_crc32c: list[str] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class RangeReceipt(Record):
    """The commit of what was made of one range.

    Attributes:
        objects: by key inside the store.
        status_counts: rows by status name.
        bad_rows: every row whose status is neither ok nor not applicable.
        at: prefix below which the objects lie until they are moved to their keys; None where they have been.
    """

    version: int = VERSION
    range: int
    start: int
    stop: int
    spec_hash: str
    pairs_digest: str
    objects: dict[str, StoredObject]
    status_counts: dict[str, int]
    bad_rows: list[BadRow]
    timings_s: dict[str, float]
    versions: dict[str, str]
    finished: str
    at: str | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class Receipt(RangeReceipt):
    """``receipts/<teacher>/r000123.json``: the commit of one unit.

    Attributes:
        truncated_captions: how many of the ok rows have a caption that the teacher read in part; None where that is not
            known, and then left out of the file.
        changed_images: how many of the ok rows have an image of more than 8 bits, by what was done to make it one of 8;
            None where there are none, and then left out of the file.
        queues: mean lengths of the worker's queues; None of a unit that no worker made, and then left out of the file.
    """

    teacher: str
    device: str
    batch_size: int
    run_id: str
    attempt: int = 1
    truncated_captions: int | None = None
    changed_images: dict[str, int] | None = None
    queues: dict[str, float] | None = None

    @model_serializer(mode="wrap")
    def _in_order(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        last = {
            name: content.pop(name) for name in ("finished", "truncated_captions", "changed_images", "queues", "at")
        }
        content = {"version": content["version"], "teacher": content["teacher"]} | content | last
        return {name: value for name, value in content.items() if value is not None}

    @property
    def subject(self) -> str:
        """Return the name of what was made."""
        return self.teacher


R = TypeVar("R", bound=Record)
Committed = TypeVar("Committed", bound=RangeReceipt)


def write_record(location: Location, key: str, record: Record) -> None:
    """Replace a JSON record atomically."""
    location.write(key, record_bytes(record))


def record_bytes(record: Record) -> bytes:
    """Return a record as it is written."""
    return (record.model_dump_json(indent=1) + "\n").encode()


def read_record(location: Location, key: str, model: type[R]) -> R:
    """Read a JSON record of the store.

    Raises:
        FormatVersionError: it was written in another version of the format.
        StoreError: it is not such a record.
        FileNotFoundError: there is none.
    """
    data = location.read(key)
    try:
        content = json.loads(data)
        version = content.get("version", VERSION) if isinstance(content, dict) else VERSION
        if version not in READABLE_VERSIONS:
            raise FormatVersionError(
                f"{location.show(key)}: written in store format version {version}, this program reads versions "
                f"{' and '.join(map(str, READABLE_VERSIONS))}",
                hint="read it with the release that wrote it, or extract again into a new store",
            )
        return model.model_validate(content)
    except (ValidationError, ValueError) as error:
        raise StoreError(f"{location.show(key)}: not a valid {model.__name__} record: {error}") from error


def read_or_say(location: Location, key: str, model: type[R]) -> R | str | None:
    """Return a record, or what is wrong with it; None where there is none.

    Raises:
        FormatVersionError: it is of another version of the format.
        LocationError: the storage does not answer.
    """
    try:
        return read_record(location, key, model)
    except FileNotFoundError:
        return None
    except (FormatVersionError, LocationError):
        raise
    except StoreError as error:
        return str(error)


def readable_record(location: Location, key: str, model: type[R]) -> R | None:
    """Return a receipt; None where there is none. One that cannot be read counts as none, with a warning.

    Raises:
        FormatVersionError: it was written in another version of the format.
    """
    found = read_or_say(location, key, model)
    if isinstance(found, str):
        log.warning("%s; the unit counts as not committed", found)
        return None
    return found


def read_store_info(location: Location) -> StoreInfo:
    """Read ``store.json``.

    Raises:
        StoreNotFoundError: no store is there.
        FormatVersionError: a store of another version.
    """
    try:
        return read_record(location, STORE_KEY, StoreInfo)
    except FileNotFoundError as error:
        raise StoreNotFoundError(
            f"{location}: no feature store is there (store.json is missing)",
            hint="python -m extract index makes one from a corpus",
        ) from error


def require_present_format(location: Location, info: StoreInfo) -> None:
    """Refuse, with a FormatVersionError, to write to a store of an older format."""
    if info.version != VERSION:
        raise FormatVersionError(
            f"{location}: a store of format version {info.version}, which is read; only version {VERSION} is written",
            hint=f"python -m store upgrade {location} makes one of version {VERSION} of it, in place",
        )


_UNIT_KEY = re.compile(r"(?P<folder>[^/]+)/(?P<teacher>[^/]+)/r(?P<range>\d{6,})\.json")

STORE_KEY = "store.json"
"""With this record a store begins to exist."""

REPORT_KEY = "curation.json"
"""The report of an index; see store/index/curation_report.py."""

RETRY_FOLDER = "retry"
"""Marks of units that are to be done again; see store/check/quarantine.py."""


def receipt_key(teacher: str, range_id: int, *, folder: str = "receipts") -> str:
    """Return the key of a unit's receipt; in `RETRY_FOLDER`, of the mark that has the unit done again."""
    return f"{folder}/{teacher}/r{range_id:06d}.json"


def parse_receipt_key(key: str, *, folder: str = "receipts") -> tuple[str, int] | None:
    """Return teacher and range of a receipt's key, or of a retry mark's; None where it is no such key."""
    match = _UNIT_KEY.fullmatch(key)
    return (match["teacher"], int(match["range"])) if match and match["folder"] == folder else None


KNOWN_UNITS_KEY = "runs/committed.json"
"""Units that extraction found committed, kept for its next plan. Code that writes another pair table deletes it."""


def spec_key(teacher: str) -> str:
    """Return the key of a teacher's spec."""
    return f"specs/{teacher}.json"
