"""Reads checkpoints of unknown origin without running code in them, and loads every tensor of them."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from store.errors import TeacherError
from store.io.weight_files import NUMPY_SCALARS, UNREADABLE, check_plausible, refused, unreadable

State = dict[str, Tensor]

MAX_LOGIT_SCALE = 101.0
"""CLIP models clamp their multiplier to 100; a larger value is no multiplier, or is not stored as a logarithm."""

SHOWN = 4


def read_checkpoint(path: Path) -> Any:
    """Return the content of a checkpoint: safetensors, or a pickle of tensors, containers and numbers.

    Raises:
        TeacherError: it is cut short, another kind of file, or a pickle that asks for more than tensors and numbers.
    """
    check_plausible(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refused(path, error) from error
    # torch raises nearly any exception on damaged archives.
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def read_safetensors(path: Path) -> State:
    """Return the tensors of a safetensors file.

    Raises:
        TeacherError: it is cut short or another kind of file.
    """
    try:
        state: State = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise TeacherError(
            f"{path}: not a readable safetensors file: {error}",
            hint="it may be cut short or another file in disguise; fetch it again",
        ) from error
    return state


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


def float_tensors(state: State) -> State:
    """Return a state dict whose half-precision tensors are float32."""
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def load_strictly(
    module: nn.Module, state: State, *, teacher: str, may_lack: Callable[[str], bool] = lambda _: False
) -> None:
    """Load tensors into a model, so that no random weight stays.

    Args:
        may_lack: whether the model computes the buffer of that name itself.

    Raises:
        TeacherError: a tensor is missing, unknown, of another shape or not finite.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not may_lack(name)]
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


def checked_logit_scale(log_scale: float, *, teacher: str) -> float:
    """Return a model's multiplier of cosines from the logarithm that checkpoints hold.

    Raises:
        TeacherError: no CLIP model can have learned it.
    """
    if not math.isfinite(log_scale) or not 0 <= log_scale <= math.log(MAX_LOGIT_SCALE):
        raise TeacherError(
            f"teacher {teacher}: cannot be loaded: logit_scale is {log_scale}, expected the logarithm of a number from "
            f"1 to {MAX_LOGIT_SCALE:.0f}",
            hint="the file is of another kind of model, or damaged",
        )
    return math.exp(log_scale)
