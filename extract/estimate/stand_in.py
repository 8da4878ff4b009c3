"""Teachers whose weights are not here, in full size with random weights: as slow and as large as they will be.

Only a profile uses them. No feature of theirs reaches a store: `extract.teacher.load_teacher` knows nothing of them.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.model_folder import CONFIG_NAME, built_in_architecture
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.text_tower import (
    CLINICALBERT,
    KNOWN_BERTS,
    PUBMEDBERT,
    TEXT_FOLDER,
    bert_sizes,
    tokenizer_folder,
)
from extract.teacher_files.weights import weight_names
from extract.teachers.base import FrozenTeacher
from extract.teachers.loading import FAMILIES
from store.errors import WeightsNotFoundError

LOG_SCALE = math.log(50)
"""A multiplier of cosines that a CLIP model may have learned."""

PUBMEDBERT_NAME = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
VIT_B16_PUBMEDBERT = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": PUBMEDBERT_NAME,
        "hf_tokenizer_name": PUBMEDBERT_NAME,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
"""BiomedCLIP's ``open_clip_config.json``."""

KNOWN_MODELS: dict[str, str | dict[str, Any]] = {
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": VIT_B16_PUBMEDBERT,
    "wisdomik/QuiltNet-B-32": "ViT-B-32",
    "wisdomik/QuiltNet-B-16": "ViT-B-16",
    "wisdomik/QuiltNet-B-16-PMB": VIT_B16_PUBMEDBERT,
    # Patches of 16 or of 32 pixels: its configuration was not read. The dearer of the two.
    "wisdomik/GenMedClip": "ViT-B-16",
    "ryanyip7777/pmc_vit_l_14": "ViT-L-14",
}
"""By repository, what its ``open_clip_config.json`` says: an architecture of open_clip's, or a ``model_cfg``."""

WORDS = """
axial coronal sagittal contrast enhanced image scan of the a with and in from showing shows demonstrating
chest lung liver brain left right upper lower lobe mass lesion nodule tumor cells tissue stained section
patient arrow normal signal ultrasound radiograph histology staining magnification after before treatment
"""
"""Of captions; a stand-in's tokenizer knows each as one token."""

CAPTION_WORDS = (6, 12, 20, 35, 60, 110)
"""How long the captions of a profile are, in turn; figures' captions are long and uneven."""


def captions(count: int) -> list[str]:
    """Return captions that are the same every time, each another."""
    words = WORDS.split()
    return [
        " ".join(words[(number * 7 + place * 5 + place * place) % len(words)] for place in range(length))
        for number in range(count)
        for length in (CAPTION_WORDS[number % len(CAPTION_WORDS)],)
    ]


def stand_in(name: str, entry: TeacherEntry, folder: Path, *, device: str, seed: int = 0) -> FrozenTeacher:
    """Return a teacher of an entry's architecture with random weights.

    Args:
        name: its id.
        entry: its entry, whose weights are not on this machine; configuration and tokenizer are used if they are.
        folder: empty; what the loader needs is written there.
        device: where it runs.
        seed: of the weights.

    Raises:
        WeightsNotFoundError: what it looks like is in a file that is not here either.
        TeacherError: a file that is here does not fit.
    """
    here = write_files(name, entry, folder)
    spec = teacher_spec(name, here)
    family = FAMILIES[entry.family]
    return family(spec, here, _random_state(family.architecture(spec, here), seed), device=device)


def write_files(name: str, entry: TeacherEntry, folder: Path) -> TeacherEntry:
    """Write into an empty folder what an entry's spec is read from, with no weights, and return the entry of it.

    Raises:
        WeightsNotFoundError: what it looks like is in a file that is not here either.
    """
    _copy_small_files(Path(entry.folder), folder)
    for file in weight_names(entry)[-1]:
        (folder / file).write_bytes(b"a stand-in, to be told from weights")
    _write_configuration(name, entry, folder)
    _write_tokenizer(entry, folder)
    return entry.model_copy(update={"folder": str(folder)})


def _copy_small_files(source: Path, folder: Path) -> None:
    for part in (Path(), Path(TEXT_FOLDER)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for file in (source / part).glob("*"):
            if file.suffix in (".json", ".txt"):
                shutil.copy2(file, folder / part / file.name)


def _write_configuration(name: str, entry: TeacherEntry, folder: Path) -> None:
    if entry.family == "open_clip" and not (folder / CONFIG_NAME).is_file():
        known = next((KNOWN_MODELS[item.repo] for item in entry.download if item.repo in KNOWN_MODELS), None)
        if known is None:
            raise WeightsNotFoundError(
                f"teacher {name}: {Path(entry.folder) / CONFIG_NAME} missing, so its architecture is not known",
                hint="that file is enough for --random-weights",
            )
        model = built_in_architecture(name, known) if isinstance(known, str) else known
        (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": model}))
    if entry.family == "clip" and not (folder / "config.json").is_file():
        # With nothing else stated transformers builds OpenAI's ViT-B/32, which PLIP and PubMedCLIP are.
        (folder / "config.json").write_text(json.dumps({"model_type": "clip", "projection_dim": 512}))


def _write_tokenizer(entry: TeacherEntry, folder: Path) -> None:
    try:
        tokenizer_folder(folder)
    except WeightsNotFoundError:
        if entry.family == "clip":
            _write_clip_tokenizer(folder)
        else:
            _write_word_pieces(folder / TEXT_FOLDER, size=_vocabulary_size(entry, folder))


def _vocabulary_size(entry: TeacherEntry, folder: Path) -> int:
    if entry.family == "medclip":
        return int(bert_sizes(folder, CLINICALBERT)["vocab_size"])
    config = folder / CONFIG_NAME
    model = json.loads(config.read_text())["model_cfg"] if config.is_file() else entry.config or {}
    tower = model.get("text_cfg", {}).get("hf_model_name", "")
    return int(bert_sizes(folder, KNOWN_BERTS.get(tower, PUBMEDBERT))["vocab_size"])


def _write_word_pieces(folder: Path, *, size: int) -> None:
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters)]
    tokens += [word for word in dict.fromkeys(WORDS.split()) if word not in tokens]
    tokens += [f"[unused{number}]" for number in range(size - len(tokens))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_clip_tokenizer(folder: Path) -> None:
    """Write the tokenizer of transformers' CLIP from the vocabulary that open_clip brings along."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    simple = SimpleTokenizer()
    merges = [pair for pair, _ in sorted(simple.bpe_ranks.items(), key=lambda item: item[1])]
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {ends.get(token, token): number for token, number in simple.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(str(folder))


def _random_state(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        if name == "logit_scale":
            return torch.full(value.shape, LOG_SCALE)
        if value.dim() > 1:
            return torch.randn(value.shape, generator=generator) / math.sqrt(value[0].numel())
        return torch.ones(value.shape) if name.endswith(("weight", "running_var")) else torch.zeros(value.shape)

    return {name: drawn(name, value) for name, value in model.state_dict().items()}
