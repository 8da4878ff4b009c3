"""The student that MMKD-CLIP's authors released, as a folder that plain open_clip loads."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from store.errors import TeacherError, WeightsNotFoundError
from store.io.weight_files import NUMPY_SCALARS, UNREADABLE, check_plausible, refused, unreadable
from train.models.model_folder import write_weights
from train.runtime.origin import Origin, write_origin

from .model_card import Card, render
from .open_clip_folder import CARD_NAME, build, new_folder, require_fit, write_config, write_tokenizer

BERT_NAME = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
RELEASED_MODEL: dict[str, Any] = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {
        "hf_model_name": BERT_NAME,
        "hf_tokenizer_name": BERT_NAME,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
"""``MMKD_B16.pth``: ViT-B/16 with QuickGELU and PubMedBERT, as open_clip names it."""

OPENAI_MEAN, OPENAI_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

THEIR_TEXT, OUR_TEXT = "text_encoder.", "text."
"""Prefixes of the text tower's tensors in the authors' fork of open_clip, and in open_clip."""

STALE = "text.transformer.embeddings.position_ids"
"""A buffer that transformers no longer has."""

ORIGIN = (
    "The weights are those that MMKD-CLIP's authors released (arXiv 2506.22567), renamed; nothing was trained here. "
    "Their licence and those of the nine teachers that they distilled from (one is CC-BY-NC-4.0) are theirs to state: "
    "read them before you use or pass on this model."
)


def convert_released(
    checkpoint: Path, out: Path, *, text: Path | None = None, model: Mapping[str, Any] = RELEASED_MODEL
) -> None:
    """Write the released student as a folder that plain open_clip loads.

    Args:
        checkpoint: ``MMKD_B16.pth``.
        text: folder with configuration and tokenizer of PubMedBERT; from the hub if left out.
        model: ``model_cfg`` of the checkpoint.

    Raises:
        ConfigError: ``out`` is there already.
        WeightsNotFoundError: there is no such checkpoint, or no tokenizer.
        TeacherError: the file is another checkpoint, is damaged, or would run code.
    """
    state = read_released(checkpoint)
    with new_folder(out) as folder:
        preprocess = {"mean": OPENAI_MEAN, "std": OPENAI_STD}
        config = write_config(folder, {"model_cfg": model, "preprocess_cfg": preprocess}, text=text, out=out)
        write_tokenizer(folder, config, text)
        require_fit(build(folder, config), state, where=checkpoint)
        write_weights(folder, state)
        (folder / CARD_NAME).write_text(
            render(Card(name=out.name, architecture=config["model_cfg"], origin=f"{ORIGIN} File: {checkpoint.name}."))
        )
        write_origin(folder, Origin(role="student"))


def read_released(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint of the authors' fork by open_clip's names, in float32.

    Raises:
        WeightsNotFoundError: there is no such file.
        TeacherError: it is not a checkpoint with tensors, or would run code.
    """
    if not path.is_file():
        raise WeightsNotFoundError(
            f"{path}: no such file", hint="the authors' repository links to MMKD_B16.pth; fetch it with a browser"
        )
    check_plausible(path)
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refused(path, error) from error
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise TeacherError(
            f"{path}: a checkpoint without tensors by name, expected a state dict or a dict that holds 'state_dict'",
            hint="expected the authors' MMKD_B16.pth",
        )
    return rename(tensors)


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the authors' fork by open_clip's names, in float32."""
    renamed = {}
    for name, value in tensors.items():
        plain = name.removeprefix("module.")
        if plain.startswith(THEIR_TEXT):
            plain = OUR_TEXT + plain.removeprefix(THEIR_TEXT)
        if plain != STALE:
            renamed[plain] = value.float() if value.is_floating_point() else value
    if "logit_scale" in renamed:
        renamed["logit_scale"] = renamed["logit_scale"].reshape(())
    return renamed
