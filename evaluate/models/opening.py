"""Opens models by their address: files, role and digest first, weights last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluate.results.record import ModelFacts, Role
from extract.teacher_files.address import architecture_file, published
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.model_folder import read_model_folder
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from store.config.problems import suggest
from store.errors import ConfigError, WeightsNotFoundError
from store.images.depth import Window
from store.read.reader import FeatureStore
from train.runtime.origin import read_origin
from train.runtime.run_folder import RECORD

from .addresses import Address
from .encoders import Encoder, ModelEncoder, StoreEncoder


def facts_of(address: Address, *, teachers: Mapping[str, TeacherEntry], window: Window | None = None) -> ModelFacts:
    """Return name, role, digest and sides of a model. Its files are read for the digest, but not loaded.

    Raises:
        MMKDError: it is missing, or not a model.
    """
    if address.kind == "store":
        store, teacher = FeatureStore(address.place), str(address.teacher)
        # The digest includes which rows have features: they decide what can be evaluated.
        spec = store.spec(teacher)
        parts = [spec.hash, sorted(receipt.pairs_digest for receipt in store.receipts(teacher).values())]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return ModelFacts(name=address.name, address=address.text, role="teacher", digest=digest, sides=spec.sides)
    spec = teacher_spec(address.name, entry_of(address, teachers=teachers), window=window)
    role, own = _origin(address)
    return ModelFacts(
        name=address.name, address=address.text, role=role, digest=spec.hash, sides=spec.sides, teachers=own
    )


def open_encoder(
    address: Address,
    facts: ModelFacts,
    *,
    teachers: Mapping[str, TeacherEntry],
    batch_size: int,
    threads: int,
    max_pixels: int,
    device: str,
    window: Window | None = None,
) -> Encoder:
    """Load a model, or open a store; raise MMKDError if that cannot be done."""
    if address.kind == "store":
        return StoreEncoder(FeatureStore(address.place), str(address.teacher), facts)
    entry = entry_of(address, teachers=teachers)
    model = load_teacher(teacher_spec(address.name, entry, window=window), entry, device=device)
    return ModelEncoder(model, facts, batch_size=batch_size, threads=threads, max_pixels=max_pixels)


def entry_of(address: Address, *, teachers: Mapping[str, TeacherEntry]) -> TeacherEntry:
    """Return the entry by which a model is loaded; students are loaded by the same code as teachers.

    Raises:
        ConfigError: there is no such teacher, model or tag.
        WeightsNotFoundError: its files are not on this machine.
    """
    if address.kind == "teacher":
        if address.place not in teachers:
            known = f"; the pipeline has {', '.join(teachers)}" if teachers else ""
            raise ConfigError(
                f"no teacher {address.place!r}{suggest(address.place, teachers) or known}",
                hint="--pipeline NAME says whose teachers are meant",
            )
        return teachers[address.place]
    if address.kind == "open_clip":
        return _known_to_open_clip(address)
    folder = Path(address.place)
    if address.kind == "checkpoint" and not (folder / RECORD).is_file():
        raise WeightsNotFoundError(
            f"{folder}: not the folder of a complete training run: it has no {RECORD}",
            hint="train it to its end, or give another model folder as local-dir:DIR",
        )
    width = read_model_folder(folder)["model_cfg"]["embed_dim"]
    return TeacherEntry(folder=str(folder), embed_dim=width)


def _origin(address: Address) -> tuple[Role, tuple[str, ...]]:
    if address.kind == "teacher":
        return "teacher", ()
    if address.kind not in {"checkpoint", "local-dir"}:
        return "other", ()
    found = read_origin(Path(address.place), of_run=address.kind == "checkpoint")
    return (found.role, found.teachers) if found else ("other", ())


def _known_to_open_clip(address: Address) -> TeacherEntry:
    import open_clip

    architecture, _, tag = address.place.partition("/")
    if architecture_file(architecture) is None:
        names = open_clip.list_models()
        raise ConfigError(f"open_clip has no model {architecture!r}{suggest(architecture, names)}")
    # The same reading of a tag as a teacher's address has.
    stated = published(architecture, tag)
    file = Path(_downloaded(open_clip.get_pretrained_cfg(architecture, tag), address))
    return TeacherEntry.model_validate(stated | {"folder": str(file.parent), "checkpoint": file.name})


def _downloaded(stated: dict[str, Any], address: Address) -> str:
    import open_clip

    try:
        return str(open_clip.download_pretrained(stated))
    except Exception as error:
        # The hub's client raises errors of many kinds where it cannot be reached.
        origin = stated.get("hf_hub") or stated.get("url")
        raise WeightsNotFoundError(
            f"{address.text}: the weights are not on this machine, and could not be fetched from {origin}: {error}",
            hint="run it once where the network is, or put the files into the hub's cache folder (HF_HOME)",
        ) from error
