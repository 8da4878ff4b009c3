"""Turns the authors' checkpoints into tensors with the names of a family's model, and converts them to safetensors.

Tensors that are dropped are named here; any other unknown tensor is refused when the model is loaded.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from store.errors import TeacherError
from store.files import TEMPORARY_SUFFIX, sync_folder, write_atomic

from .checkpoints import State, float_tensors, read_checkpoint, state_dict
from .entry import TeacherEntry
from .weights import CONVERTED_NAME, RECORD_NAME, Weights, find_weights, write_record

log = logging.getLogger(__name__)

OPENAI_SETTINGS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Settings that OpenAI's CLIP stores among its tensors."""

PMC_LOG_SCALE = 4.4292
"""Logarithm of PMC-CLIP's logit scale by copies of the authors' notebook; the published parts lack it."""

PMC_OTHER_HEADS = (
    "positional_embedding",
    "ln_final.",
    "mlm_projection",
    "img_special_token",
    "fusion_module.",
    "transformer.",
    "token_embedding.",
)
"""Prefixes of tensors in PMC-CLIP's whole checkpoint that its image-text features do not need."""


def read_state(entry: TeacherEntry, weights: Weights) -> State:
    """Return a teacher's tensors, float32, by the names of its family's model.

    Raises:
        TeacherError: a file is damaged or of another kind.
    """
    if weights.conversion is not None:
        loaded: State = read_checkpoint(weights.paths[0])
        return loaded
    if entry.family == "pmc_clip":
        state = _pmc_parts(weights.paths) if len(weights.paths) > 1 else _pmc_whole(weights.paths[0])
    else:
        path = weights.paths[0]
        state = RENAME[entry.family](state_dict(read_checkpoint(path), path))
    return float_tensors(state)


def _open_clip(state: State) -> State:
    return {name: value for name, value in state.items() if name != "text.transformer.embeddings.position_ids"}


def _open_clip_file(state: State) -> State:
    # UniMed-CLIP's fork calls the text tower text_encoder.
    renamed = {
        f"text.{name.removeprefix('text_encoder.')}" if name.startswith("text_encoder.") else name: value
        for name, value in state.items()
        if name not in OPENAI_SETTINGS
    }
    return _open_clip(renamed)


def _without_position_ids(state: State) -> State:
    return {name: value for name, value in state.items() if not name.endswith(".position_ids")}


def _medclip(state: State) -> State:
    # Swin's indices are computed; older transformers stored them among the tensors.
    return {
        name: value
        for name, value in _without_position_ids(state).items()
        if not name.endswith("relative_position_index")
    }


RENAME = {
    "open_clip": _open_clip,
    "open_clip_file": _open_clip_file,
    "clip": _without_position_ids,
    "medclip": _medclip,
}


def _pmc_parts(paths: tuple[Path, ...]) -> State:
    vision, text = (state_dict(read_checkpoint(path), path) for path in paths[:2])
    projection = read_checkpoint(paths[2])
    if not isinstance(projection, Tensor):
        raise TeacherError(f"{paths[2]}: holds {type(projection).__name__}, expected one matrix", hint="fetch it again")
    state = {f"visual.{name.removeprefix('visual.')}": value for name, value in vision.items()}
    state |= {f"text_encoder.{name}": value for name, value in text.items() if name != "embeddings.position_ids"}
    return state | {"text_projection": projection.detach(), "logit_scale": torch.tensor(PMC_LOG_SCALE)}


def _pmc_whole(path: Path) -> State:
    state = state_dict(read_checkpoint(path), path)
    stale = "text_encoder.embeddings.position_ids"
    return {name: value for name, value in state.items() if name != stale and not name.startswith(PMC_OTHER_HEADS)}


def convert(name: str, entry: TeacherEntry) -> bool:
    """Convert a teacher's weights unless they are safetensors already; return whether they were converted.

    The authors' files stay. Features and spec are the same before and after.

    Raises:
        TeacherError: the weights are missing or damaged.
    """
    present = find_weights(name, entry)
    if present.conversion is not None or present.paths[0].suffix == ".safetensors":
        return False
    state = {key: value.detach().clone().contiguous() for key, value in read_state(entry, present).items()}
    target = present.folder / CONVERTED_NAME
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; save_file makes a file that only its owner may read
        safetensors.torch.save_file(state, temporary)
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        record = write_record(present.folder, present.paths, temporary)
        # The record is removed first and written last: without it the converted file does not count.
        (present.folder / RECORD_NAME).unlink(missing_ok=True)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(present.folder)
    write_atomic(present.folder / RECORD_NAME, record)
    before, after = present.nbytes / 1e6, target.stat().st_size / 1e6
    log.info("teacher %s: %.1f MB converted to %.1f MB in %s", name, before, after, target)
    return True
