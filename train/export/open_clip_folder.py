"""A folder that plain open_clip loads: configuration, weights as safetensors, tokenizer, model card."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_CONFIG_NAME
from torch import Tensor

from store.console import without_root_warnings
from store.errors import ConfigError, TeacherError, WeightsNotFoundError
from store.io.weight_files import TOKENIZER_FILES, first_line
from train.models.model_folder import copy_tokenizer

CARD_NAME = "README.md"
TEXT_FOLDER = "text"
SHOWN = 4


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of ``out`` when the block ends without an error.

    Raises:
        ConfigError: ``out`` is there and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out} is there already and not empty", hint="name a folder that is not there")
    partial = out.absolute().with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_config(folder: Path, config: Mapping[str, Any], *, text: Path | None, out: Path) -> dict[str, Any]:
    """Write an open_clip configuration that names the text tower's final place, and return it.

    Args:
        folder: the unfinished folder.
        config: ``model_cfg`` and ``preprocess_cfg``.
        text: folder with ``config.json`` of a transformers text tower; without it the tower's name in the configuration
            stays: a repository on the hub, or a folder.
        out: final place of the folder. open_clip reads a tower's name as an absolute path or a repository, never as a
            path relative to its configuration.

    Raises:
        WeightsNotFoundError: there is no such ``config.json``.
    """
    model = json.loads(json.dumps(config["model_cfg"]))
    tower = model["text_cfg"].get("hf_model_name")
    source = text or (Path(tower) if tower and Path(tower).is_absolute() else None)
    if tower and source:
        if not (source / "config.json").is_file():
            raise WeightsNotFoundError(
                f"{source / 'config.json'}: missing, but the text tower is built from it",
                hint="--text names a folder that holds config.json and tokenizer of the text tower",
            )
        (folder / TEXT_FOLDER).mkdir(exist_ok=True)
        shutil.copy2(source / "config.json", folder / TEXT_FOLDER / "config.json")
        model["text_cfg"]["hf_model_name"] = str(out.absolute() / TEXT_FOLDER)
    written = {"model_cfg": model, "preprocess_cfg": config.get("preprocess_cfg") or {}}
    (folder / HF_CONFIG_NAME).write_text(json.dumps(written, indent=1) + "\n")
    return written


def write_tokenizer(folder: Path, config: Mapping[str, Any], *sources: Path | None) -> None:
    """Put the tokenizer of a configuration into a folder, from the first source that has one or from the hub.

    Raises:
        WeightsNotFoundError: no source and no hub has it.
    """
    name = config["model_cfg"]["text_cfg"].get("hf_tokenizer_name")
    if not name:
        return  # open_clip has its own.
    for source in sources:
        files = [source / file for file in TOKENIZER_FILES if (source / file).is_file()] if source else []
        if any(file.name in ("tokenizer.json", "vocab.txt", "vocab.json") for file in files):
            for file in files:
                shutil.copy2(file, folder / file.name)
            if not (folder / "tokenizer_config.json").is_file():
                # transformers reads the class of a folder's tokenizer from this file only.
                kind = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
                (folder / "tokenizer_config.json").write_text(json.dumps(kind))
            return
    copy_tokenizer(name, folder)


def build(folder: Path, config: Mapping[str, Any]) -> Any:
    """Return the model that a folder's configuration describes, with random weights.

    Raises:
        TeacherError: open_clip cannot build it.
    """
    own = folder / TEXT_FOLDER
    if (own / "config.json").is_file():
        # The folder is not yet at the place that its configuration names.
        text = {**config["model_cfg"]["text_cfg"], "hf_model_name": str(own)}
        config = {**config, "model_cfg": {**config["model_cfg"], "text_cfg": text}}
    staged = folder / ".staged"
    staged.mkdir()
    try:
        (staged / HF_CONFIG_NAME).write_text(json.dumps(config))
        with without_root_warnings():
            return open_clip.create_model(f"local-dir:{staged}", load_weights=False, pretrained_text=False)
    except (TypeError, ValueError, AssertionError, OSError, RuntimeError) as error:
        tower = config["model_cfg"]["text_cfg"].get("hf_model_name", "")
        raise TeacherError(
            f"open_clip cannot build the model: {type(error).__name__}: {first_line(error)}",
            hint=f"without a network --text FOLDER gives config.json and tokenizer of {tower}" if tower else None,
        ) from error
    finally:
        shutil.rmtree(staged)


def require_fit(model: Any, state: Mapping[str, Tensor], *, where: Path) -> None:
    """Check that tensors are exactly those of a model, with its shapes, and finite.

    Raises:
        TeacherError: they are not; the message names the tensors.
    """
    own = model.state_dict()
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    groups = (
        ("missing", [name for name in own if name not in state]),
        ("not the model's", [name for name in state if name not in own]),
        ("of another shape", shapes),
        ("not finite", [name for name, value in state.items() if not value.isfinite().all()]),
    )
    problems = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for what, names in groups
        if names
    ]
    if problems:
        raise TeacherError(
            f"{where}: the weights are not those of the model; tensors {'; '.join(problems)}",
            hint="it is the checkpoint of another model, or of another version of this one",
        )
