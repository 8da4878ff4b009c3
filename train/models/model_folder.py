"""Models as folders that open_clip's ``local-dir:`` loads: training starts from one and writes one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoTokenizer

from store.console import without_root_warnings
from store.errors import ConfigError, TeacherError, WeightsNotFoundError
from store.texts.tokens import CaptionTokenizer, open_clip_tokenizer
from train.config import ModelSection

from .pretrained import image_tower, load_tag, tag_of
from .vocabulary import save_vocabulary

SEP_ID = 3
"""Id of the token that ends a caption in a learned vocabulary; the text tower pools there."""


@dataclass(kw_only=True, slots=True)
class Student:
    """A model being trained.

    Attributes:
        model: of open_clip, with ``encode_image``, ``encode_text`` and ``logit_scale``.
        size_px: side of its square input.
        mean, std: of its preprocessing, per channel.
        embed_dim: E.
    """

    model: Any
    tokenizer: CaptionTokenizer
    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    embed_dim: int


def begin_model(folder: Path, section: ModelSection, captions: Sequence[str], *, seed: int) -> Student:
    """Write a model's configuration and tokenizer into a folder and return the model ready to train.

    Args:
        folder: empty; `save_weights` adds the trained weights.
        captions: of the training pairs, for a learned vocabulary.
        seed: of random weights.

    Raises:
        WeightsNotFoundError: the folder to start from is no model folder, or the tag's weights are not on this machine.
        ConfigError: open_clip cannot build the configured model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tag = tag_of(section.init) if section.init else None
    if tag:
        config, state = load_tag(tag)
        tokenizer = config["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name")
        if tokenizer:
            copy_tokenizer(tokenizer, folder)
        (folder / HF_CONFIG_NAME).write_text(json.dumps(config, indent=1))
        student = _load(folder, weights_from=None)
        student.model.load_state_dict(state, strict=True)
        return student
    if section.init:
        _copy_without_weights(Path(section.init), folder)
        return _load(folder, weights_from=Path(section.init))
    model_cfg = dict(section.config or {})
    if section.vocabulary:
        size = save_vocabulary(captions, folder, size=section.vocabulary)
        learned = {"vocab_size": size, "hf_tokenizer_name": "learned", "pool_type": "eos", "eos_id": SEP_ID}
        model_cfg["text_cfg"] = {**model_cfg.get("text_cfg", {}), **learned}
    elif model_cfg.get("text_cfg", {}).get("hf_tokenizer_name"):
        copy_tokenizer(model_cfg["text_cfg"]["hf_tokenizer_name"], folder)
    config = {"model_cfg": model_cfg, "preprocess_cfg": section.preprocess}
    (folder / HF_CONFIG_NAME).write_text(json.dumps(config, indent=1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = _load(folder, weights_from=None)
    if section.vision_from:
        tower, logit_scale = image_tower(section.vision_from)
        student.model.logit_scale.data.copy_(logit_scale)
        try:
            student.model.visual.load_state_dict(tower)
        except RuntimeError as error:
            raise ConfigError(
                f"model.vision_from: the image tower of {section.vision_from} is not that of model.config.vision_cfg "
                f"({str(error).splitlines()[1].strip()})",
                hint="give vision_cfg the numbers of that model's configuration, or leave vision_from out",
            ) from error
    return student


def copy_tokenizer(name: str, folder: Path) -> None:
    """Copy a named tokenizer into a model's folder, because open_clip reads a folder's tokenizer from there.

    Raises:
        WeightsNotFoundError: it is neither in a local folder nor available from the hub.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # transformers and the hub's client raise nearly anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsNotFoundError(
            f"model.config.text_cfg.hf_tokenizer_name: {name} is no folder with a tokenizer, and the hub does not give "
            f"it ({reason})",
            hint=f"put config.json and vocab.txt (or tokenizer.json and tokenizer_config.json) of hf {name} into a "
            "folder and name that by its absolute path; or run it once where the hub answers (HF_ENDPOINT names a "
            "mirror), and copy HF_HOME from there",
        ) from error
    tokenizer.save_pretrained(str(folder))


def _copy_without_weights(source: Path, folder: Path) -> None:
    if not (source / HF_CONFIG_NAME).is_file() or not (source / HF_SAFE_WEIGHTS_NAME).is_file():
        raise WeightsNotFoundError(
            f"{source}: not a model folder: it needs {HF_CONFIG_NAME} and {HF_SAFE_WEIGHTS_NAME}",
            hint="train it first (python -m train pretrain), or correct model.init",
        )
    for file in source.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt") and file.name != "train.json":
            shutil.copy2(file, folder / file.name)


def _load(folder: Path, *, weights_from: Path | None) -> Student:
    name = f"local-dir:{folder}"
    # A text tower of transformers starts from its published weights unless the configuration says otherwise.
    text_cfg = _model_cfg(folder).get("text_cfg", {})
    pretrained_text = weights_from is None and text_cfg.get("hf_model_pretrained", True)
    try:
        with without_root_warnings():
            model = open_clip.create_model(name, load_weights=False, pretrained_text=pretrained_text)
            tokenizer = open_clip_tokenizer(open_clip.get_tokenizer(name))
    except (TypeError, ValueError, AssertionError, OSError) as error:
        raise ConfigError(
            f"open_clip cannot build the configured model: {type(error).__name__}: {error}",
            hint="model.config takes what open_clip's model_cfg takes: embed_dim, vision_cfg, text_cfg",
        ) from error
    if weights_from:
        try:
            model.load_state_dict(safetensors.torch.load_file(weights_from / HF_SAFE_WEIGHTS_NAME), strict=True)
        except (SafetensorError, RuntimeError) as error:
            raise TeacherError(
                f"model.init: {weights_from / HF_SAFE_WEIGHTS_NAME}: damaged, or not the weights of the model that "
                f"{HF_CONFIG_NAME} describes: {' '.join(str(error).split())[:200]}",
                hint="train or export it again, or begin with another folder",
            ) from error
    preprocess = model.visual.preprocess_cfg
    size = preprocess["size"]
    return Student(
        model=model,
        tokenizer=tokenizer,
        size_px=size[0] if isinstance(size, tuple | list) else size,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        embed_dim=int(_model_cfg(folder)["embed_dim"]),
    )


def _model_cfg(folder: Path) -> dict[str, Any]:
    config: dict[str, dict[str, Any]] = json.loads((folder / HF_CONFIG_NAME).read_text())
    return config["model_cfg"]


def save_weights(student: Student, folder: Path, *, name: str = HF_SAFE_WEIGHTS_NAME) -> None:
    """Write the weights beside the configuration; ``local-dir:`` loads the file of the default name."""
    write_weights(folder, student.model.state_dict(), name=name)


def write_weights(folder: Path, state: Mapping[str, Tensor], *, name: str = HF_SAFE_WEIGHTS_NAME) -> None:
    """Write a model's tensors as safetensors, by default under the name that ``local-dir:`` loads."""
    file = folder / name
    file.touch()
    mode = file.stat().st_mode  # The umask's mode; save_file would leave a file that only its owner may read.
    safetensors.torch.save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, file)
    file.chmod(mode)
