"""Makes token ids of captions: words that were seen before are looked up, the Rust library ``tokenizers`` makes others.

The ids are those of open_clip's and transformers' tokenizers. The time is bounded for any caption: it grows with
n log n of a word's n letters, where open_clip's own tokenizer grows with their square.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from .word_ids import ID_BYTES, IdBytes, WordIds, id_bytes

Clean = Callable[[str], str]

_UNCHANGED = re.compile(r"[\t\n\f\r -%'-~]*")
"""ASCII without control characters and ``&``: ftfy and HTML's unescaping change nothing of it but line breaks."""

_PLAIN = re.compile(r"[\t\n\r -~]*")
"""ASCII without the control characters that BERT's normalisation drops from the middle of a word."""

_CLIP_WORDS = {
    "type": "Split",
    "pattern": {
        "Regex": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    },
    "behavior": "Removed",
    "invert": True,
}
"""Transformers cuts texts for CLIP by it. No match has white space, and none depends on what is before or after it."""

_CLIP_NORMALIZATION = [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Lowercase"},
]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of captions.

    Attributes:
        ids_BL: padded to the context, (B, L) int64.
        lengths_B: number of columns without the padding on the right, (B,) int64.
        truncated_B: whether the caption was cut, (B,) bool.
    """

    ids_BL: npt.NDArray[np.int64]
    lengths_B: npt.NDArray[np.int64]
    truncated_B: npt.NDArray[np.bool_]

    def __getitem__(self, rows: slice) -> Encoded:
        return Encoded(self.ids_BL[rows], self.lengths_B[rows], self.truncated_B[rows])

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """Return the captions of several parts as one."""
        columns = zip(*((part.ids_BL, part.lengths_B, part.truncated_B) for part in parts), strict=True)
        return cls(*map(np.concatenate, columns))


@dataclass(frozen=True, slots=True)
class CaptionTokenizer:
    """Token ids of captions, cut to a model's context.

    Attributes:
        encode: returns the ids of each cleaned caption without special ones.
        clean: is applied to each caption first.
        cleaning: the name of that.
        prefix, suffix: special ids before and after a caption; a caption that is cut keeps them.
        last: id of one more column, after the padding.
        pads_left: whether the padding goes before the caption.
    """

    encode: Callable[[list[str]], list[IdBytes]]
    clean: Clean
    cleaning: str
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int
    context: int
    last: int | None = None
    pads_left: bool = False

    @property
    def key(self) -> Hashable:
        """Two tokenizers of the same vocabulary with the same key give the same ids."""
        return self.cleaning, self.prefix, self.suffix, self.pad, self.context, self.last, self.pads_left

    @property
    def columns(self) -> int:
        """Columns of the ids, padding included."""
        return self.context + (self.last is not None)

    def __call__(self, captions: Sequence[str]) -> Encoded:
        """Return the ids of some captions."""
        found = self.encode([self.clean(caption) for caption in captions])
        prefix, suffix = id_bytes(self.prefix), id_bytes(self.suffix)
        room = self.context * ID_BYTES - len(prefix) - len(suffix)
        kept = [prefix + ids[:room] + suffix for ids in found]
        counts_B = np.array([len(ids) for ids in kept], np.int64) // ID_BYTES
        ids_BL = np.full((len(found), self.context), self.pad, np.int64)
        column_L = np.arange(self.context)
        begin_B = self.context - counts_B if self.pads_left else np.zeros_like(counts_B)
        lengths_B = begin_B + counts_B
        ids_BL[(begin_B[:, None] <= column_L) & (column_L < lengths_B[:, None])] = np.frombuffer(
            b"".join(kept), np.int64
        )
        truncated_B = np.array([len(ids) > room for ids in found], np.bool_)
        if self.last is not None:
            ids_BL = np.pad(ids_BL, ((0, 0), (0, 1)), constant_values=self.last)
            lengths_B[:] = lengths_B if self.last == self.pad else ids_BL.shape[1]
        return Encoded(ids_BL, lengths_B, truncated_B)


class SimpleTokenizer(Protocol):
    """open_clip's tokenizer of CLIP, as far as it is read here."""

    encoder: dict[str, int]
    bpe_ranks: dict[tuple[str, str], int]
    pat: Any
    clean_fn: Clean
    sot_token_id: int
    eot_token_id: int
    all_special_ids: list[int]
    context_length: int


def clip_tokenizer(simple: SimpleTokenizer) -> CaptionTokenizer:
    """Return open_clip's tokenizer of CLIP.

    Python's ``regex`` cuts texts into words, as Rust's has other Unicode tables. No word of its pattern has a space.
    """
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)
    rust = Tokenizer(BPE(vocab=simple.encoder, merges=merges, end_of_word_suffix="</w>"))
    rust.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    special = [word for word, number in simple.encoder.items() if number in simple.all_special_ids]
    rust.add_special_tokens([AddedToken(word, normalized=False) for word in special])

    def ids_of(texts: list[str]) -> list[IdBytes]:
        words = [simple.pat.findall(text) for text in texts]
        found = rust.encode_batch_fast(words, is_pretokenized=True, add_special_tokens=False)
        return [id_bytes(text.ids) for text in found]

    return CaptionTokenizer(
        encode=WordIds(ids_of),
        clean=faster(simple.clean_fn),
        cleaning=simple.clean_fn.__name__,
        prefix=(simple.sot_token_id,),
        suffix=(simple.eot_token_id,),
        pad=0,
        context=simple.context_length,
    )


