"""The pipeline's section ``corpora``: where image-text pairs lie and how they are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from store.config.pipeline_file import ConfigPath, Section

from .curation import Keep
from .fields import Fields


class Phantom(Section):
    """How to draw a phantom corpus (``python -m extract phantom``).

    Attributes:
        rows: pairs to draw.
        seed: decides every pixel and word.
        modality: draw this one only; all nine in turn if left out.
        others: share of rows drawn from the other modalities when one is given.
        split: written into every pair.
        size_px: side of the images.
    """

    rows: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**64)
    modality: str | None = None
    others: float = Field(default=0.0, ge=0, lt=1)
    split: str = "train"
    size_px: int = Field(default=64, ge=32)


class Corpus(Section):
    """Image-text pairs.

    Attributes:
        files: WebDataset tars, Parquet, JSON lines or CSV: paths or URLs with ``*``.
        format: which of them; by the names of the files if left out.
        qualify_keys: put the file's name before each key, for corpora whose files count their keys anew.
        fields: where in a record the key, the caption, the modality and so on are.
        modality_map: from what the corpus says to the modality; a value that it lacks gives none.
        keep: rules that choose pairs while indexing.
        phantom: how the corpus is drawn, if it is a phantom; the tars then go to the folder of ``files``.
    """

    files: list[ConfigPath] = Field(min_length=1)
    format: Literal["tar", "parquet", "jsonl", "csv"] | None = None
    qualify_keys: bool = False
    fields: Fields = Fields()
    modality_map: dict[str, str] | None = None
    keep: Keep = Keep()
    phantom: Phantom | None = None
