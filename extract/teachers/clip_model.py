"""Runs CLIP models of transformers: a folder with ``config.json``, weights and tokenizer (PLIP, PubMedCLIP)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.text_tower import read_json
from store.errors import TeacherError
from store.format.records import Spec

from .base import FrozenTeacher
from .tokenizers import load_clip_tokenizer


class ClipTeacher(FrozenTeacher):
    """A CLIPModel of transformers."""

    @classmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """See `FrozenTeacher.architecture`."""
        path = Path(entry.folder) / "config.json"
        try:
            model: nn.Module = CLIPModel(CLIPConfig.from_dict(read_json(path)))
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            raise TeacherError(f"teacher {spec.teacher}: {path} cannot be loaded: {error}") from error
        return model

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> None:
        text: Any = model.config.text_config  # type: ignore[union-attr]
        # Passed in every call, because PubMedCLIP's tokenizer states no length.
        self._context = text.max_position_embeddings
        self._tokenizer = load_clip_tokenizer(Path(entry.folder), vocabulary=text.vocab_size, teacher=spec.teacher)

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        return _projected(self._model.get_image_features(pixel_values=normal_BCHW))  # type: ignore[operator]

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        # The tower is causal and pools at the first end token; later tokens need no mask.
        del lengths_B
        return _projected(self._model.get_text_features(input_ids=ids_BL))  # type: ignore[operator]

    def _is_computed(self, name: str) -> bool:
        return name.endswith(".position_ids")


def _projected(output: Any) -> Tensor:
    # transformers 4 returns the projected feature, 5 an output object whose pooler_output it is.
    features_BD: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features_BD
