"""Sections that the tests of the configuration share."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from store.config.pipeline_file import ConfigPath, Section


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


class Tars(Section):
    kind: Literal["tars"]
    files: list[ConfigPath] = Field(min_length=1)


class Table(Section):
    kind: Literal["table"]
    file: ConfigPath
    columns: tuple[str, str] = ("image", "caption")


class Rule(Section):
    modalities: list[str] | None = None
    quantile: float | None = Field(default=None, gt=0, le=1)
