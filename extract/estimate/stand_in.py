"""Builds teachers whose weights are not here in full size with random weights: as slow and as large as the real ones.

Only a profile uses them. None of their features reaches a store, because `load_teacher` does not know them.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.library_models import CONFIG_FILE
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
from extract.teachers.loading import family_of
from store.errors import WeightsNotFoundError

from .known_models import KNOWN_MODELS, KNOWN_TIMM, KNOWN_TRANSFORMERS, processor_of

LOG_SCALE = math.log(50)
"""Logarithm of a multiplier of cosines that a CLIP model may have learned."""

WORDS = """
axial coronal sagittal contrast enhanced image scan of the a with and in from showing shows demonstrating
chest lung liver brain left right upper lower lobe mass lesion nodule tumor cells tissue stained section
patient arrow normal signal ultrasound radiograph histology staining magnification after before treatment
"""
"""Words of captions; each is one token of a stand-in's tokenizer."""

CAPTION_WORDS = (6, 12, 20, 35, 60, 110)
"""Lengths of a profile's captions, in turn; captions of figures are long and uneven."""


def captions(count: int) -> list[str]:
    """Return distinct captions, the same ones every time."""
    words = WORDS.split()
    return [
        " ".join(words[(number * 7 + place * 5 + place * place) % len(words)] for place in range(length))
        for number in range(count)
        for length in (CAPTION_WORDS[number % len(CAPTION_WORDS)],)
    ]


def stand_in(name: str, entry: TeacherEntry, folder: Path, *, device: str, seed: int = 0) -> FrozenTeacher:
    """Return a teacher of an entry's architecture with random weights.

    Args:
        entry: its weights are not on this machine; its configuration and tokenizer are used if they are.
        folder: an empty folder, to which the files for the loader are written.

    Raises:
        WeightsNotFoundError: the file that says its architecture is not here either.
        TeacherError: a file that is here does not fit.
    """
    here = write_files(name, entry, folder)
    spec = teacher_spec(name, here)
    family = family_of(spec, here)
    return family(spec, here, _random_state(family.architecture(spec, here), seed), device=device)


def write_files(name: str, entry: TeacherEntry, folder: Path) -> TeacherEntry:
    """Write what a loader reads of an entry beside weights, which are no weights; return the entry of the folder."""
    for part in (Path(), Path(TEXT_FOLDER)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for file in (Path(entry.folder) / part).glob("*"):
            if file.suffix in (".json", ".txt", ".model"):
                shutil.copy2(file, folder / part / file.name)
    for weights in weight_names(entry)[-1]:
        (folder / weights).write_bytes(b"a stand-in, to be told from weights")
    _write_configuration(name, entry, folder)
    _write_tokenizer(name, entry, folder)
    return entry.model_copy(update={"folder": str(folder)})


def _write_configuration(name: str, entry: TeacherEntry, folder: Path) -> None:
    file = {"open_clip": CONFIG_NAME, "transformers": CONFIG_FILE, "timm": CONFIG_FILE}.get(entry.family)
    if file is None or (folder / file).is_file():
        return
    published: dict[str, Any] = {"open_clip": KNOWN_MODELS, "transformers": KNOWN_TRANSFORMERS, "timm": KNOWN_TIMM}
    known = published[entry.family]
    repo = next((item.repo for item in entry.download if item.repo in known), None)
    if repo is None:
        raise WeightsNotFoundError(
            f"teacher {name}: {Path(entry.folder) / file} missing, so its architecture is not known",
            hint="that file is enough for --random-weights, with preprocessor_config.json for an encoder of images",
        )
    model = known[repo]
    if entry.family == "open_clip":
        model = {"model_cfg": built_in_architecture(name, model) if isinstance(model, str) else model}
    if entry.family == "transformers":
        (folder / "preprocessor_config.json").write_text(json.dumps(processor_of(repo)))
    (folder / file).write_text(json.dumps(model))


def _write_tokenizer(name: str, entry: TeacherEntry, folder: Path) -> None:
    if entry.family == "timm":
        return
    config = json.loads((folder / CONFIG_FILE).read_text()) if entry.family == "transformers" else {}
    if config.get("model_type", "clip") not in ("clip", "siglip"):
        return
    try:
        tokenizer_folder(folder)
    except WeightsNotFoundError:
        if config.get("model_type") == "siglip":
            _write_whole_words(folder, size=config["text_config"]["vocab_size"])
        elif config:
            _write_clip_tokenizer(folder)
        elif "hf_tokenizer_name" in (text := _text_config(name, entry, folder)) and "hf_model_name" not in text:
            _write_whole_words(folder, size=text["vocab_size"])
        else:
            _write_word_pieces(folder / TEXT_FOLDER, size=_vocabulary_size(name, entry, folder))


def _text_config(name: str, entry: TeacherEntry, folder: Path) -> dict[str, Any]:
    config = folder / CONFIG_NAME
    if config.is_file():
        model = json.loads(config.read_text())["model_cfg"]
    else:
        model = entry.config or (built_in_architecture(name, entry.architecture) if entry.architecture else {})
    text: dict[str, Any] = model.get("text_cfg", {})
    return text


def _vocabulary_size(name: str, entry: TeacherEntry, folder: Path) -> int:
    if entry.family == "medclip":
        return int(bert_sizes(folder, CLINICALBERT)["vocab_size"])
    tower = _text_config(name, entry, folder).get("hf_model_name", "")
    return int(bert_sizes(folder, KNOWN_BERTS.get(tower, PUBMEDBERT))["vocab_size"])


def _write_word_pieces(folder: Path, *, size: int) -> None:
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters)]
    tokens += [word for word in dict.fromkeys(WORDS.split()) if word not in tokens]
    tokens += [f"[unused{number}]" for number in range(size - len(tokens))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_whole_words(folder: Path, *, size: int) -> None:
    """Write a tokenizer of the kind that any library reads; SigLIP's own needs a trained vocabulary."""
    known = list(dict.fromkeys(["<pad>", "</s>", "<unk>", *WORDS.split()]))[:size]
    vocabulary = {token: number for number, token in enumerate(known)}
    vocabulary |= {f"<unused{number}>": number for number in range(len(known), size)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_clip_tokenizer(folder: Path) -> None:
    """Write the tokenizer of transformers' CLIP from open_clip's vocabulary."""
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
