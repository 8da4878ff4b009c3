"""The common part of all families: loading, tokenizing, normalising, autocast, unit norm. A family adds its model."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, BertTokenizer

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Preprocessing
from extract.teacher_files.states import State, checked_logit_scale, load_strictly
from store.errors import TeacherError
from store.format.records import Spec
from store.texts.tokens import CaptionTokenizer, Clean, Encoded, transformers_tokenizer

from .arithmetic import arithmetic


class FrozenTeacher(ABC):
    """A teacher on a device.

    Args:
        state: its tensors, by the names of its family's model.

    Attributes:
        embed_dim: D.
        batch_size: rows of a forward pass, where its entry states them.
        logit_scale: multiplier of its cosines, exponentiated; 1 where there are none, because it encodes images alone.

    Raises:
        TeacherError: the device is not here, or weights, configuration and tokenizer do not fit each other.
    """

    _tokenizer: CaptionTokenizer
    _computed: tuple[str, ...] = ()
    """Ends of the names of buffers that the model computes itself, so that files may lack them."""

    def __init__(self, spec: Spec, entry: TeacherEntry, state: State, *, device: str = "cpu") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise TeacherError(
                f"teacher {spec.teacher}: no CUDA device is visible to this process",
                hint="run where a GPU is, or with --set extract.device=cpu",
            )
        self.name, self.embed_dim, self.spec = spec.teacher, spec.embed_dim, spec
        preprocessing = Preprocessing.model_validate(spec.preprocessing)
        self.geometry, self.window = preprocessing.geometry, preprocessing.window
        model = self.architecture(spec, entry)
        if "text" in spec.sides:
            self._tokenizer = self._read_tokenizer(spec, entry, model)
        for name in ("logit_scale", "logit_bias"):  # a number in some files, a vector of one in others
            if name in state and name in model.state_dict():
                state = state | {name: state[name].reshape(model.state_dict()[name].shape)}
        load_strictly(model, self._renamed(state, model), teacher=spec.teacher, computed=self._computed)
        self.logit_scale = _logit_scale(model, spec)
        self.batch_size = entry.batch_size
        self._device, self._attention = torch.device(device), entry.attention
        self._model = model.eval().requires_grad_(requires_grad=False).to(self._device)
        if entry.channels_last:  # as the pixels are, which come as (B, H, W, 3)
            self._model = self._model.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._check_width()
        self._run_image: Callable[[Tensor], Tensor] = self._image_features
        self._run_text: Callable[[Tensor, list[int]], Tensor] = self._text_features
        if entry.compile:
            self._run_image = torch.compile(self._image_features, backend=entry.compile)
            self._run_text = torch.compile(self._text_features, backend=entry.compile)

    @torch.inference_mode()
    def _check_width(self) -> None:
        size = self.geometry.size_px
        try:
            found = tuple(self._image_features(torch.zeros(1, 3, size, size, device=self._device)).shape)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise TeacherError(
                f"teacher {self.name}: the model does not take RGB images of {size} px: {error}",
                hint="its configuration and its preprocessing are of different models",
            ) from error
        if found != (1, self.embed_dim):
            raise TeacherError(
                f"teacher {self.name}: the model gives features of {' x '.join(map(str, found[1:]))} numbers an image, "
                f"expected {self.embed_dim}",
                hint=f"state teachers.{self.name}.embed_dim: {found[1]}"
                if len(found) == 2
                else f"a feature is one row of numbers: state a pooling, for timm by teachers.{self.name}.config: "
                "{global_pool: avg}",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of its weights in memory."""
        return sum(tensor.nbytes for tensor in (*self._model.parameters(), *self._model.buffers()))

    @property
    def tokenizer_key(self) -> Hashable:
        """Teachers with the same key have the same tokens of a caption."""
        # open_clip's settings beside the files, such as further special tokens.
        settings = self.spec.architecture.get("text_cfg", {}).get("tokenizer_kwargs")
        return json.dumps([self.spec.tokenizer, settings], sort_keys=True), self._tokenizer.key

    def normalize(self, pixels_BHWC: Tensor) -> Tensor:
        """Return images (B, H, W, 3) uint8, in this teacher's geometry and on its device, as (B, 3, H, W) float32."""
        return (pixels_BHWC.permute(0, 3, 1, 2).float().div(255) - self._mean) / self._std

    def tokenize(self, captions: Sequence[str]) -> Encoded:
        """Return captions as token ids, cut as the authors cut them.

        Raises:
            TeacherError: it encodes images alone.
        """
        if "text" not in self.spec.sides:
            raise self._images_alone()
        return self._tokenizer(captions)

    def encode_image(self, pixels_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of images in this teacher's geometry, (B, H, W, 3) uint8."""
        return _on_host(self.image_features(torch.from_numpy(pixels_BHWC).to(self._device)))

    def encode_text(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit-norm features (B, D) of captions; see `tokenize`."""
        tokens = self.tokenize(captions)
        return _on_host(self.text_features(torch.from_numpy(tokens.ids_BL).to(self._device), tokens.lengths_B.tolist()))

    @torch.inference_mode()
    def image_features(self, pixels_BHWC: Tensor) -> Tensor:
        """Return unit-norm features (B, D) float32 of images (B, H, W, 3) uint8; both are on the teacher's device."""
        normal_BCHW = self.normalize(pixels_BHWC)
        with self._arithmetic():
            return functional.normalize(self._run_image(normal_BCHW).float(), dim=-1)

    @torch.inference_mode()
    def text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        """Return unit-norm features (B, D) float32 of captions that `tokenize` made; both are on its device."""
        with self._arithmetic():
            return functional.normalize(self._run_text(ids_BL, lengths_B).float(), dim=-1)

    def _arithmetic(self) -> contextlib.AbstractContextManager[None]:
        return arithmetic(self.spec.compute_dtype, device=self._device.type, attention=self._attention)

    @classmethod
    @abstractmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """Return the model before its weights are loaded; one with a text tower has a ``logit_scale``.

        Raises:
            TeacherError: the family cannot build a model of this configuration.
        """

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> CaptionTokenizer:
        """Load the tokenizer and check that it fits the model; a teacher of images alone has none."""
        del spec, entry, model
        raise self._images_alone()

    @abstractmethod
    def _image_features(self, normal_BCHW: Tensor) -> Tensor: ...

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        del ids_BL, lengths_B
        raise self._images_alone()

    def _images_alone(self) -> TeacherError:
        return TeacherError(
            f"teacher {self.name} encodes images alone, so that it has no features of captions",
            hint="take another teacher where captions are needed",
        )

    def _renamed(self, state: State, model: nn.Module) -> State:
        """Return the state by the model's names."""
        del model
        return state


def _logit_scale(model: nn.Module, spec: Spec) -> float:
    if "text" not in spec.sides:
        return 1.0
    state = model.state_dict()
    return checked_logit_scale(float(state["logit_scale"]), teacher=spec.teacher, sigmoid="logit_bias" in state)


def _on_host(features_BD: Tensor) -> npt.NDArray[np.float32]:
    host_BD: npt.NDArray[np.float32] = features_BD.cpu().numpy()
    return host_BD


def load_tokenizer(
    kind: type[AutoTokenizer] | type[BertTokenizer],
    folder: Path,
    *,
    vocabulary: int,
    context: int,
    teacher: str,
    lower_case: bool | None = None,
    clean: Clean = str,
    ids_alone: bool = False,
) -> CaptionTokenizer:
    """Return a tokenizer of transformers from a folder.

    Args:
        vocabulary: the number of tokens of the model.
        context: the number of tokens to which captions are cut and padded.
        clean: is applied to a caption first.
        lower_case: overrides the folder's setting.
        ids_alone: the model gets the ids and no mask, so that padding may lie on either side.

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
    with refusing_tokenizer(teacher, folder):
        return transformers_tokenizer(tokenizer, context, clean, ids_alone=ids_alone)


@contextlib.contextmanager
def refusing_tokenizer(teacher: str, folder: Path | str) -> Iterator[None]:
    """Say whose tokenizer it is that cannot be used.

    Raises:
        TeacherError: instead of a ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise TeacherError(
            f"teacher {teacher}: the tokenizer in {folder} cannot be used: {error}",
            hint="compare tokenizer_config.json there with that of the model's own repository",
        ) from error
