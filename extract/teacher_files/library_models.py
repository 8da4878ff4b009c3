"""Reads what the files of a model of transformers or timm say about it, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import TeacherError
from store.format.records import SIDES, Side

from .entry import TeacherEntry
from .geometry import Geometry, Preprocessing
from .preprocessor import from_timm, from_transformers, required
from .text_tower import read_json, tokenizer_digest, tokenizer_folder

CONFIG_FILE = "config.json"

VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
"""Keys of a transformers configuration that change no feature."""

PROJECTED = "projected, L2-normalised"
OUTPUTS = {
    "pooler": "pooler_output, L2-normalised",
    "cls": "class token of the last layer, L2-normalised",
    "mean": "mean of the last layer's patch tokens, L2-normalised",
}
"""A spec's ``output`` for each ``feature`` of an entry."""

VISION_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "swin", "swinv2")
"""Model types of transformers that are image-only teachers."""

WITHOUT_CLASS_TOKEN = ("swin", "swinv2")

ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", *WITHOUT_CLASS_TOKEN)
"""Types that take images of another size than they were configured for."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Described:
    """A model as its files describe it.

    Attributes:
        embed_dim: width of its features, None where no file says it.
    """

    architecture: dict[str, Any]
    preprocessing: Preprocessing
    tokenizer: dict[str, Any]
    embed_dim: int | None
    sides: tuple[Side, ...] = SIDES
    output: str = PROJECTED


def of_transformers(name: str, entry: TeacherEntry) -> Described:
    """Return what the files of a model of transformers say.

    Raises:
        TeacherError: its type is not read, or its preprocessing cannot be honoured.
    """
    folder = Path(entry.folder)
    config = read_json(folder / CONFIG_FILE)
    kind = config.get("model_type")
    if quantised := config.get("quantization_config"):
        raise TeacherError(
            f"teacher {name}: {folder / CONFIG_FILE}: weights that are quantised ({quantised}), which are not read",
            hint="take the model's own weights, in float32, bfloat16 or float16",
        )
    if kind == "clip":
        return _clip(name, entry, config)
    if kind == "siglip":
        return _siglip(name, entry, config)
    if kind not in VISION_TYPES:
        what = "SigLIP2 with patches of any number (NaFlex)" if kind == "siglip2" else f"model_type {kind!r}"
        raise TeacherError(
            f"teacher {name}: {folder / CONFIG_FILE} is of {what}, which is not read",
            hint=f"types that are: clip, siglip (SigLIP2 of a fixed size too), {', '.join(VISION_TYPES)}",
        )
    return _vision(name, entry, config)


def _clip(name: str, entry: TeacherEntry, config: dict[str, Any]) -> Described:
    vision = _tower(config, "vision")
    size = vision.get("image_size", 224)
    # Without a file the defaults of CLIPImageProcessor hold.
    own = from_transformers(name, Path(entry.folder)) or Preprocessing(
        geometry=Geometry(size_px=size, resize_mode="shortest_floor_crop")
    )
    _check_size(name, entry, own, size)
    tokenizer = tokenizer_of(entry, _tower(config, "text").get("max_position_embeddings", 77))
    return Described(
        architecture=_architecture(config),
        preprocessing=own,
        tokenizer=tokenizer,
        embed_dim=config.get("projection_dim", 512),
        output=_only_projected(name, entry),
    )


def _siglip(name: str, entry: TeacherEntry, config: dict[str, Any]) -> Described:
    folder, vision, text = Path(entry.folder), _tower(config, "vision"), _tower(config, "text")
    own = required(name, folder, from_transformers(name, folder))
    _check_size(name, entry, own, vision.get("image_size", 224))
    settings = folder / "tokenizer_config.json"
    lower = read_json(settings).get("do_lower_case", True) if settings.is_file() else True
    return Described(
        architecture=_architecture(config),
        preprocessing=own,
        tokenizer=tokenizer_of(entry, text.get("max_position_embeddings", 64)) | {"lower_case": bool(lower)},
        embed_dim=vision.get("hidden_size", 768),
        output=_only_projected(name, entry),
    )


def _vision(name: str, entry: TeacherEntry, config: dict[str, Any]) -> Described:
    folder, kind, feature = Path(entry.folder), config["model_type"], entry.feature or "pooler"
    if feature == "cls" and kind in WITHOUT_CLASS_TOKEN:
        raise TeacherError(
            f"teacher {name}: a model of type {kind} has no class token", hint="leave feature out, or state mean"
        )
    own = required(name, folder, from_transformers(name, folder))
    if kind not in ANY_SIZE:
        _check_size(name, entry, own, config.get("image_size", 224))
    width = (config.get("pooler_output_size") if feature == "pooler" else None) or config.get("hidden_size")
    if kind in WITHOUT_CLASS_TOKEN:
        # Each stage but the first doubles the width (transformers: SwinConfig.hidden_size).
        width = config.get("embed_dim", 96) * 2 ** (len(config.get("depths", (2, 2, 6, 2))) - 1)
    return Described(
        architecture=_architecture(config),
        preprocessing=own,
        tokenizer={},
        embed_dim=width,
        sides=("image",),
        output=OUTPUTS[feature],
    )


def _only_projected(name: str, entry: TeacherEntry) -> str:
    if entry.feature:
        raise TeacherError(
            f"teacher {name}: feature: {entry.feature} says nothing about a model of two towers, which has one output",
            hint=f"leave teachers.{name}.feature out",
        )
    return PROJECTED


def _tower(config: dict[str, Any], side: str) -> dict[str, Any]:
    # Old configurations write out each tower's settings with every default of their version.
    return {**(config.get(f"{side}_config") or {}), **(config.get(f"{side}_config_dict") or {})}


def _architecture(config: dict[str, Any]) -> dict[str, Any]:
    return {"family": config["model_type"], "config": {key: config[key] for key in config if key not in VOLATILE}}


def tokenizer_of(entry: TeacherEntry, context_length: int) -> dict[str, Any]:
    """Return what a spec says about a tokenizer of transformers."""
    digest = tokenizer_digest(tokenizer_folder(Path(entry.folder)))
    return {"kind": "transformers", "files_sha256": digest, "context_length": context_length}


def _check_size(name: str, entry: TeacherEntry, own: Preprocessing, size: int) -> None:
    if own.geometry.size_px != size:
        raise TeacherError(
            f"teacher {name}: {entry.folder}: the model takes images of {size} px, its preprocessing makes "
            f"{own.geometry.size_px} px",
            hint="the two files are of different models; fetch them again",
        )


def of_timm(name: str, entry: TeacherEntry) -> Described:
    """Return what the ``config.json`` of a model of timm says.

    Raises:
        TeacherError: it is not timm's, or its preprocessing cannot be honoured.
    """
    path = Path(entry.folder) / CONFIG_FILE
    config = read_json(path)
    if not isinstance(config.get("architecture"), str):
        raise TeacherError(
            f"teacher {name}: {path}: no configuration of timm's: it names no architecture",
            hint="timm's repositories have one; transformers: is the address of a model of transformers",
        )
    # Old files have no pretrained_cfg of its own (timm: _hub.py).
    stated = config.get("pretrained_cfg") or config
    args = dict(config.get("model_args") or {}) | (entry.config or {})
    preprocessing = from_timm(name, path, stated)
    size, side = preprocessing.geometry.size_px, args.get("img_size")
    if side not in (None, size, [size, size]):
        raise TeacherError(
            f"teacher {name}: img_size {side}, but its preprocessing makes images of {size} px",
            hint=f"leave img_size out of teachers.{name}.config",
        )
    return Described(
        architecture={
            "family": "timm",
            "architecture": config["architecture"],
            "args": args,
            "fixed_input_size": bool(stated.get("fixed_input_size")),
        },
        preprocessing=preprocessing,
        tokenizer={},
        # timm's num_features is the width before the pooling, which some heads widen: what the entry states goes first,
        # and the model's own width is compared with it when it is loaded.
        embed_dim=entry.embed_dim or config.get("num_features") or stated.get("num_features"),
        sides=("image",),
        output="pooled features before the classifier, L2-normalised",
    )
