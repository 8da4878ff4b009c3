"""The sections of pipelines.yaml that extraction owns; docs/pipelines.md describes every key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from extract.teacher_files.entry import Teachers
from store.config.pipeline_file import Section
from store.pipeline import Pipeline


class ExtractSection(Section):
    """Settings of an extraction."""

    batch_size: int = Field(default=256, gt=0)
    workers: int = Field(default=1, ge=0)
    threads_per_worker: int = Field(default=1, gt=0)
    decode_threads: int = Field(default=2, gt=0)
    device: Literal["cpu", "cuda"] = "cpu"
    attempts: int = Field(default=3, gt=0)
    max_bad_fraction: float = Field(default=0.5, gt=0, le=1)
    start_timeout_s: float = Field(default=300.0, gt=0)
    load_timeout_s: float = Field(default=1800.0, gt=0)
    stall_timeout_s: float = Field(default=900.0, gt=0)
    range_timeout_s: float | None = Field(default=None, gt=0)
    max_killer_rows: int = Field(default=16, ge=0)
    progress_interval_s: float = Field(default=5.0, gt=0)


class ExtractPipeline(Pipeline):
    """A pipeline as extraction reads it."""

    teachers: Teachers = Field(min_length=1)
    extract: ExtractSection = ExtractSection()
