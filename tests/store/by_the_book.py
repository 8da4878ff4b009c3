"""A feature store written and read by docs/store-format.md alone.

Nothing of ``store/`` is imported here, on purpose and by a test: what these functions need to know, the document has to
say. Each names the chapter that it follows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

ARRAYS = ("image", "text", "similarity", "status")
MISSING, OK, BAD_IMAGE, BAD_TEXT, KILLER_ROW, NON_FINITE, NOT_APPLICABLE = range(7)
STATUS_NAMES = ("missing", "ok", "bad_image", "bad_text", "killer_row", "non_finite", "not_applicable")

PAIRS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field(
            "member",
            pa.struct([("offset", pa.int64()), ("nbytes", pa.int64()), ("column", pa.string()), ("row", pa.int64())]),
        ),
        pa.field("caption", pa.string()),
        pa.field("modality", pa.string()),
        pa.field("split", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("source", pa.string()),
        pa.field("license", pa.string()),
    ]
)

KEYS = pa.schema(
    [
        pa.field("key_hash", pa.uint64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("difference_hash", pa.uint64()),
    ]
)


@dataclass
class Features:
    """One teacher's: image, text (N, D) float32 of unit norm, the text None where the spec has one side; status (N,);
    reasons by row; ranges left uncommitted."""

    spec: dict[str, Any]
    image: np.ndarray
    text: np.ndarray | None
    status: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)
    holes: tuple[int, ...] = ()


def spec_hash(spec: dict[str, Any]) -> str:
    """Chapter Spec."""
    hashed = {"stored_dtype": "float16", **{name: value for name, value in spec.items() if name != "notes"}}
    text = json.dumps(hashed, sort_keys=True, ensure_ascii=True, separators=(", ", ": "), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def pairs_digest(pairs: list[dict[str, Any]]) -> str:
    """Chapter Receipts."""
    lines = [json.dumps([pair["key"], pair["caption"], pair["image_sha256"]]) + "\n" for pair in pairs]
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def key_hash(key: str) -> int:
    """Chapter Pair table."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest(), "big")


def to_int8(features: np.ndarray) -> np.ndarray:
    """Chapter Arrays."""
    largest = np.abs(features).max(axis=1, keepdims=True)
    return np.rint(features * (np.float32(127) / np.where(largest > 0, largest, 1))).astype(np.int8)


def from_int8(stored: np.ndarray) -> np.ndarray:
    """Chapter Arrays."""
    values = stored.astype(np.float32)
    norm = np.sqrt((values * values).sum(axis=1, keepdims=True))
    return values / np.where(norm > 0, norm, 1)


def bounds(info: dict[str, Any], k: int) -> tuple[int, int]:
    start = k * info["range_rows"]
    return start, min(start + info["range_rows"], info["rows"])


