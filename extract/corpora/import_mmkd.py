"""Imports the feature cache that MMKD-CLIP's authors released: one folder per pair with ``.pt`` files of features.

The store gets their unprojected features (``clips_output.pt``) and not the projected ones, because here projections are
fitted and applied on the fly (``python -m train project``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from store.errors import CorpusError, StoreError, StoreNotFoundError
from store.files import sha256_file
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PAIR_SCHEMA, PairTable, check_keys
from store.format.promote import Guard
from store.format.records import Spec, Status, StoreInfo, read_store_info, require_present_format
from store.images.decode import image_size
from store.index.create import create_store, new_place
from store.index.merge import CorpusIndex
from store.io.location import Location, locate

log = logging.getLogger(__name__)

NAMES = ("BMCA", "BiomedCLIP", "UniMedCLIP", "QuiltNet", "GenMedClip", "PLIP", "PUBMEDCLIP", "PMCCLIP", "MedCLIP")
TEACHER_IDS = {name: name.lower() for name in NAMES}
"""Our names of the teachers, by the authors' names."""

NORM_TOLERANCE = 1e-3
"""The released features have unit norm in float32; a larger deviation means another kind of file."""

Features = dict[str, npt.NDArray[np.float32]]


def import_mmkd(
    source: Path,
    store: str | os.PathLike[str],
    *,
    range_rows: int,
    chunk_rows: int,
) -> StoreInfo:
    """Make a store of a released cache, without images of its own.

    Args:
        source: the folder with ``meta.jsonl`` and ``features/``.
        store: a folder or URL without a store, or with one that an interrupted import began.

    Raises:
        CorpusError: the cache does not have the released layout.
        StoreError: the place holds another store.
    """
    location = locate(store)
    entries = read_meta(source)
    signature = {"imported_from": source.name, "meta_sha256": sha256_file(source / "meta.jsonl")}
    features = [read_features(source / entry["imgpath"]) for entry in entries]
    rows = [_row(source, entry, row) for row, entry in enumerate(entries)]
    check_keys([row["key"] for row in rows])
    table = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
    # Everything is read and checked before the store is made.
    units = {
        name: _teacher_features(name, entries=entries, features=features)
        for name in TEACHER_IDS
        if any(f"{name}_img" in found for found in features)
    }
    with new_place(location) as held:
        index = CorpusIndex(table=table, root=source.resolve())
        shape = {"range_rows": range_rows, "chunk_rows": chunk_rows}
        info = _begin(location, index, signature=signature, shape=shape, guard=held.check)
        for name, unit in units.items():
            _import_teacher(location, info, name, unit, guard=held.check)
    return info


def _begin(
    location: Location, index: CorpusIndex, *, signature: dict[str, str], shape: dict[str, int], guard: Guard
) -> StoreInfo:
    """Make the store, or return the one that an earlier import of the same cache began."""
    try:
        info = read_store_info(location)
    except StoreNotFoundError:
        return create_store(location, index, signature=signature, **shape, guard=guard)
    if info.corpus != signature:
        raise StoreError(f"{location}: there is a store of other pairs already", hint="import into a new folder")
    require_present_format(location, info)
    return info


