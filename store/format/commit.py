"""Commits a unit: whole shards, then the receipt that names them. Nothing that is there is overwritten."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.errors import CorruptChunkError, SpecMismatchError, StoreError
from store.faults import reached
from store.io.location import Location

from .arrays import (
    ZARR_FOLDER,
    ArrayName,
    checksum,
    chunk_checksums,
    create_arrays,
    encode_shard,
    shard_key,
)
from .pairs import pairs_digest
from .promote import STAGED_FOLDER, Guard, next_folder, promote, unguarded
from .records import (
    RETRY_FOLDER,
    BadRow,
    Committed,
    Receipt,
    Side,
    Spec,
    Status,
    StoredObject,
    StoreInfo,
    read_record,
    readable_record,
    receipt_key,
    record_bytes,
    spec_key,
    write_record,
)

TEACHER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""A teacher's id is a folder of the store and part of its keys."""


@dataclass(kw_only=True, slots=True)
class UnitFeatures:
    """One teacher's features of one range.

    Attributes:
        image, text: (rows, D) float32, unit norm where the status is ok; None of a side that is not encoded.
        status: (rows,) uint8, of Status.
        reasons: by position in the range, for rows that are neither ok nor not applicable.
        truncated: (rows,) whether the teacher read the caption in part; None where that is not known.
        changed: by row, what was done to an image of more than 8 bits, as one of few texts, or None; None as a whole
            where that is not known.
    """

    image: npt.NDArray[np.float32]
    text: npt.NDArray[np.float32] | None
    status: npt.NDArray[np.uint8]
    reasons: dict[int, str]
    truncated: npt.NDArray[np.bool_] | None = None
    changed: Sequence[str | None] | None = None

    def of(self, spec: Spec) -> dict[Side, npt.NDArray[np.float32]]:
        """Return the features of each side that a teacher encodes.

        Raises:
            ValueError: a side is missing, or there is one that the teacher does not encode.
        """
        sides: dict[Side, npt.NDArray[np.float32] | None] = {"image": self.image, "text": self.text}
        found = {side: features for side, features in sides.items() if features is not None}
        if (*found,) != spec.sides:
            raise ValueError(f"features of {[*found]}, but {spec.teacher} encodes {[*spec.sides]}")
        return found


@dataclass(kw_only=True, frozen=True, slots=True)
class Circumstances:
    """The circumstances in which a unit was made; its receipt records them, the data does not."""

    device: str
    batch_size: int
    run_id: str
    attempt: int
    timings_s: dict[str, float]
    versions: dict[str, str]
    queues: dict[str, float] | None = None


def register_teacher(location: Location, spec: Spec, *, info: StoreInfo, replace: bool = False) -> str:
    """Make a store ready for a teacher's features, and return the prefix below which they are committed.

    The prefix is empty, or that of a new model: readers see the old one until `promote.replace_units` is called.

    Args:
        replace: features of another spec are to be replaced.

    Raises:
        SpecMismatchError: the store holds features of another spec, and ``replace`` is not given.
    """
    if not TEACHER_ID.fullmatch(spec.teacher):
        raise StoreError(
            f"{spec.teacher!r} cannot name a teacher in a store: letters, digits, _, - and . only, the first no sign"
        )
    key, receipts = spec_key(spec.teacher), f"receipts/{spec.teacher}"
    stored = read_record(location, key, Spec) if location.exists(key) else None
    if stored and stored.hash == spec.hash:
        create_arrays(location, spec, info=info)
        return ""
    if stored and not replace:
        changes = "\n  ".join(spec.difference(stored))
        raise SpecMismatchError(
            f"{location} holds features of another {spec.teacher} than the one to be run:\n  {changes}",
            hint=f"--replace {spec.teacher} makes them anew and replaces the stored ones when all are there; "
            "or list the new one under a name of its own",
        )
    if stored and location.list(receipts):
        at = next_folder(spec.hash)
        create_arrays(location.below(at), spec, info=info)
        write_record(location.below(at), key, spec)
        return at
    if not location.list(receipts):
        # Arrays without receipts: of a spec of which nothing was committed, or left by a removal that was killed.
        location.delete_below(f"{ZARR_FOLDER}/{spec.teacher}")
    create_arrays(location, spec, info=info)
    write_record(location, key, spec)
    return ""


