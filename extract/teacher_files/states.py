"""Reads the authors' checkpoints as tensors with the names of a family's model, converts them, and loads them.

No code in a checkpoint is run. Tensors that are dropped are named here; any other unknown tensor is refused when the
model is loaded.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from store.errors import TeacherError
from store.files import TEMPORARY_SUFFIX, sync_folder, write_atomic
from store.io.weight_files import NUMPY_SCALARS, UNREADABLE, check_plausible, refused, unreadable

from .digests import file_digest
from .entry import FETCH, TeacherEntry
from .weights import (
    CONVERTED_NAME,
    RECORD_NAME,
    Weights,
    counts,
    find_sources,
    read_conversion,
    valid_conversion,
    write_record,
)

State = dict[str, Tensor]

MAX_LOGIT_SCALE = 101.0
"""CLIP models clamp their multiplier to 100; a larger value is no multiplier, or is not stored as a logarithm."""

MAX_SIGMOID_SCALE = 1000.0
"""Models that learned with a sigmoid clamp nothing; SigLIP's multipliers are near 115."""

SHOWN = 4


def read_checkpoint(path: Path) -> Any:
    """Return the content of a checkpoint: safetensors, or a pickle of tensors, containers and numbers.

    Raises:
        TeacherError: it is cut short, another kind of file, or a pickle that asks for more than tensors and numbers.
    """
    check_plausible(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refused(path, error) from error
    except SafetensorError as error:
        raise TeacherError(
            f"{path}: not a readable safetensors file: {error}",
            hint="it may be cut short or another file in disguise; move it away and fetch it again",
        ) from error
    # torch raises nearly any exception on damaged archives.
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def state_dict(loaded: Any, path: Path) -> State:
    """Return a checkpoint's tensors by name, without the prefix that distributed training adds.

    Raises:
        TeacherError: it holds no tensors by name.
    """
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(inner, Mapping) or not any(isinstance(value, Tensor) for value in inner.values()):
        raise TeacherError(
            f"{path}: a checkpoint without tensors by name, expected a state dict or a dict that holds 'state_dict'",
            hint="another file of the same authors, or of another model?",
        )
    return {str(name).removeprefix("module."): value for name, value in inner.items() if isinstance(value, Tensor)}


def load_strictly(module: nn.Module, state: State, *, teacher: str, computed: tuple[str, ...] = ()) -> None:
    """Load tensors into a model, so that no random weight stays.

    Args:
        computed: ends of the names of buffers that the model computes itself, so that the state may lack them.

    Raises:
        TeacherError: a tensor is missing, unknown, of another shape or not finite.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(computed)]
    strange = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("not the model's", strange), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise TeacherError(
            f"teacher {teacher}: cannot be loaded: the weights do not fit the model; tensors {'; '.join(problems)}",
            hint="weights and configuration must be those of one model; is it another variant of this teacher?",
        )
    bad = next(
        (name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()), None
    )
    if bad:
        raise TeacherError(f"teacher {teacher}: cannot be loaded: {bad} holds values that are not finite")
    module.load_state_dict(state, strict=False)


def checked_logit_scale(log_scale: float, *, teacher: str, sigmoid: bool = False) -> float:
    """Return a model's multiplier of cosines from the logarithm that checkpoints hold.

    Args:
        sigmoid: the model learned with a sigmoid and a bias instead of a softmax.

    Raises:
        TeacherError: no such model can have learned it.
    """
    most = MAX_SIGMOID_SCALE if sigmoid else MAX_LOGIT_SCALE
    if not math.isfinite(log_scale) or not 0 <= log_scale <= math.log(most):
        raise TeacherError(
            f"teacher {teacher}: cannot be loaded: logit_scale is {log_scale}, expected the logarithm of a number from "
            f"1 to {most:.0f}",
            hint="the file is of another kind of model, or damaged",
        )
    return math.exp(log_scale)


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
        TeacherError: a file is damaged, quantised or of another kind.
    """
    if weights.conversion is not None:
        loaded: State = read_checkpoint(weights.paths[0])
        return loaded
    if entry.family == "pmc_clip":
        state = _pmc_parts(weights.paths) if len(weights.paths) > 1 else _pmc_whole(weights.paths[0])
    else:
        path = weights.paths[0]
        state = RENAME[entry.family](state_dict(read_checkpoint(path), path))
    # Numbers of 8 bits need scales, without which they are other weights.
    if small := next((key for key, value in state.items() if value.itemsize == 1 and value.dtype != torch.bool), None):
        raise TeacherError(
            f"teacher {weights.teacher}: {weights.folder}: {small} holds numbers of {state[small].dtype}, because the "
            "weights are quantised, which are not read",
            hint="take the model's own weights, in float32, bfloat16 or float16",
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _unchanged(state: State) -> State:
    return state


def _open_clip_file(state: State) -> State:
    # UniMed-CLIP's fork calls the text tower text_encoder.
    renamed = {
        f"text.{name.removeprefix('text_encoder.')}" if name.startswith("text_encoder.") else name: value
        for name, value in state.items()
        if name not in OPENAI_SETTINGS
    }
    return _without_position_ids(renamed)


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
    "open_clip": _without_position_ids,
    "open_clip_file": _open_clip_file,
    "transformers": _without_position_ids,
    "timm": _unchanged,
    "medclip": _medclip,
}


def _pmc_parts(paths: tuple[Path, ...]) -> State:
    vision, text = (state_dict(read_checkpoint(path), path) for path in paths[:2])
    projection = read_checkpoint(paths[2])
    if not isinstance(projection, Tensor):
        raise TeacherError(
            f"{paths[2]}: holds {type(projection).__name__}, expected one matrix",
            hint="move it away and fetch it again",
        )
    state = {f"visual.{name.removeprefix('visual.')}": value for name, value in vision.items()}
    state |= {f"text_encoder.{name}": value for name, value in text.items() if name != "embeddings.position_ids"}
    return state | {"text_projection": projection.detach(), "logit_scale": torch.tensor(PMC_LOG_SCALE)}


def _pmc_whole(path: Path) -> State:
    state = state_dict(read_checkpoint(path), path)
    stale = "text_encoder.embeddings.position_ids"
    return {name: value for name, value in state.items() if name != stale and not name.startswith(PMC_OTHER_HEADS)}


def convert(name: str, entry: TeacherEntry) -> bool:
    """Convert a teacher's weights if they were not converted before, or were replaced since.

    The authors' files stay. Features and spec are the same before and after. Weights that are safetensors already stay
    as they are, and so do those of a folder that holds what was converted for another entry.

    Returns:
        Whether they were converted.

    Raises:
        TeacherError: the weights are missing or damaged, or changed meanwhile; or there is no room.
    """
    if valid_conversion(name, entry):
        return False
    present = find_sources(name, entry)
    if present.paths[0].suffix == ".safetensors" or _is_of_another_entry(name, entry):
        return False
    digests = {path: file_digest(path) for path in present.paths}
    state = {key: value.detach().clone().contiguous() for key, value in read_state(entry, present).items()}
    target = present.folder / CONVERTED_NAME
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; save_file makes a file that only its owner may read
        try:
            safetensors.torch.save_file(state, temporary)
        except SafetensorError as error:  # of a full disk too
            raise TeacherError(
                f"teacher {name}: {target} cannot be written: {error}",
                hint=f"make room in {present.folder}, then python -m extract fetch {name}; the authors' files stay",
            ) from error
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        record = write_record(digests, temporary)
        if changed := [path for path, digest in digests.items() if file_digest(path) != digest]:
            raise TeacherError(
                f"teacher {name}: {changed[0]} changed while it was converted",
                hint=f"{FETCH} {name}, once nothing writes to it any more",
            )
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


def _is_of_another_entry(name: str, entry: TeacherEntry) -> bool:
    try:
        conversion = read_conversion(name, entry)
    except TeacherError:
        return False
    return conversion is not None and not counts(entry, conversion)