def read_meta(source: Path) -> list[dict[str, Any]]:
    """Return the checked entries of a cache's ``meta.jsonl``.

    Raises:
        CorpusError: the cache does not have the released layout.
    """
    try:
        lines = (source / "meta.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError as error:
        raise CorpusError(f"{source}: no meta.jsonl; not a released MMKD-CLIP cache") from error
    except ValueError as error:
        raise CorpusError(f"{source / 'meta.jsonl'}: not JSON lines: {error}") from error
    wanted = {"id", "imgpath", "txt", "available_clips"}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise CorpusError(f"{source / 'meta.jsonl'}:{number}: expected an object, got {json.dumps(entry)[:80]}")
        if not wanted <= set(entry):
            raise CorpusError(f"{source / 'meta.jsonl'}:{number}: lacks {', '.join(sorted(wanted - set(entry)))}")
        for key in ("id", "imgpath", "txt"):
            if not isinstance(entry[key], str):
                found = json.dumps(entry[key])[:80]
                raise CorpusError(f"{source / 'meta.jsonl'}:{number}: {key}: expected text, got {found}")
        unknown = set(entry["available_clips"]) - set(TEACHER_IDS)
        if unknown:
            raise CorpusError(f"{source / 'meta.jsonl'}:{number}: unknown teachers {', '.join(sorted(unknown))}")
    if not entries:
        raise CorpusError(f"{source / 'meta.jsonl'}: holds no pair")
    return entries


def read_features(image: Path) -> Features:
    """Return the unprojected features of an image and its caption, by the authors' names.

    Raises:
        CorpusError: the file is missing or holds something else.
    """
    path = image.parent / "clips_output.pt"
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: missing") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CorpusError(f"{path}: not a file of tensors: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise CorpusError(f"{path}: expected tensors by name, got {type(loaded).__name__}")
    return {name: tensor.float().numpy().reshape(-1) for name, tensor in loaded.items()}


def _row(source: Path, entry: dict[str, Any], row: int) -> dict[str, Any]:
    image = source / entry["imgpath"]
    if not image.is_file():
        raise CorpusError(f"{image}: the image is missing")
    data = image.read_bytes()
    width, height = image_size(data) or (None, None)
    article = json.loads((source / entry["metapath"]).read_text()) if entry.get("metapath") else {}
    return {
        "row": row,
        "key": entry["id"],
        "uri": entry["imgpath"],
        "member": None,
        "caption": entry["txt"].strip(),
        "modality": None,
        "split": "train",
        "image_sha256": hashlib.sha256(data).hexdigest(),
        "width": width,
        "height": height,
        "source": article.get("article_accession_id"),
        "license": article.get("article_license"),
    }


def _teacher_features(name: str, *, entries: list[dict[str, Any]], features: list[Features]) -> UnitFeatures:
    """Return a teacher's checked features of all pairs."""
    rows, width = len(entries), next(len(found[f"{name}_img"]) for found in features if f"{name}_img" in found)
    image_ND, text_ND = np.zeros((rows, width), np.float32), np.zeros((rows, width), np.float32)
    status_N = np.full(rows, Status.NOT_APPLICABLE, np.uint8)
    for row, (entry, found) in enumerate(zip(entries, features, strict=True)):
        if name in entry["available_clips"]:
            image_ND[row] = _checked(found, f"{name}_img", width, entry["id"])
            text_ND[row] = _checked(found, f"{name}_txt", width, entry["id"])
            status_N[row] = Status.OK
    return UnitFeatures(image=image_ND, text=text_ND, status=status_N, reasons={})


def _import_teacher(location: Location, info: StoreInfo, name: str, features: UnitFeatures, *, guard: Guard) -> None:
    spec = Spec(
        teacher=TEACHER_IDS[name],
        embed_dim=features.image.shape[1],
        weights_sha256=None,
        architecture={"released_as": name},
        preprocessing={"unknown": "the release does not say"},
        tokenizer={"unknown": "the release does not say"},
        output="MMKD-CLIP's released clips_output.pt, L2-normalised",
        compute_dtype="float32",
    )
    register_teacher(location, spec, info=info)
    circumstances = Circumstances(
        device="import", batch_size=1, run_id=f"import-{secrets.token_hex(3)}", attempt=1, timings_s={}, versions={}
    )
    pairs, sides = PairTable(location, info), features.of(spec)
    for range_id in range(info.ranges):
        part = slice(*info.bounds(range_id))
        commit_unit(
            location,
            info=info,
            spec=spec,
            range_id=range_id,
            pairs=pairs.read(part.start, part.stop),
            features=UnitFeatures(
                image=sides["image"][part], text=sides["text"][part], status=features.status[part], reasons={}
            ),
            circumstances=circumstances,
            guard=guard,
        )


def _checked(found: Features, name: str, width: int, key: str) -> npt.NDArray[np.float32]:
    if name not in found:
        raise CorpusError(f"pair {key}: available_clips promises {name}, clips_output.pt does not hold it")
    feature = found[name]
    norm = float(np.linalg.norm(feature))
    if len(feature) != width or abs(norm - 1) > NORM_TOLERANCE:
        raise CorpusError(f"pair {key}: {name} has width {len(feature)} and norm {norm:.4f}, expected {width} and 1")
    return feature