def valid_receipt(
    location: Location, key: str, model: type[Committed], *, spec_hash: str, digest: str
) -> Committed | None:
    """Return the receipt at a key if it is valid for this spec and these pairs, else None."""
    receipt = readable_record(location, key, model)
    return receipt if receipt and (receipt.spec_hash, receipt.pairs_digest) == (spec_hash, digest) else None


def promoted(location: Location, receipt: Committed, receipt_at: str, *, guard: Guard) -> Committed:
    """Put a unit that was written beside the store's own objects in its place, and return its receipt there."""
    if receipt.at is None:
        return receipt
    promote(location, receipt.at, receipt_at, guard=guard)
    return receipt.model_copy(update={"at": None})


def commit_unit(
    location: Location,
    *,
    info: StoreInfo,
    spec: Spec,
    range_id: int,
    pairs: pa.Table,
    features: UnitFeatures,
    circumstances: Circumstances,
    digest: str | None = None,
    guard: Guard = unguarded,
    holds_lock: bool = True,
) -> Receipt:
    """Write one unit and return its receipt; what is already committed is left alone, unless it is marked for a retry.

    Args:
        location: the store's, with the teacher registered.
        pairs: the range's rows of the pair table.
        digest: `pairs_digest` of them, if it is known, because it takes long beside a unit's writing.
        holds_lock: else nothing that is there, in whatever state, is replaced: the new unit then lies below the
            receipt's ``at``, and counts when the holder of the lock calls `promoted`.

    Raises:
        CorruptChunkError: an object read back is not what was written.
    """
    began = time.perf_counter()
    digest = digest or pairs_digest(pairs)
    receipt_at = receipt_key(spec.teacher, range_id)
    existing = valid_receipt(location, receipt_at, Receipt, spec_hash=spec.hash, digest=digest)
    if existing and not location.exists(receipt_key(spec.teacher, range_id, folder=RETRY_FOLDER)):
        return promoted(location, existing, receipt_at, guard=guard) if holds_lock else existing
    features = _without_non_finite(features, spec)
    objects = {
        shard_key(spec.teacher, name, range_id): encode_shard(name, values, stored_dtype=spec.stored_dtype, info=info)
        for name, values in _arrays(features, spec).items()
    }
    start, stop = info.bounds(range_id)
    truncated = None if features.truncated is None else features.truncated & (features.status == Status.OK)

    def describe(stored: dict[str, StoredObject]) -> Receipt:
        for key in (shard_key(spec.teacher, name, range_id) for name in spec.sides):
            chunks = chunk_checksums(objects[key], spec, rows=stop - start, info=info)
            stored[key] = stored[key].model_copy(update={"chunk_crc32c": chunks})
        return Receipt(
            teacher=spec.teacher,
            range=range_id,
            start=start,
            stop=stop,
            spec_hash=spec.hash,
            pairs_digest=digest,
            objects=stored,
            status_counts=status_counts(features.status),
            bad_rows=bad_rows(features.status, features.reasons, start=start, keys=pairs["key"].to_pylist()),
            timings_s=circumstances.timings_s | {"write": round(time.perf_counter() - began, 4)},
            versions=circumstances.versions,
            device=circumstances.device,
            batch_size=circumstances.batch_size,
            run_id=circumstances.run_id,
            attempt=circumstances.attempt,
            queues=circumstances.queues,
            finished=timestamp(),
            truncated_captions=None if truncated is None else int(truncated.sum()),
            changed_images=_changed_images(features),
        )

    receipt = commit_objects(location, receipt_at, objects, describe, guard=guard)
    reached("commit.done")
    return promoted(location, receipt, receipt_at, guard=guard) if holds_lock else receipt


