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
from .library_models import Described, of_timm, of_transformers, tokenizer_of
from .model_folder import CONFIG_NAME, logit_notes, open_clip_config
from .text_tower import CLINICALBERT, PUBMEDBERT, bert_sizes
from .weights import find_weights

BERT_CONTEXT = 77
"""PMC-CLIP and MedCLIP read so many tokens of a caption."""

COMPUTE_DTYPES = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "float16"}

PMC_VISION = {"layers": [3, 4, 6, 3], "width": 64, "image_size": 224}
"""Sizes of CLIP's ModifiedResNet-50 (PMC-CLIP: blocks.py, RN50_fusion4.json)."""

PMC_HEADS = 8
PMC_TEXT_FEATURE = "pooler"
"""The values of the authors' notebook, which others copied; their training code has 32 heads and the CLS token."""

MEDCLIP_MEAN, MEDCLIP_STD = 0.5862785803043838, 0.27950088968644304
"""Mean and std of grey values in [0, 1] (MedCLIP: constants.py)."""


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
    try:
        described = _described(name, entry)
    except (TypeError, AttributeError, KeyError) as error:
        raise TeacherError(
            f"teacher {name}: the configuration in {entry.folder} is not of the form that its library writes: "
            f"{type(error).__name__}: {error}",
            hint="move it away and fetch it again",
        ) from error
    try:
        preprocessing = described.preprocessing.replaced(entry.preprocess)
    except ValidationError as error:
        raise ConfigError(f"teachers.{name}.preprocess: {error.errors()[0]['msg']}") from None
    weights = find_weights(name, entry)
    scale = logit_notes(name, weights) if "text" in described.sides and entry.family != "pmc_clip" else {}
    notes = {"logit_scale": None, **scale, "source": entry.origin, "licence": entry.licence, "pixel_policy": POLICY}
    return Spec(
        teacher=name,
        embed_dim=_width(name, entry, described),
        weights_sha256=weights.digest(),
        architecture=described.architecture,
        preprocessing=preprocessing.model_copy(update={"window": window}).model_dump(mode="json"),
        tokenizer=described.tokenizer,
        output=described.output,
        sides=described.sides,
        compute_dtype=_compute_dtype(entry),
        stored_dtype=stored_dtype,
        notes=notes,
    )


def _compute_dtype(entry: TeacherEntry) -> str:
    """Return the precision, with the order of operations below float32, where it moves features by up to 1e-3.

    In float32 it moves them by 1e-7, less than another device does, so that the spec stays the same.
    """
    precision = COMPUTE_DTYPES[entry.precision or "fp32"]
    if precision == "float32":
        return precision
    orders = {
        "compiled": entry.compile,
        "channels last": entry.channels_last,
        f"attention {entry.attention}": entry.attention,
    }
    return ", ".join([precision, *(order for order, chosen in orders.items() if chosen)])


def _described(name: str, entry: TeacherEntry) -> Described:
    if entry.family == "transformers":
        return of_transformers(name, entry)
    if entry.family == "timm":
        return of_timm(name, entry)
    if entry.family == "pmc_clip":
        return _pmc_clip(entry)
    if entry.family == "medclip":
        return _medclip(entry)
    return _open_clip(name, entry)


def _width(name: str, entry: TeacherEntry, described: Described) -> int:
    width = described.embed_dim or entry.embed_dim
    if width is None:
        raise TeacherError(
            f"teacher {name}: no file in {entry.folder} states the width of its features",
            hint=f"state teachers.{name}.embed_dim",
        )
    if entry.embed_dim not in (None, width):
        raise TeacherError(
            f"teacher {name}: {entry.folder} has features of {width} numbers, the pipeline says {entry.embed_dim}",
            hint=f"another model lies in that folder, or teachers.{name}.embed_dim is wrong; it may be left out",
        )
    return width


def _open_clip(name: str, entry: TeacherEntry) -> Described:
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
        tokenizer = tokenizer_of(entry, context_length)
    else:
        tokenizer = {"kind": "open_clip SimpleTokenizer", "context_length": context_length}
    return Described(
        architecture=_portable(config["model_cfg"]),
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        embed_dim=config["model_cfg"]["embed_dim"],
    )


def _portable(model: dict[str, Any]) -> dict[str, Any]:
    # The path of a text tower's configuration differs between machines; the tower does not.
    text = dict(model["text_cfg"])
    if str(text.get("hf_model_name", "")).startswith("/"):
        text["hf_model_name"] = Path(text["hf_model_name"]).name
    return {**model, "text_cfg": text}


def _pmc_clip(entry: TeacherEntry) -> Described:
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
    return Described(
        architecture=architecture,
        preprocessing=Preprocessing(geometry=geometry),
        tokenizer=tokenizer_of(entry, BERT_CONTEXT),
        embed_dim=entry.embed_dim,
    )


def _medclip(entry: TeacherEntry) -> Described:
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
    return Described(
        architecture=architecture,
        preprocessing=preprocessing,
        tokenizer=tokenizer_of(entry, BERT_CONTEXT) | {"lower_case": True},
        embed_dim=entry.embed_dim,
    )
