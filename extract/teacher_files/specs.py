"""Makes a teacher's spec, everything that determines its features, from its entry and files, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from store.errors import ConfigError, TeacherError
from store.format.records import Spec, StoredDtype
from store.images.depth import POLICY, Window

from .entry import TeacherEntry
from .geometry import Geometry, Preprocessing
from .model_folder import CONFIG_NAME, logit_scale_note, open_clip_config
from .text_tower import CLINICALBERT, PUBMEDBERT, bert_sizes, read_json, tokenizer_digest, tokenizer_folder
from .weights import find_weights

BERT_CONTEXT = 77
"""PMC-CLIP and MedCLIP read so many tokens of a caption."""

COMPUTE_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

COMPILED = ", compiled"
"""Suffix of a ``compute_dtype`` below float32, where the compiler's fusions round less often and move features by 1e-3.
In float32 they move them by 1e-7, less than another device does, and the spec stays the same."""

PMC_VISION = {"layers": [3, 4, 6, 3], "width": 64, "image_size": 224}
"""Sizes of CLIP's ModifiedResNet-50 (PMC-CLIP: blocks.py, RN50_fusion4.json)."""

PMC_HEADS = 8
PMC_TEXT_FEATURE = "pooler"
"""The values of the authors' notebook, which others copied; their training code has 32 heads and the CLS token."""

MEDCLIP_MEAN, MEDCLIP_STD = 0.5862785803043838, 0.27950088968644304
"""Mean and std of grey values in [0, 1] (MedCLIP: constants.py)."""

VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
"""Keys of a transformers configuration that change no feature."""


def teacher_spec(
    name: str, entry: TeacherEntry, *, stored_dtype: StoredDtype = "float16", window: Window | None = None
) -> Spec:
    """Return the spec of a teacher from its entry and its files.

    Args:
        window: the pipeline's ``image.window``.

    Raises:
        TeacherError: the files cannot be loaded, or have another width than the entry.
    """
    if entry.family != "open_clip":
        find_weights(name, entry)  # first, because its message says what to fetch
    architecture, own, tokenizer = _parts(name, entry)
    try:
        preprocessing = own.replaced(entry.preprocess)
    except ValidationError as error:
        raise ConfigError(f"teachers.{name}.preprocess: {error.errors()[0]['msg']}") from None
    weights = find_weights(name, entry)
    scale = None if entry.family == "pmc_clip" else logit_scale_note(name, weights)
    precision = entry.precision or "fp32"
    notes = {"logit_scale": scale, "source": entry.origin, "licence": entry.licence, "pixel_policy": POLICY}
    return Spec(
        teacher=name,
        embed_dim=entry.embed_dim,
        weights_sha256=weights.digest(),
        architecture=architecture,
        preprocessing=preprocessing.model_copy(update={"window": window}).model_dump(mode="json"),
        tokenizer=tokenizer,
        output="projected, L2-normalised",
        compute_dtype=COMPUTE_DTYPES[precision] + (COMPILED if entry.compile and precision != "fp32" else ""),
        stored_dtype=stored_dtype,
        notes=notes,
    )


Parts = tuple[dict[str, Any], Preprocessing, dict[str, Any]]


def _parts(name: str, entry: TeacherEntry) -> Parts:
    if entry.family == "clip":
        return _clip(name, entry)
    if entry.family == "pmc_clip":
        return _pmc_clip(entry)
    if entry.family == "medclip":
        return _medclip(entry)
    return _open_clip(name, entry)


def _open_clip(name: str, entry: TeacherEntry) -> Parts:
    config = open_clip_config(name, entry)
    try:
        preprocessing = Preprocessing.from_open_clip(config)
    except ValidationError as error:
        raise TeacherError(
            f"teacher {name}: {Path(entry.folder) / CONFIG_NAME}: a preprocessing that is not supported: {error}",
            hint="expected a square image_size, three means and stds, and bicubic or bilinear interpolation",
        ) from error
    text = config["model_cfg"]["text_cfg"]
    context_length = text.get("context_length", 77)
    if text.get("hf_tokenizer_name"):
        tokenizer = _bert_tokenizer(entry, context_length)
    else:
        tokenizer = {"kind": "open_clip SimpleTokenizer", "context_length": context_length}
    return _portable(config["model_cfg"]), preprocessing, tokenizer


def _bert_tokenizer(entry: TeacherEntry, context_length: int) -> dict[str, Any]:
    digest = tokenizer_digest(tokenizer_folder(Path(entry.folder)))
    return {"kind": "transformers", "files_sha256": digest, "context_length": context_length}


def _portable(model: dict[str, Any]) -> dict[str, Any]:
    # The path of a text tower's configuration differs between machines; the tower does not.
    text = dict(model["text_cfg"])
    if str(text.get("hf_model_name", "")).startswith("/"):
        text["hf_model_name"] = Path(text["hf_model_name"]).name
    return {**model, "text_cfg": text}


def _clip(name: str, entry: TeacherEntry) -> Parts:
    path = Path(entry.folder) / "config.json"
    config = read_json(path)
    if config.get("model_type") != "clip" or config.get("projection_dim", 512) != entry.embed_dim:
        raise TeacherError(
            f"teacher {name}: {path} is of model_type {config.get('model_type')!r} with projection_dim "
            f"{config.get('projection_dim', 512)}, expected 'clip' with {entry.embed_dim}",
            hint=f"another model lies in that folder, or teachers.{name}.embed_dim is wrong",
        )
    # Old configurations write out each tower's settings with every default of their version.
    vision = {**(config.get("vision_config") or {}), **(config.get("vision_config_dict") or {})}
    architecture = {"family": "clip", "config": {key: config[key] for key in config if key not in VOLATILE}}
    geometry = Geometry(size_px=vision.get("image_size", 224), resize_mode="shortest_floor_crop")
    return architecture, Preprocessing(geometry=geometry), _bert_tokenizer(entry, 77)


def _pmc_clip(entry: TeacherEntry) -> Parts:
    vision = PMC_VISION | (entry.config or {})
    architecture = {
        "family": "pmc_clip",
        "vision": vision,
        "heads": entry.heads or PMC_HEADS,
        "text": bert_sizes(Path(entry.folder), PUBMEDBERT),
        "text_feature": entry.text_feature or PMC_TEXT_FEATURE,
    }
    # Left out where they are the default, so that specs of before these choices stay the same.
    architecture |= {"batch_norm": entry.batch_norm} if entry.batch_norm == "per_image" else {}
    architecture |= {"text_mask": True} if entry.text_mask else {}
    geometry = Geometry(size_px=vision["image_size"])
    return architecture, Preprocessing(geometry=geometry), _bert_tokenizer(entry, BERT_CONTEXT)


def _medclip(entry: TeacherEntry) -> Parts:
    vision = {"image_size": 224} | (entry.config or {})
    architecture = {
        "family": "medclip",
        "vision": {"tower": entry.vision or "swin", **vision},
        "text": bert_sizes(Path(entry.folder), CLINICALBERT),
        "text_feature": "mean of layers 1, 2 and last over the caption's own tokens",
    }
    preprocessing = Preprocessing(
        geometry=Geometry(size_px=vision["image_size"], resize_mode="pad_square_grey"),
        mean=(MEDCLIP_MEAN,) * 3,
        std=(MEDCLIP_STD,) * 3,
    )
    return architecture, preprocessing, _bert_tokenizer(entry, BERT_CONTEXT) | {"lower_case": True}
