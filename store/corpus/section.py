"""The pipeline's section ``corpora``: where image-text pairs lie and how they are read.

docs/pipelines.md describes every key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from store.config.pipeline_file import ConfigPath, Section

from .curation import Keep
from .fields import Fields

Format = Literal["tar", "zip", "parquet", "jsonl", "csv"]

KeyEnds = Literal["first_dot", "last_dot"]


def _keep_slash(value: str, resolve: ValidatorFunctionWrapHandler) -> str:
    # A path loses the / that says that folders are meant.
    path: str = resolve(value)
    return f"{path}/" if isinstance(value, str) and value.endswith("/") and not path.endswith("/") else path


CorpusPath = Annotated[ConfigPath, WrapValidator(_keep_slash)]
"""A path or URL; a ``/`` at its end stays."""


class Phantom(Section):
    """Settings of a phantom corpus (``python -m extract phantom``)."""

    rows: int = Field(gt=0)
    seed: int = Field(ge=0, lt=2**64)
    modality: str | None = None
    others: float = Field(default=0.0, ge=0, lt=1)
    split: str = "train"
    size_px: int = Field(default=64, ge=32)


class Corpus(Section):
    """Image-text pairs."""

    files: list[CorpusPath] = Field(min_length=1)
    format: Format | None = None
    key_ends: KeyEnds | None = None
    image_suffixes: list[Annotated[str, Field(pattern=r"^\.?\w+$")]] = []
    qualify_keys: bool = False
    fields: Fields = Fields()
    modality_map: dict[str, str] | None = None
    keep: Keep = Keep()
    phantom: Phantom | None = None
