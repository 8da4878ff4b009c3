"""An open_clip model folder on disk: what makes it loadable, and the spec that follows from its files.

Nothing here imports torch: planning a run reads specs and must answer in seconds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from store.errors import TeacherError, WeightsNotFoundError
from store.files import sha256_file
from store.records import Spec, StoredDtype

from .config import TeacherEntry
from .geometry import Preprocessing

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


@dataclass(kw_only=True, frozen=True, slots=True)
class ModelFolder:
    """A folder that open_clip can load.

    Attributes:
        path: the folder.
        config: its ``open_clip_config.json``.
        weights: its weights file.
    """

    path: Path
    config: dict[str, Any]
    weights: Path


def read_model_folder(path: Path) -> ModelFolder:
    """Check that a folder holds a configuration and weights.

    Raises:
        WeightsNotFoundError: one of them is missing. open_clip alone would warn and go on with random weights.
        TeacherError: the configuration is not open_clip's.
    """
    weights = path / WEIGHTS_NAME
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (path / name).is_file()]
    if missing:
        raise WeightsNotFoundError(
            f"{path}: not a model folder: {' and '.join(missing)} missing",
            hint=f"put the model's {CONFIG_NAME}, {WEIGHTS_NAME} and tokenizer files there, or correct the folder",
        )
    try:
        config = json.loads((path / CONFIG_NAME).read_text())
        config["model_cfg"]["embed_dim"], config["model_cfg"]["vision_cfg"], config["model_cfg"]["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise TeacherError(
            f"{path / CONFIG_NAME}: not an open_clip configuration: {type(error).__name__}: {error}",
            hint="it holds model_cfg with embed_dim, vision_cfg and text_cfg, and preprocess_cfg",
        ) from error
    return ModelFolder(path=path, config=config, weights=weights)


def logit_scale(folder: ModelFolder) -> float:
    """Return the multiplier of the model's cosines, exponentiated.

    Raises:
        TeacherError: the weights file is damaged or holds no logit scale.
    """
    try:
        with safe_open(folder.weights, framework="np") as weights:
            return float(np.exp(weights.get_tensor("logit_scale")))
    except (SafetensorError, OSError) as error:
        raise TeacherError(
            f"{folder.weights}: not a readable safetensors file of a CLIP model: {error}",
            hint="it may be cut short or another file in disguise; fetch it again",
        ) from error


def teacher_spec(name: str, entry: TeacherEntry, *, stored_dtype: StoredDtype = "float16") -> Spec:
    """Return the spec of a teacher from the files of its folder.

    Args:
        name: the teacher's id.
        entry: its entry in the pipeline.
        stored_dtype: what its features are stored as.

    Raises:
        TeacherError: the folder is not loadable, or its width is not what the entry says.
    """
    folder = read_model_folder(Path(entry.folder))
    model = folder.config["model_cfg"]
    if model["embed_dim"] != entry.embed_dim:
        raise TeacherError(
            f"teacher {name}: {folder.path} has embed_dim {model['embed_dim']}, the pipeline says {entry.embed_dim}",
            hint=f"another model lies in that folder, or teachers.{name}.embed_dim is wrong",
        )
    return Spec(
        teacher=name,
        embed_dim=entry.embed_dim,
        weights_sha256=sha256_file(folder.weights),
        architecture=_portable(model),
        preprocessing=_preprocessing(folder),
        tokenizer=_tokenizer(folder),
        output="projected, L2-normalised",
        compute_dtype="float32",
        stored_dtype=stored_dtype,
        notes={
            "folder": str(folder.path),
            "logit_scale": logit_scale(folder),
            "source": entry.source,
            "licence": entry.licence,
        },
    )


def _preprocessing(folder: ModelFolder) -> dict[str, Any]:
    try:
        return Preprocessing.from_open_clip(folder.config).model_dump(mode="json")
    except ValidationError as error:
        raise TeacherError(
            f"{folder.path / CONFIG_NAME}: a preprocessing that is not supported: {error}",
            hint="expected a square image_size, three means and stds, and bicubic or bilinear interpolation",
        ) from error


def _portable(model: dict[str, Any]) -> dict[str, Any]:
    # An absolute path of a text tower's configuration differs between machines, the tower does not.
    text = dict(model["text_cfg"])
    if str(text.get("hf_model_name", "")).startswith("/"):
        text["hf_model_name"] = Path(text["hf_model_name"]).name
    return {**model, "text_cfg": text}


def _tokenizer(folder: ModelFolder) -> dict[str, Any]:
    text = folder.config["model_cfg"]["text_cfg"]
    context_length = text.get("context_length", 77)
    if not text.get("hf_tokenizer_name"):
        return {"kind": "open_clip SimpleTokenizer", "context_length": context_length}
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (folder.path / name).is_file():
            digest.update(f"{name} {sha256_file(folder.path / name)}\n".encode())
    return {"kind": "transformers", "files_sha256": digest.hexdigest(), "context_length": context_length}