def commit_objects(
    location: Location,
    receipt_at: str,
    objects: Mapping[str, bytes],
    describe: Callable[[dict[str, StoredObject]], Committed],
    *,
    guard: Guard,
) -> Committed:
    """Create the objects of a unit, and last the receipt that commits them.

    If one of them is there already, all are created below a prefix of this attempt, and the receipt that is returned
    names it. Two attempts so never share an object.

    Args:
        describe: makes the receipt of the objects that were written.

    Raises:
        CorruptChunkError: an object read back is not what was written.
    """
    reached("commit.begin")
    if not location.exists(receipt_at):
        try:
            return _create_unit(location, receipt_at, objects, describe, guard)
        except FileExistsError:
            pass  # left by an attempt that was killed, or written by one that goes on elsewhere
        except CorruptChunkError:
            if not location.exists(receipt_at):
                raise
            # Another attempt was committed meanwhile, over what this one had written.
    at = f"{STAGED_FOLDER}/{secrets.token_hex(8)}"
    receipt = _create_unit(location.below(at), receipt_at, objects, describe, guard)
    return receipt.model_copy(update={"at": at})


def _create_unit(
    location: Location,
    receipt_at: str,
    objects: Mapping[str, bytes],
    describe: Callable[[dict[str, StoredObject]], Committed],
    guard: Guard,
) -> Committed:
    stored = {key: _create_object(location, key, data) for key, data in objects.items()}
    reached("commit.objects")
    receipt = describe(stored)
    guard()
    location.create(receipt_at, record_bytes(receipt))
    return receipt


def _changed_images(features: UnitFeatures) -> dict[str, int] | None:
    """Count the ok rows with a changed image, by what was done; None where there are none."""
    rows = zip(features.changed or [], features.status, strict=False)
    counts = Counter(done for done, status in rows if done is not None and status == Status.OK)
    return dict(sorted(counts.items())) or None


def _without_non_finite(features: UnitFeatures, spec: Spec) -> UnitFeatures:
    """Give rows with an infinite or undefined number their status, and zeros to every row that is not ok."""
    finite = np.logical_and.reduce([np.isfinite(side_ND).all(axis=1) for side_ND in features.of(spec).values()])
    status = np.where((features.status == Status.OK) & ~finite, Status.NON_FINITE, features.status).astype(np.uint8)
    ok = (status == Status.OK)[:, None]
    reasons = dict(features.reasons)
    for position in np.flatnonzero(status == Status.NON_FINITE):
        reasons.setdefault(int(position), "the teacher returned a number that is not finite")
    sides = features.of(spec)
    if not ok.all():
        sides = {side: np.where(ok, side_ND, np.float32(0)) for side, side_ND in sides.items()}
    return replace(features, image=sides["image"], text=sides.get("text"), status=status, reasons=reasons)


def _arrays(features: UnitFeatures, spec: Spec) -> dict[ArrayName, npt.NDArray[Any]]:
    arrays: dict[ArrayName, npt.NDArray[Any]] = dict(features.of(spec).items())
    if features.text is not None:
        # Features are unit norm, so the product of the unrounded vectors is their cosine.
        arrays["similarity"] = np.einsum("nd,nd->n", features.image, features.text).astype(np.float32)
    return {**arrays, "status": features.status}


def _create_object(location: Location, key: str, data: bytes) -> StoredObject:
    """Create an object, read it back and return what a receipt says of it."""
    digest = hashlib.sha256(data).hexdigest()
    location.create(key, data)
    reached("commit.object")
    if location.read(key) != data:
        raise CorruptChunkError(
            f"{location.show(key)}: what was read back is not what was written", hint="check the disk"
        )
    return StoredObject(nbytes=len(data), sha256=digest, crc32c=checksum(data))


def status_counts(status: npt.NDArray[np.uint8]) -> dict[str, int]:
    """Return the number of rows by status name."""
    values, counts = np.unique(status, return_counts=True)
    return {Status(value).name.lower(): int(count) for value, count in zip(values, counts, strict=True)}


def bad_rows(
    status: npt.NDArray[np.uint8], reasons: Mapping[int, str], *, start: int, keys: Sequence[str]
) -> list[BadRow]:
    """Return the rows of a range that have no feature and should have one.

    Args:
        reasons: by position in the range.
    """
    fine = np.isin(status, (Status.OK, Status.NOT_APPLICABLE))
    return [
        BadRow(
            row=start + position,
            key=keys[position],
            status=Status(int(status[position])),
            reason=reasons.get(position, "no reason was given"),
        )
        for position in np.flatnonzero(~fine).tolist()
    ]


def timestamp() -> str:
    """Return the present time in UTC, to the second, as receipts have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
