"""Runs PMC-CLIP and MedCLIP, whose towers are put together here from parts of transformers and torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, BertTokenizer, SwinConfig, SwinModel

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import BERT_CONTEXT
from extract.teacher_files.states import State
from extract.teacher_files.text_tower import tokenizer_folder
from store.errors import TeacherError
from store.format.records import Spec
from store.texts.tokens import CaptionTokenizer

from .base import FrozenTeacher, load_tokenizer


class _BertTeacher(FrozenTeacher):
    """A teacher whose text tower is a BERT of transformers."""

    towers: Callable[[dict[str, Any], int], nn.Module]
    lower_case: bool | None = None

    @classmethod
    def architecture(cls, spec: Spec, entry: TeacherEntry) -> nn.Module:
        """See `FrozenTeacher.architecture`."""
        del entry
        try:
            return cls.towers(spec.architecture, spec.embed_dim)
        except (TypeError, ValueError) as error:
            raise TeacherError(f"teacher {spec.teacher}: its config cannot be loaded: {error}") from error

    def _read_tokenizer(self, spec: Spec, entry: TeacherEntry, model: nn.Module) -> CaptionTokenizer:
        del model
        vocabulary, folder = spec.architecture["text"]["vocab_size"], tokenizer_folder(Path(entry.folder))
        return load_tokenizer(
            BertTokenizer,
            folder,
            vocabulary=vocabulary,
            context=BERT_CONTEXT,
            teacher=spec.teacher,
            lower_case=self.lower_case,
        )


class _PmcClip(nn.Module):
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
        if architecture.get("batch_norm") == "per_image":
            _normalize_by_each_image(self.visual)
        self.text_encoder = BertModel(bert)
        self.text_projection = nn.Parameter(torch.empty(bert.hidden_size, embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))


class _PerImage(nn.BatchNorm2d):
    """Batch normalisation by each image's own mean and variance: training mode with one image in a batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return functional.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


def _normalize_by_each_image(model: nn.Module) -> None:
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, _PerImage(child.num_features, eps=child.eps))
        else:
            _normalize_by_each_image(child)


class PmcClipTeacher(_BertTeacher):
    """PMC-CLIP: CLIP's ModifiedResNet-50 and a BERT whose padding is not masked (its pmc_clip.py)."""

    towers = _PmcClip

    def _image_features(self, normal_BCHW: Tensor) -> Tensor:
        features_BD: Tensor = self._model.visual(normal_BCHW)  # type: ignore[operator]
        return features_BD

    def _text_features(self, ids_BL: Tensor, lengths_B: list[int]) -> Tensor:
        # The authors pass no attention mask: the model attends to the padding, whose length affects the feature.
        mask_BL = None
        if self.spec.architecture.get("text_mask"):
            mask_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) < torch.tensor(lengths_B)[:, None].to(ids_BL)
        output = self._model.text_encoder(input_ids=ids_BL, attention_mask=mask_BL)  # type: ignore[operator]
        pooled = self.spec.architecture["text_feature"] == "pooler"
        hidden_BH: Tensor = output.pooler_output if pooled else output.last_hidden_state[:, 0]
        return hidden_BH @ self._model.text_projection  # type: ignore[operator]


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
            swin = SwinModel(SwinConfig(**{name: value for name, value in vision.items() if name != "tower"}))
            self.model = swin
            self.projection_head = nn.Linear(swin.num_features, embed_dim, bias=False)

    def forward(self, normal_BCHW: Tensor) -> Tensor:
        output = self.model(normal_BCHW)
        features_BD: Tensor = self.projection_head(output.pooler_output) if self.projection_head else output
        return features_BD


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


class _MedClip(nn.Module):
    def __init__(self, architecture: dict[str, Any], embed_dim: int) -> None:
        super().__init__()
        self.vision_model = _Vision(architecture["vision"], embed_dim)
        self.text_model = _Text(BertConfig(**architecture["text"]), embed_dim)
        self.logit_scale = nn.Parameter(torch.empty(()))


class MedClipTeacher(_BertTeacher):
    """MedCLIP: Swin-T or ResNet-50, and Bio_ClinicalBERT averaged over layers and tokens (its modeling_medclip.py)."""

    _computed = ("relative_position_index",)
    towers = _MedClip
    lower_case = True
    """The vocabulary is cased, but the authors' tokenizer lower-cases, because their folder does not forbid it."""

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
        names, renamed = model.state_dict().keys(), State()
        for name, value in state.items():
            new = name
            if name not in names and name.startswith("vision_model.model."):
                new = next((name.replace(old, other) for old, other in SWIN_NAMES if old in name), name)
            renamed[new] = value
        return renamed
