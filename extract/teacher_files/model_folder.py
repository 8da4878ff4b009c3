"""Reads an open_clip model's configuration, from a folder or from the entry.

Nothing here imports torch: planning a run reads specs and must answer in seconds.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from store.errors import ConfigError, TeacherError, WeightsNotFoundError

from .address import architecture_file
from .entry import TeacherEntry
from .weights import CONVERTED_NAME, NAMES, SAFETENSORS_NAME, Weights

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = SAFETENSORS_NAME

NUMBERS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
"""NumPy's types by safetensors' names."""

OLD_TEXT_KEYS = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
"""Former names of these settings in open_clip up to 2.20 and in older revisions of BiomedCLIP's configuration."""


def read_model_folder(path: Path) -> dict[str, Any]:
    """Return the ``open_clip_config.json`` of a folder that also holds weights.

    Raises:
        WeightsNotFoundError: one of them is missing. open_clip alone would warn and go on with random weights.
        TeacherError: the configuration is not open_clip's.
    """
    names = (CONVERTED_NAME, *(name for option in NAMES["open_clip"] for name in option))
    missing = [CONFIG_NAME] if not (path / CONFIG_NAME).is_file() else []
    missing += [WEIGHTS_NAME] if not any((path / name).is_file() for name in names) else []
    if missing:
        raise WeightsNotFoundError(
            f"{path}: not a model folder: {' and '.join(missing)} missing",
            hint=f"put the model's {CONFIG_NAME}, {WEIGHTS_NAME} and tokenizer files there, or correct the folder",
        )
    try:
        config: dict[str, Any] = json.loads((path / CONFIG_NAME).read_text())
        config["model_cfg"]["embed_dim"], config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise TeacherError(
            f"{path / CONFIG_NAME}: not an open_clip configuration: {type(error).__name__}: {error}",
            hint="it holds model_cfg with embed_dim, vision_cfg and text_cfg, and preprocess_cfg",
        ) from error
    return config


def open_clip_config(name: str, entry: TeacherEntry) -> dict[str, Any]:
    """Return the configuration of an open_clip model: ``model_cfg`` and perhaps ``preprocess_cfg``.

    Raises:
        WeightsNotFoundError: the folder lacks it.
        TeacherError: it is not open_clip's, or has another width than the entry.
    """
    if entry.family == "open_clip":
        config = read_model_folder(Path(entry.folder))
        where = entry.folder
    else:
        model = copy.deepcopy(entry.config) if entry.config else built_in_architecture(name, entry.architecture or "")
        config = {"model_cfg": model}
        where = entry.architecture or "its config"
    model = config["model_cfg"]
    if entry.embed_dim not in (None, model.get("embed_dim")):
        raise TeacherError(
            f"teacher {name}: {where} has embed_dim {model.get('embed_dim')}, the pipeline says {entry.embed_dim}",
            hint=f"another model lies in that folder, or teachers.{name}.embed_dim is wrong",
        )
    if entry.quick_gelu is not None:
        model["quick_gelu"] = entry.quick_gelu
    if "hf_model_name" in model.get("text_cfg", {}):
        model["text_cfg"] = {OLD_TEXT_KEYS.get(key, key): value for key, value in model["text_cfg"].items()}
    return config


def built_in_architecture(name: str, architecture: str) -> dict[str, Any]:
    """Return the ``model_cfg`` of one of open_clip's named architectures.

    Raises:
        ConfigError: open_clip has none of that name.
    """
    path = architecture_file(architecture)
    if path is not None:
        model: dict[str, Any] = json.loads(path.read_text())
        return model
    raise ConfigError(
        f"teachers.{name}.architecture: open_clip has no model {architecture!r}",
        hint="its names are those of its model_configs folder, such as ViT-B-32; or give a model_cfg as config",
    )


def _one_number(path: Path, name: str) -> float:
    """Return a tensor of one number of a valid safetensors file; NumPy has no bfloat16, in which many are."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        stated = json.loads(file.read(length))[name]
        begin, end = stated["data_offsets"]
        file.seek(8 + length + begin)
        raw = file.read(end - begin)
    # The upper half of a float32 is the same number in bfloat16.
    raw, kind = (b"\0\0" + raw, "F32") if stated["dtype"] == "BF16" else (raw, stated["dtype"])
    return float(np.frombuffer(raw, NUMBERS[kind]).astype(np.float32).item())


def logit_notes(name: str, weights: Weights) -> dict[str, float]:
    """Return ``logit_scale``, the multiplier of a model's cosines, and ``logit_bias`` of a model with a sigmoid.

    Both are left out where they cannot be read without torch.

    Raises:
        TeacherError: the weights file is damaged or holds no logit scale.
    """
    path = weights.paths[0]
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="np") as tensors:
            names = set(tensors.keys())
        notes = {"logit_scale": float(np.exp(np.float32(_one_number(path, "logit_scale"))))}
        return notes | ({"logit_bias": _one_number(path, "logit_bias")} if "logit_bias" in names else {})
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise TeacherError(
            f"teacher {name}: {path}: not a readable safetensors file of a CLIP model: {error}",
            hint="it may be cut short or another file in disguise; move it away and fetch it again",
        ) from error
