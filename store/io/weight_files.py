"""Model files from elsewhere: refuses files that hold no weights, and lists what a checkpoint's pickle may load.

Knows no torch: the programs that load weights open the files themselves.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import TeacherError

# Training programs pickle NumPy scalars (losses, metrics) beside the tensors. These names can only build numbers.
NUMPY_SCALARS: list[Any] = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]  # noqa: SLF001
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]  # noqa: SLF001
    (np.dtype, "numpy.dtype"),
    (codecs.encode, "_codecs.encode"),
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "bool")),
]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)
"""Files that a tokenizer may have: a spec has their digest, and an exported model has copies."""

UNREADABLE = (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, OSError, IndexError)
"""Exceptions that torch raises on damaged archives."""


def check_plausible(path: Path) -> None:
    """Refuse a file that a failed download left in place of weights.

    Raises:
        TeacherError: the file is empty, a Git-LFS pointer, or a page of text.
    """
    with path.open("rb") as file:
        head = file.read(256)
    again = "move it away and fetch it again; "
    if not head:
        raise TeacherError(f"{path}: empty (0 bytes), expected weights", hint=f"{again}the download was cut off")
    if head.startswith(b"version https://git-lfs"):
        raise TeacherError(
            f"{path}: a Git-LFS pointer of {path.stat().st_size} bytes, not the weights it stands for",
            hint="run git lfs pull in the clone it came from, or fetch the file itself",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        raise TeacherError(
            f"{path}: an HTML page, not weights",
            hint=f"{again}the server answered with an error or asked for a login; the file may be gated",
        )
    if text.startswith(b"{"):
        raise TeacherError(f"{path}: JSON text, not weights", hint=f"{again}it may be a server's message of an error")


def refused(path: Path, reason: Exception) -> TeacherError:
    """Return the error for a checkpoint that torch's restricted unpickler would not read."""
    marks = ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL ")
    text = str(reason)
    wanted = next((text.split(mark, 1)[1].split(maxsplit=1)[0] for mark in marks if mark in text), None)
    if wanted:
        return TeacherError(
            f"{path}: refused: its pickle asks for {wanted}, and loading it would run code that the file chooses",
            hint="take the file from its authors, or have it converted to safetensors by someone who trusts it",
        )
    return TeacherError(
        f"{path}: not a PyTorch checkpoint of tensors ({first_line(reason)})",
        hint="probably cut short or another file in disguise: compare its size, move it away and fetch it again",
    )


def unreadable(path: Path, reason: Exception) -> TeacherError:
    """Return the error for a checkpoint that torch cannot read."""
    return TeacherError(
        f"{path}: not a readable PyTorch checkpoint ({type(reason).__name__}: {first_line(reason)})",
        hint="probably cut short or another file in disguise: compare its size, move it away and fetch it again",
    )


def first_line(reason: Exception) -> str:
    """Return the first line of a library's error."""
    return (str(reason).strip().splitlines() or ["no reason given"])[0][:200]