def ranges(info: dict[str, Any]) -> range:
    return range(-(-info["rows"] // info["range_rows"]))


def array_names(spec: dict[str, Any]) -> tuple[str, ...]:
    """Chapter Arrays, One side."""
    return ("image", "status") if spec.get("sides") == ["image"] else ARRAYS


def shard_keys(spec: dict[str, Any], k: int) -> dict[str, str]:
    """Chapter Arrays."""
    tail = {"image": f"{k}/0", "text": f"{k}/0", "similarity": f"{k}", "status": f"{k}"}
    return {name: f"features.zarr/{spec['teacher']}/{name}/c/{tail[name]}" for name in array_names(spec)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_store(
    store: Path, pairs: list[dict[str, Any]], teachers: dict[str, Features], *, info: dict[str, Any], index: bool = True
) -> None:
    """Write a store that nobody reads meanwhile, in the order that the document asks for."""
    first = 0
    for part, rows in enumerate(info["parts"]):
        write_pairs(store, pairs[: first + rows], info=info, part=part, first=first)
        first += rows
    if index:
        write_keys(store, [pair["key"] for pair in pairs])
    write_json(store / "store.json", info)
    zarr.create_group(str(store / "features.zarr"), zarr_format=3)
    for teacher, features in teachers.items():
        arrays = create_arrays(store, teacher, features, info=info)
        write_json(store / "specs" / f"{teacher}.json", features.spec)
        for k in ranges(info):
            if k not in features.holes:
                commit(store, teacher, k, features, arrays=arrays, pairs=pairs, info=info)


def write_pairs(
    store: Path, pairs: list[dict[str, Any]], *, info: dict[str, Any], part: int = 0, first: int = 0
) -> None:
    """Write a part with the rows from ``first`` on. Chapter Pair table."""
    path = store / f"pairs/part-{part:05d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    size = info["range_rows"]
    borders = [first, *range((first // size + 1) * size, len(pairs), size), len(pairs)]
    groups = list(itertools.pairwise(borders))
    digests = [(start // size, stop, pairs_digest(pairs[start // size * size : stop])) for start, stop in groups]

    def write(**metadata: str) -> int:
        with pq.ParquetWriter(path, PAIRS, compression="zstd") as writer:
            for start, stop in groups:
                writer.write_table(pa.Table.from_pylist(pairs[start:stop], schema=PAIRS))
            writer.add_key_value_metadata(metadata)
        return data_bytes(pq.read_metadata(path))

    write(**{"mmkd.pairs": json.dumps({"data_bytes": write(), "digests": digests})})


def data_bytes(part: pq.FileMetaData) -> int:
    """Chapter Pair table."""
    groups = [part.row_group(group) for group in range(part.num_row_groups)]
    return sum(group.column(place).total_compressed_size for group in groups for place in range(group.num_columns))


def write_keys(store: Path, keys: list[str]) -> None:
    """Chapter Pair table."""
    entries = sorted((key_hash(key), row) for row, key in enumerate(keys))
    rows = [{"key_hash": hashed, "row": row, "difference_hash": None} for hashed, row in entries]
    pq.write_table(pa.Table.from_pylist(rows, schema=KEYS), store / "keys.parquet", compression="zstd")


def create_arrays(store: Path, teacher: str, features: Features, *, info: dict[str, Any]) -> dict[str, zarr.Array]:
    """Chapter Arrays."""
    group = zarr.open_group(str(store / "features.zarr"), mode="r+").create_group(teacher)
    stored = features.spec.get("stored_dtype", "float16")
    dtypes = {"image": stored, "text": stored, "similarity": "float32", "status": "uint8"}
    arrays = {}
    for name in array_names(features.spec):
        dtype = dtypes[name]
        tail = (features.spec["embed_dim"],) if name in ("image", "text") else ()
        arrays[name] = group.create_array(
            name,
            shape=(info["rows"], *tail),
            shards=(info["range_rows"], *tail),
            chunks=(info["chunk_rows"], *tail),
            dtype=dtype,
            compressors=None,
            fill_value=0,
            config={"write_empty_chunks": True},
        )
    return arrays


def commit(
    store: Path,
    teacher: str,
    k: int,
    features: Features,
    *,
    arrays: dict[str, zarr.Array],
    pairs: list[dict[str, Any]],
    info: dict[str, Any],
) -> None:
    """Chapters Commit and Receipts; the store is nobody else's and nothing is committed there yet."""
    start, stop = bounds(info, k)
    rows, status = slice(start, stop), features.status[start:stop]
    ok = status == OK
    as_stored = to_int8 if features.spec.get("stored_dtype") == "int8" else np.asarray
    image = np.where(ok[:, None], features.image[rows], np.float32(0))
    arrays["image"][rows] = as_stored(image)
    if features.text is not None:
        text = np.where(ok[:, None], features.text[rows], np.float32(0))
        arrays["text"][rows], arrays["similarity"][rows] = as_stored(text), (image * text).sum(axis=1)
    arrays["status"][rows] = status
    data = {key: (store / key).read_bytes() for key in shard_keys(features.spec, k).values()}
    receipt = {
        "version": 2,
        "teacher": teacher,
        "range": k,
        "start": start,
        "stop": stop,
        "spec_hash": spec_hash(features.spec),
        "pairs_digest": pairs_digest(pairs[rows]),
        "objects": {key: stored_object(key, found, arrays, rows=stop - start) for key, found in data.items()},
        "status_counts": status_counts(status),
        "bad_rows": [
            {"row": row, "key": pairs[row]["key"], "status": int(features.status[row]), "reason": features.reasons[row]}
            for row in range(start, stop)
            if features.status[row] not in (OK, NOT_APPLICABLE)
        ],
        "timings_s": {"all": 0.25},
        "versions": {"zarr": zarr.__version__},
        "device": "cpu",
        "batch_size": 1,
        "run_id": "by-the-book",
        "attempt": 1,
        "finished": "2026-11-23T12:00:00+00:00",
    }
    write_json(store / f"receipts/{teacher}/r{k:06d}.json", receipt)


def stored_object(key: str, data: bytes, arrays: dict[str, zarr.Array], *, rows: int) -> dict[str, Any]:
    """Chapter Receipts."""
    found = {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "crc32c": crc32c(data)}
    array = arrays[key.split("/")[2]]
    if array.ndim == 1:
        return found
    nbytes = math.prod(array.chunks) * array.dtype.itemsize
    chunks = -(-rows // array.chunks[0])
    return found | {"chunk_crc32c": [crc32c(data[place * nbytes : (place + 1) * nbytes]) for place in range(chunks)]}


def crc32c(data: bytes) -> str:
    """Chapter Receipts."""
    return f"{google_crc32c.value(data):08x}"


def status_counts(status: np.ndarray) -> dict[str, int]:
    return {STATUS_NAMES[code]: int((status == code).sum()) for code in np.unique(status)}


@dataclass
class Read:
    """One teacher's features as a reader sees them: uncommitted rows are missing and zero."""

    spec: dict[str, Any]
    receipts: list[dict[str, Any]]
    image: np.ndarray
    status: np.ndarray
    text: np.ndarray | None = None
    similarity: np.ndarray | None = None


def read_info(store: Path) -> dict[str, Any]:
    """Chapter store.json."""
    info: dict[str, Any] = json.loads((store / "store.json").read_bytes())
    if info["version"] not in (1, 2):
        raise ValueError(f"store format version {info['version']}, this reads 1 and 2")
    return info


def read_pairs(store: Path) -> list[dict[str, Any]]:
    """Chapter Pair table."""
    count = len(read_info(store).get("parts", [])) or None
    parts = sorted((store / "pairs").glob("part-*.parquet"))[:count]
    rows: list[dict[str, Any]] = pa.concat_tables([pq.read_table(part) for part in parts]).to_pylist()
    return rows[: read_info(store)["rows"]]


def read_features(store: Path, teacher: str) -> Read:
    """Chapter Readers."""
    info, spec = read_info(store), json.loads((store / f"specs/{teacher}.json").read_bytes())
    receipts = [json.loads(path.read_bytes()) for path in sorted((store / f"receipts/{teacher}").glob("r*.json"))]
    receipts = [
        receipt for receipt in receipts if receipt["version"] in (1, 2) and receipt["spec_hash"] == spec_hash(spec)
    ]
    group = zarr.open_group(str(store / "features.zarr"), mode="r", zarr_format=3)[teacher]
    values = {}
    for name in array_names(spec):
        stored = group[name][...]
        stored = from_int8(stored) if stored.dtype == np.int8 else stored
        values[name] = np.zeros((info["rows"], *stored.shape[1:]), stored.dtype)
        for receipt in receipts:
            rows = slice(receipt["start"], receipt["stop"])
            values[name][rows] = stored[rows]
    return Read(spec=spec, receipts=receipts, **values)


def damage(store: Path, teacher: str) -> list[str]:
    """Return what of a teacher is not as its receipts say; chapters Receipts and Spec."""
    info, pairs, found = read_info(store), read_pairs(store), []
    read = read_features(store, teacher)
    arrays = dict(zarr.open_group(str(store / "features.zarr"), mode="r")[teacher].arrays())
    for receipt in read.receipts:
        k, rows = receipt["range"], slice(receipt["start"], receipt["stop"])
        if (receipt["teacher"], rows.start) != (teacher, bounds(info, k)[0]) or rows.stop > bounds(info, k)[1]:
            found.append(f"range {k}: the receipt is of other rows")
        if pairs_digest(pairs[rows]) != receipt["pairs_digest"]:
            found.append(f"range {k}: other pairs")
        if sorted(receipt["objects"]) != sorted(shard_keys(read.spec, k).values()):
            found.append(f"range {k}: other objects")
        for key, stored in receipt["objects"].items():
            data = (store / key).read_bytes()
            if (len(data), hashlib.sha256(data).hexdigest()) != (stored["nbytes"], stored["sha256"]):
                found.append(f"{key}: other bytes")
            if "crc32c" in stored and stored != stored_object(key, data, arrays, rows=rows.stop - rows.start):
                found.append(f"{key}: other checksums")
        if status_counts(read.status[rows]) != receipt["status_counts"]:
            found.append(f"range {k}: other counts")
    return found
