"""Loads tokenizers of transformers from a folder and checks them against the model that reads their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BertTokenizer

from store.errors import TeacherError


def load_bert_tokenizer(folder: Path, *, vocabulary: int, teacher: str, lower_case: bool | None = None) -> Any:
    """Return a WordPiece tokenizer.

    Args:
        folder: holds ``vocab.txt`` or ``tokenizer.json``.
        vocabulary: the number of tokens of the model.
        lower_case: overrides the folder's setting.

    Raises:
        TeacherError: it cannot be read, or has another vocabulary than the model.
    """
    options = {} if lower_case is None else {"do_lower_case": lower_case}
    # BertTokenizer(vocab_file=...) of transformers 5 silently has five tokens; from_pretrained reads the file.
    return _checked(lambda: BertTokenizer.from_pretrained(str(folder), **options), folder, vocabulary, teacher)


def load_clip_tokenizer(folder: Path, *, vocabulary: int, teacher: str) -> Any:
    """Return the tokenizer of a transformers CLIP model; see `load_bert_tokenizer`."""
    return _checked(lambda: AutoTokenizer.from_pretrained(str(folder)), folder, vocabulary, teacher)


def _checked(load: Any, folder: Path, vocabulary: int, teacher: str) -> Any:
    try:
        tokenizer = load()
    except Exception as error:  # the tokenizers library raises a bare Exception on damaged files
        raise TeacherError(
            f"teacher {teacher}: cannot be loaded: the tokenizer in {folder} cannot be read: {error}",
            hint="expected tokenizer.json, or vocab.txt and config.json; fetch them again",
        ) from error
    if len(tokenizer) != vocabulary:
        raise TeacherError(
            f"teacher {teacher}: cannot be loaded: the tokenizer in {folder} has {len(tokenizer)} tokens, the model "
            f"{vocabulary}",
            hint="the tokenizer is another model's, or a file of it is missing",
        )
    return tokenizer


def padded_ids(tokenizer: Any, captions: list[str], *, context: int) -> tuple[Tensor, list[int]]:
    """Return ids (B, context), cut and padded, and the number of tokens of each caption that are no padding."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=context, return_tensors="pt")
    lengths_B = encoded["attention_mask"].sum(dim=1).tolist()
    return encoded["input_ids"].to(torch.int64), lengths_B


def full_length(tokenizer: Any, caption: str) -> int:
    """Return how many tokens a caption has before it is cut, with special tokens."""
    return len(tokenizer(caption, truncation=False, verbose=False)["input_ids"])