def transformers_tokenizer(
    tokenizer: Any, context: int, clean: Clean = str, *, ids_alone: bool = False
) -> CaptionTokenizer:
    """Return a tokenizer of transformers, which pads and cuts to a context.

    Args:
        tokenizer: of transformers. One without a Rust backend, such as SigLIP's, goes on in Python.
        clean: is applied before the tokenizer's own normalisation.
        ids_alone: the model gets the ids and no mask, so that padding may lie on either side.

    Raises:
        ValueError: it has no padding, drops letters, cuts on the left, or pads there for a model that gets a mask.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError("it states no pad_token, with which captions are filled up to the model's length")
    if tokenizer.truncation_side != "right" or (tokenizer.padding_side != "right" and not ids_alone):
        sides = f"pads on the {tokenizer.padding_side} and cuts on the {tokenizer.truncation_side}"
        raise ValueError(f"it {sides}, expected right and right")
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()

    def whole_texts(cleaned: list[str]) -> list[IdBytes]:
        if backend is not None:
            return [id_bytes(found.ids) for found in backend.encode_batch_fast(cleaned, add_special_tokens=False)]
        return [*map(id_bytes, tokenizer(cleaned, add_special_tokens=False, verbose=False)["input_ids"])]

    encode: Callable[[list[str]], list[IdBytes]] = whole_texts
    if backend is not None and _reads_words_alone(backend):
        encode = WordIds(whole_texts, only=_PLAIN)
    whole = tokenizer("a")["input_ids"]
    body = tokenizer("a", add_special_tokens=False)["input_ids"]
    places = [place for place in range(len(whole)) if body and whole[place : place + len(body)] == body]
    if not places:
        raise ValueError("it does not read the word 'a' between its special tokens, by which these are told")
    first = places[0]
    return CaptionTokenizer(
        encode=encode,
        clean=faster(clean),
        cleaning=clean.__name__,
        prefix=tuple(whole[:first]),
        suffix=tuple(whole[first + len(body) :]),
        pad=tokenizer.pad_token_id,
        context=context,
        pads_left=tokenizer.padding_side == "left",
    )


def open_clip_tokenizer(tokenizer: Any) -> CaptionTokenizer:
    """Return a tokenizer of open_clip: a ``SimpleTokenizer``, or an ``HFTokenizer`` with its two special modes.

    Raises:
        ValueError: as `transformers_tokenizer`, or it drops words at random or by their kind, as in training.
    """
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        if tokenizer.reduction_fn is not None:
            raise ValueError("its reduction_mask shortens captions in another way than by their end, which is not read")
        return clip_tokenizer(tokenizer)
    found = transformers_tokenizer(inner, tokenizer.context_length, tokenizer.clean_fn, ids_alone=True)
    if tokenizer.tokenizer_mode == "clips":
        begin, end, last = inner.bos_token_id, inner.eos_token_id, inner.cls_token_id
        return replace(found, context=found.context - 1, prefix=(begin,), suffix=(end,), last=last, pads_left=False)
    if tokenizer.strip_sep_token:
        return _without(found, inner.sep_token_id)
    return found


def _reads_words_alone(backend: Tokenizer) -> bool:
    """Return whether a tokenizer's ids of plain text are those of the words between white space, one after another."""
    normalizer, cutter = (
        json.loads(part.__getstate__()) if part else {} for part in (backend.normalizer, backend.pre_tokenizer)
    )
    by_bert = normalizer.get("type") == "BertNormalizer" and cutter.get("type") == "BertPreTokenizer"
    by_clip = (normalizer.get("normalizers"), cutter.get("pretokenizers", [{}])[0]) == (
        _CLIP_NORMALIZATION,
        _CLIP_WORDS,
    )
    added = backend.get_added_tokens_decoder().values()
    return (by_bert or by_clip) and not any(re.search(r"\s", token.content) for token in added)


def _without(tokenizer: CaptionTokenizer, unwanted: int) -> CaptionTokenizer:
    """Return a tokenizer with zeros instead of an id."""

    def encode(cleaned: list[str]) -> list[IdBytes]:
        found = (np.frombuffer(ids, np.int64) for ids in tokenizer.encode(cleaned))
        return [np.where(ids == unwanted, 0, ids).tobytes() for ids in found]

    at_end = tokenizer.pad == 0 and not tokenizer.pads_left
    if at_end and tokenizer.suffix == (unwanted,):  # the zero is padding, and the last column is always one
        return replace(tokenizer, encode=encode, suffix=(), context=tokenizer.context - 1, last=0)
    suffix = tuple(0 if number == unwanted else number for number in tokenizer.suffix)
    return replace(tokenizer, encode=encode, suffix=suffix)


def faster(clean: Clean) -> Clean:
    """Return the same cleaning, which takes a tenth of the time for captions that ftfy leaves as they are.

    Others are cleaned once for all tokenizers whose captions follow each other soon.
    """
    after: dict[str, Clean] = {"_clean_lower": str.lower, "_clean_whitespace": str}
    if clean.__name__ not in after:
        return clean
    cased = after[clean.__name__]
    whole: Clean = vars(sys.modules[clean.__module__])["_clean_whitespace"]

    def cleaned(text: str) -> str:
        return cased(" ".join(text.split()) if _UNCHANGED.fullmatch(text) else _kept(whole, text))

    return cleaned


@functools.lru_cache(maxsize=1024)
def _kept(clean: Clean, text: str) -> str:
    return clean(text)
