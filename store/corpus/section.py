"""The pipeline's section ``corpora``: where image-text pairs lie and how they are read.

docs/pipelines.md describes every key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, field_validator

from store.config.pipeline_file import ConfigPath, Section, Seed
from store.config.template import is_template, parse_template

from .access import AllowedPlace
from .corpus_files import fixed_folder
from .curation import Keep
from .fields import Fields

Format = Literal["tar", "zip", "parquet", "jsonl", "json", "coco", "csv", "npz"]

KeyEnds = Literal["first_dot", "last_dot"]


def _keep_slash(value: str, resolve: ValidatorFunctionWrapHandler) -> str:
    # A path loses the / that says that folders are meant.
    path: str = resolve(value)
    return f"{path}/" if isinstance(value, str) and value.endswith("/") and not path.endswith("/") else path


CorpusPath = Annotated[ConfigPath, WrapValidator(_keep_slash)]
"""A path or URL; a ``/`` at its end stays."""


class Phantom(Section):
    """Settings of a phantom corpus (``python -m extract phantom``)."""

    rows: int = Field(gt=0, examples=[1000])
    seed: Seed = Field(examples=[1])
    modality: str | None = None
    others: float = Field(default=0.0, ge=0, lt=1)
    split: str = "train"
    size_px: int = Field(default=64, ge=32)


class Join(Section):
    """A second table, whose columns are added to the records that have the same value."""

    file: str = Field(min_length=1, examples=["captions.csv"])
    on: str | dict[str, str] = Field(min_length=1, examples=["image_id"])

    @field_validator("on")
    @classmethod
    def _templates(cls, on: str | dict[str, str]) -> str | dict[str, str]:
        for path in [on] if isinstance(on, str) else on.values():
            if is_template(path):
                parse_template(path)
        return on


class Fixed(Section):
    """Columns of the pair table that are the same for all pairs of a corpus."""

    modality: str | None = Field(default=None, min_length=1)
    split: str | None = Field(default=None, min_length=1)
    source: str | None = Field(default=None, min_length=1)
    license: str | None = Field(default=None, min_length=1)


class Corpus(Section):
    """Image-text pairs."""

    files: list[CorpusPath] = Field(min_length=1, examples=[["data/pairs-*.tar"]])
    format: Format | None = None
    key_ends: KeyEnds | None = None
    image_suffixes: list[Annotated[str, Field(pattern=r"^\.?\w+$")]] = []
    qualify_keys: bool = False
    fields: Fields = Fields()
    fixed: Fixed = Fixed()
    separator: str | None = None
    header: list[str] | None = Field(default=None, min_length=1)
    quotes: bool = True
    records: str | list[str] = []
    lists: dict[str, Annotated[str, Field(min_length=1)]] = {}
    names: dict[str, dict[str, str] | list[str]] = {}
    join: list[Join] = []
    modality_map: dict[str, str] | None = None
    keep: Keep = Keep()
    allow: list[AllowedPlace] = []
    phantom: Phantom | None = None

    @field_validator("separator")
    @classmethod
    def _one_letter(cls, separator: str | None) -> str | None:
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            raise ValueError(f'expected one letter such as ";" or "\\t", got {separator!r}')
        return separator

    def readable(self) -> tuple[str, ...]:
        """Return the places beside the corpus' root that single images may be read from: its own, and those allowed."""
        return (*self.allow, *(fixed_folder(pattern) for pattern in self.files))
