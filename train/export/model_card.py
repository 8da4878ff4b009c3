"""The model card: what a model was made from, and whose terms still apply. Pure text, no files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from store.errors import shortened

RESTRICTED = re.compile(r"\bNC\b|non-?commercial|research[ -](use|only)", re.IGNORECASE)
"""Markers of licences that forbid commercial use or uses beyond research."""

UNKNOWN = "not stated"
SHOWN_LICENCES = 20


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherTerms:
    """A teacher as its spec in the store describes it."""

    name: str
    source: str
    licence: str
    spec_hash: str


@dataclass(kw_only=True, frozen=True, slots=True)
class Card:
    """The content of a model card.

    Attributes:
        architecture: its open_clip ``model_cfg``.
        recipe: training settings as JSON values; empty if the model was trained elsewhere.
        corpus: lines about the pairs.
        pair_licences: number of pairs by licence, where the store states it.
        begun_from: models whose weights the training started from, and whose terms still apply.
        results: Markdown.
        origin: of a model that was trained elsewhere, as Markdown.
    """

    name: str
    architecture: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    corpus: Sequence[str] = ()
    pair_licences: Mapping[str, int] = field(default_factory=dict)
    teachers: Sequence[TeacherTerms] = ()
    begun_from: Sequence[str] = ()
    results: str = ""
    origin: str = ""


def is_restricted(licence: str) -> bool:
    """Return whether a licence forbids commercial use, or uses beyond research."""
    return RESTRICTED.search(licence) is not None


def render(card: Card) -> str:
    """Return a model card as Markdown with the header that the Hugging Face Hub reads."""
    parts = [_header(card), f"# {card.name}\n", _use(card), _terms(card), _made_from(card)]
    if card.recipe:
        parts.append(f"## Recipe\n\n```json\n{json.dumps(card.recipe, indent=1)}\n```\n")
    if card.results:
        parts.append(f"## Results\n\n{card.results.strip()}\n")
    parts.append(f"## Architecture\n\n```json\n{json.dumps(card.architecture, indent=1)}\n```\n")
    return "\n".join(part for part in parts if part)


def _line(text: str) -> str:
    """Return a stranger's text as a part of one line that Markdown does not read as structure."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", shortened(text))


def _header(card: Card) -> str:
    lines = ["library_name: open_clip", "pipeline_tag: zero-shot-image-classification", "license: other"]
    lines += ["license_name: terms-of-the-teachers" if card.teachers else "license_name: see-below"]
    return "---\n" + "\n".join([*lines, "tags: [clip, biomedical]"]) + "\n---\n"


def _use(card: Card) -> str:
    side = card.architecture["vision_cfg"].get("image_size", 224)
    text = card.architecture["text_cfg"]
    lines = [
        f"An open_clip model: images of {side} px, captions of up to {text.get('context_length', 77)} tokens, "
        f"embeddings of {card.architecture['embed_dim']}.\n",
        "```python",
        "import open_clip",
        'model, preprocess = open_clip.create_model_from_pretrained("local-dir:THIS_FOLDER")',
        'tokenizer = open_clip.get_tokenizer("local-dir:THIS_FOLDER")',
        "```\n",
        "It is a research model and no medical device; it has been tried on nothing but what is listed here.\n",
    ]
    tower = str(text.get("hf_model_name", ""))
    if tower.startswith("/"):
        lines.append(
            f"The text tower's configuration is read from `{tower}`: after moving this folder, put the new absolute "
            "path of its `text/` into `open_clip_config.json` as `hf_model_name`.\n"
        )
    elif tower:
        lines.append(f"open_clip reads the text tower's configuration (no weights) from `{tower}` on the hub.\n")
    return "\n".join(lines)


def _terms(card: Card) -> str:
    lines = ["## Terms\n"]
    restricted = [teacher for teacher in card.teachers if is_restricted(teacher.licence)]
    unknown = [teacher.name for teacher in card.teachers if teacher.licence == UNKNOWN]
    if restricted:
        names = ", ".join(f"{teacher.name} ({_line(teacher.licence)})" for teacher in restricted)
        lines.append(
            f"**Not for commercial use, or for research alone:** it was distilled from {names}. Their terms travel on: "
            "use and pass on this model under them.\n"
        )
    if unknown:
        lines.append(f"No licence is stated for the weights of {', '.join(unknown)}: ask their authors.\n")
    if card.begun_from:
        lines.append("It began with other models' weights, whose terms it keeps:\n")
        lines += [f"- {name}" for name in card.begun_from]
        lines.append("")
    if card.origin:
        lines.append(f"{card.origin}\n")
    if not card.teachers and not card.begun_from and not card.origin:
        lines.append("No other model had a part in it; its pairs' licences are below, where they are known.\n")
    return "\n".join(lines)


def _made_from(card: Card) -> str:
    lines: list[str] = []
    if card.teachers:
        lines += ["## Teachers\n", "| teacher | weights | licence | spec |", "|---|---|---|---|"]
        lines += [
            f"| {t.name} | {_line(t.source)} | {_line(t.licence)} | `{t.spec_hash[:12]}` |" for t in card.teachers
        ]
        lines.append("")
    if card.corpus or card.pair_licences:
        lines += ["## Corpus\n", *(f"- {line}" for line in card.corpus)]
        common = sorted(card.pair_licences.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"- {count:,} pairs: {_line(licence)}" for licence, count in common[:SHOWN_LICENCES]]
        if len(common) > SHOWN_LICENCES:
            lines.append(f"- {sum(count for _, count in common[SHOWN_LICENCES:]):,} pairs: other licences")
        lines.append("")
    return "\n".join(lines)
