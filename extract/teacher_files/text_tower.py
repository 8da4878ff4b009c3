"""Reads sizes, files and digests of BERT text towers and their tokenizers on disk, without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from store.errors import TeacherError, WeightsNotFoundError
from store.io.weight_files import TOKENIZER_FILES

from .digests import file_digest
from .entry import FETCH

TEXT_FOLDER = "text"
"""Subfolder for configuration and tokenizer of a BERT that a teacher's authors publish in another repository."""

PUBMEDBERT = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
"""Sizes of BERT-base with PubMedBERT's vocabulary (its ``config.json``)."""

CLINICALBERT = PUBMEDBERT | {"vocab_size": 28996}
"""The same with the cased vocabulary of Bio_ClinicalBERT."""

KNOWN_BERTS = {
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": PUBMEDBERT,
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext": PUBMEDBERT,
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract": PUBMEDBERT,
    "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract-fulltext": PUBMEDBERT,
    "emilyalsentzer/Bio_ClinicalBERT": CLINICALBERT,
}
"""Sizes by the name in a checkpoint's configuration, so that no hub has to be asked."""


def bert_sizes(folder: Path, default: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of a teacher's BERT from ``text/config.json`` if that exists, else the default.

    Raises:
        TeacherError: that file is no configuration of a BERT.
    """
    path = folder / TEXT_FOLDER / "config.json"
    if not path.is_file():
        return default
    config = read_json(path)
    if config.get("model_type", "bert") != "bert":
        raise TeacherError(f"{path}: a model of type {config['model_type']!r}, expected 'bert'")
    return {name: config.get(name, value) for name, value in PUBMEDBERT.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        WeightsNotFoundError: the file is missing.
        TeacherError: it holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise WeightsNotFoundError(f"{path}: missing", hint=f"{FETCH} gets what its teachers need") from None
    except ValueError as error:
        raise TeacherError(f"{path}: not JSON: {error}", hint="move it away and fetch it again") from error
    if not isinstance(content, dict):
        raise TeacherError(f"{path}: not a JSON object", hint="move it away and fetch it again")
    return content


TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
"""Files each of which is a tokenizer's vocabulary."""


def tokenizer_folder(folder: Path) -> Path:
    """Return the folder of a teacher's tokenizer: its own folder or ``text`` in it.

    Raises:
        WeightsNotFoundError: neither has a tokenizer.
    """
    for place in (folder / TEXT_FOLDER, folder):
        if any((place / name).is_file() for name in TOKENIZERS):
            return place
    raise WeightsNotFoundError(
        f"{folder}: no tokenizer there: neither tokenizer.json nor vocab.txt, nor in {TEXT_FOLDER}/",
        hint=f"{FETCH} gets what its teachers need, or put the tokenizer's files there",
    )


def tokenizer_digest(folder: Path) -> str:
    """Return the digest of a tokenizer's files."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update(f"{name} {file_digest(folder / name)}\n".encode())
    return digest.hexdigest()
