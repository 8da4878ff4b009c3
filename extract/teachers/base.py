"""The common part of all families: loading, tokenizing, normalising, autocast, unit norm. A family adds its model."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, BertTokenizer

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Preprocessing
from extract.teacher_files.specs import COMPILED
from extract.teacher_files.states import State, checked_logit_scale, load_strictly
from store.errors import TeacherError
from store.format.records import Spec

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(kw_only=True, frozen=True, slots=True)
class Tokens:
    """Captions as a teacher reads them.

    Attributes:
        ids_BL: token ids, padded; (B, L) int64.
        lengths_B: number of tokens that are no padding.
        truncated_B: whether the caption was cut.
    """

    ids_BL: Tensor
    lengths_B: list[int]
    truncated_B: list[bool]


class FrozenTeacher(ABC):
    """A teacher on a device.

    Args:
        state: its tensors, by the names of its family's model.

    Attributes:
        embed_dim: D.
        sides: sides that it encodes.
        logit_scale: multiplier of its cosines, exponentiated; 1 where there are none, because it encodes images alone.

    Raises:
        TeacherError: the device is not here, or weights, configuration and tokenizer do not fit each other.
    """

    _tokenizer: Any
    _context: int
    _computed: tuple[str, ...] = ()
    """Ends of the names of buffers that the model computes itself, so that files may lack them."""

    def __init__(self, spec: Spec, entry: TeacherEntry, state: State, *, device: str = "cpu") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise TeacherError(
                f"teacher {spec.teacher}: no CUDA device is visible to this process",
                hint="run where a GPU is, or with --set extract.device=cpu",
            )
        self.name, self.embed_dim, self.spec, self.sides = spec.teacher, spec.embed_dim, spec, spec.sides
        preprocessing = Preprocessing.model_validate(spec.preprocessing)
        self.geometry, self.window = preprocessing.geometry, preprocessing.window
        model = self.architecture(spec, entry)
        if "text" in self.sides:
            self._read_tokenizer(spec, entry, model)
        for name in ("logit_scale", "logit_bias"):  # a number in some files, a vector of one in others
            if name in state and name in model.state_dict():
                state = state | {name: state[name].reshape(model.state_dict()[name].shape)}
        load_strictly(model, self._renamed(state, model), teacher=spec.teacher, computed=self._computed)
        self.logit_scale = _logit_scale(model, spec)
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(requires_grad=False).to(self._device)
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._run_image: Callable[[Tensor], Tensor] = self._image_features
        self._run_text: Callable[[Tensor, list[int]], Tensor] = self._text_features
        if entry.compile:
            self._run_image = torch.compile(self._image_features, backend=entry.compile)
            self._run_text = torch.compile(self._text_features, backend=entry.compile)

    @property
    def nbytes(self) -> int:
        """Bytes of its weights in memory."""
        return sum(tensor.nbytes for tensor in (*self._model.parameters(), *self._model.buffers()))

    def normalize(self, pixels_BHWC: npt.NDArray[np.uint8]) -> Tensor:
        """Return images (B, H, W, 3) in this teacher's geometry as its image tower sees them, (B, 3, H, W) float32."""
        pixels_BCHW = torch.from_numpy(pixels_BHWC).to(self._device).permute(0, 3, 1, 2)
        return (pixels_BCHW.float().div(255) - self._mean) / self._std

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Return captions as token ids, cut as the authors cut them.

        Raises:
            TeacherError: it encodes images alone.
        """
        if "text" not in self.sides:
            raise TeacherError(
                f"teacher {self.name} encodes images alone, so that it has no features of captions",
                hint="take another teacher where captions are needed",
            )
        ids_BL, lengths_B = self._ids(list(captions))
        limit = ids_BL.shape[1]
        # Only a caption that fills its row can have been cut, so only such captions are tokenised again.
        truncated_B = [
            length >= limit and self._full_length(caption) > length
            for caption, length in zip(captions, lengths_B, strict=True)
        ]
        return Tokens(ids_BL=ids_BL, lengths_B=lengths_B, truncated_B=truncated_B)

    @torch.inference_mode()
    def encode_image(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of images in this teacher's geometry, (B, H, W, 3) uint8."""
        normal_BCHW = self.normalize(pixels_BHWC)
        with self._autocast():
            return _unit_norm(self._run_image(normal_BCHW))

    def encode_text(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions; see `tokenize`."""
        return self.encode_tokens(self.tokenize(captions))

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions that `tokenize` made."""
        with self._autocast():
            return _unit_norm(self._run_text(tokens.ids_BL.to(self._device), tokens.lengths_B))

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        dtype = AUTOCAST.get(self.spec.compute_dtype.removesuffix(COMPILED))
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=dtype)

    @classmethod
    @abstractmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """Return the model before its weights are loaded; one with a text tower has a ``logit_scale``.

        Raises:
            TeacherError: the family cannot build a model of this configuration.
        """

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> None:
        """Load the tokenizer and check that it fits the model; a teacher of images alone has none."""
        raise NotImplementedError

    @abstractmethod
    def _image_features(self, normal_BCHW: Tensor) -> Tensor: ...

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        raise NotImplementedError

    def _ids(self, captions: list[str]) -> tuple[Tensor, list[int]]:
        """Return ids (B, L), cut and padded, and the number of tokens of each caption that are no padding."""
        options = {"padding": "max_length", "truncation": True, "max_length": self._context}
        encoded = self._tokenizer(captions, **options, return_tensors="pt", return_attention_mask=True)
        return encoded["input_ids"].to(torch.int64), encoded["attention_mask"].sum(dim=1).tolist()

    def _full_length(self, caption: str) -> int:
        """Return how many tokens a caption has before it is cut, with special tokens."""
        return len(self._tokenizer(caption, truncation=False, verbose=False)["input_ids"])

    def _renamed(self, state: State, model: nn.Module) -> State:
        """Return the state by the model's names."""
        del model
        return state


def _logit_scale(model: nn.Module, spec: Spec) -> float:
    if "text" not in spec.sides:
        return 1.0
    state = model.state_dict()
    return checked_logit_scale(float(state["logit_scale"]), teacher=spec.teacher, sigmoid="logit_bias" in state)


def _unit_norm(features_BD: Tensor) -> npt.NDArray[np.float32]:
    normal: npt.NDArray[np.float32] = functional.normalize(features_BD.float(), dim=-1).cpu().numpy()
    return normal


def load_tokenizer(
    kind: type[AutoTokenizer] | type[BertTokenizer],
    folder: Path,
    *,
    vocabulary: int,
    teacher: str,
    lower_case: bool | None = None,
) -> Any:
    """Return a tokenizer of transformers from a folder.

    Args:
        vocabulary: the number of tokens of the model.
        lower_case: overrides the folder's setting.

    Raises:
        TeacherError: it cannot be read, or has another vocabulary than the model.
    """
    options = {} if lower_case is None else {"do_lower_case": lower_case}
    try:
        # BertTokenizer(vocab_file=...) of transformers 5 silently has five tokens; from_pretrained reads the file.
        tokenizer = kind.from_pretrained(str(folder), **options)
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
