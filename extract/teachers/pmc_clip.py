"""PMC-CLIP: CLIP's ModifiedResNet-50 and a BERT whose padding is not masked (its pmc_clip.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import BERT_CONTEXT
from extract.teacher_files.text_tower import tokenizer_folder
from store.format.records import Spec

from .base import FrozenTeacher
from .tokenizers import load_bert_tokenizer


class _Towers(nn.Module):
    def __init__(self, architecture: dict[str, Any], embed_dim: int) -> None:
        super().__init__()
        vision, bert = architecture["vision"], BertConfig(**architecture["text"])
        self.visual = ModifiedResNet(
            layers=vision["layers"],
            output_dim=embed_dim,
            heads=architecture["heads"],
            image_size=vision["image_size"],
            width=vision["width"],
        )
        self.text_encoder = BertModel(bert)
        self.text_projection = nn.Parameter(torch.empty(bert.hidden_size, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))


class PmcClipTeacher(FrozenTeacher):
    """PMC-CLIP."""

    @classmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """See `FrozenTeacher.architecture`."""
        del entry
        return _Towers(spec.architecture, spec.embed_dim)

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> None:
        del model
        self._context = BERT_CONTEXT
        self._feature: str = spec.architecture["text_feature"]
        vocabulary = spec.architecture["text"]["vocab_size"]
        folder = tokenizer_folder(Path(entry.folder))
        self._tokenizer = load_bert_tokenizer(folder, vocabulary=vocabulary, teacher=spec.teacher)

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        features_BD: Tensor = self._model.visual(normal_BCHW)  # type: ignore[operator]
        return features_BD

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        # The authors pass no attention mask: the model attends to the padding, whose length affects the feature.
        del lengths_B
        output = self._model.text_encoder(input_ids=ids_BL)  # type: ignore[operator]
        hidden_BH: Tensor = output.pooler_output if self._feature == "pooler" else output.last_hidden_state[:, 0]
        return hidden_BH @ self._model.text_projection  # type: ignore[operator]
