"""MedCLIP: Swin-T or ResNet-50, and Bio_ClinicalBERT averaged over layers and tokens (its modeling_medclip.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from extract.teacher_files.checkpoints import State
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import BERT_CONTEXT
from extract.teacher_files.text_tower import tokenizer_folder
from store.errors import TeacherError
from store.format.records import Spec

from .base import FrozenTeacher
from .tokenizers import load_bert_tokenizer

SWIN_NAMES = (
    ("attention.self.query.", "attention.q_proj."),
    ("attention.self.key.", "attention.k_proj."),
    ("attention.self.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("attention.self.relative_position_bias_table", "attention.relative_position_bias.relative_position_bias_table"),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)
"""Swin's names in transformers 4, which the file has, and in 5. The attention's output must stay before the block's."""


class _Vision(nn.Module):
    def __init__(self, vision: dict[str, Any], embed_dim: int) -> None:
        super().__init__()
        if vision["tower"] == "resnet50":
            resnet = torchvision.models.resnet50(weights=None)
            resnet.fc = nn.Linear(resnet.fc.in_features, embed_dim, bias=False)
            self.model: nn.Module = resnet
            self.projection_head = None
        else:
            sizes = {name: value for name, value in vision.items() if name != "tower"}
            config = SwinConfig(**sizes)
            swin = SwinModel(config)
            self.model = swin
            self.projection_head = nn.Linear(swin.num_features, embed_dim, bias=False)

    def forward(self, normal_BCHW: Tensor) -> Tensor:
        output = self.model(normal_BCHW)
        if self.projection_head is None:
            features_BD: Tensor = output
            return features_BD
        projected_BD: Tensor = self.projection_head(output.pooler_output)
        return projected_BD


class _Text(nn.Module):
    def __init__(self, bert: BertConfig, embed_dim: int) -> None:
        super().__init__()
        self.model = BertModel(bert)
        self.projection_head = nn.Linear(bert.hidden_size, embed_dim, bias=False)

    def forward(self, ids_BL: Tensor) -> Tensor:
        hidden = self.model(input_ids=ids_BL, output_hidden_states=True).hidden_states
        layers_3BLH = torch.stack([hidden[1], hidden[2], hidden[-1]])
        projected_BD: Tensor = self.projection_head(layers_3BLH.mean(dim=2).mean(dim=0))
        return projected_BD


class _Towers(nn.Module):
    def __init__(self, architecture: dict[str, Any], embed_dim: int) -> None:
        super().__init__()
        self.vision_model = _Vision(architecture["vision"], embed_dim)
        self.text_model = _Text(BertConfig(**architecture["text"]), embed_dim)
        self.logit_scale = nn.Parameter(torch.empty(()))


class MedClipTeacher(FrozenTeacher):
    """MedCLIP."""

    @classmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """See `FrozenTeacher.architecture`."""
        del entry
        try:
            return _Towers(spec.architecture, spec.embed_dim)
        except (TypeError, ValueError) as error:
            raise TeacherError(f"teacher {spec.teacher}: its config cannot be loaded: {error}") from error

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> None:
        del model
        self._context = BERT_CONTEXT
        # The vocabulary is cased, but the authors' tokenizer lower-cases, because their folder does not forbid it.
        self._tokenizer = load_bert_tokenizer(
            tokenizer_folder(Path(entry.folder)),
            vocabulary=spec.architecture["text"]["vocab_size"],
            teacher=spec.teacher,
            lower_case=True,
        )

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        features_BD: Tensor = self._model.vision_model(normal_BCHW)  # type: ignore[operator]
        return features_BD

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        # The mean is over all tokens; with padding a feature would depend on its batch.
        features_BD = torch.empty(len(lengths_B), self.embed_dim, device=ids_BL.device)
        for length in sorted(set(lengths_B)):
            rows = [row for row, own in enumerate(lengths_B) if own == length]
            features_BD[rows] = self._model.text_model(ids_BL[rows, :length]).float()  # type: ignore[operator]
        return features_BD

    def _renamed(self, state: State, model: nn.Module) -> State:
        return _named_as(state, set(model.state_dict()))

    def _is_computed(self, name: str) -> bool:
        return name.endswith("relative_position_index")


def _named_as(state: State, names: set[str]) -> State:
    """Rename Swin's tensors if the model has other names."""
    renamed: State = {}
    for name, value in state.items():
        new = name
        if name not in names and name.startswith("vision_model.model."):
            new = next((name.replace(old, other) for old, other in SWIN_NAMES if old in name), name)
        renamed[new] = value
    return renamed
