"""The sections of pipelines.yaml that extraction owns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from store.config import Section
from store.pipeline import Pipeline

from .teacher_entry import TeacherEntry

__all__ = ["ExtractPipeline", "ExtractSection", "TeacherEntry"]


class ExtractSection(Section):
    """How extraction runs.

    Attributes:
        batch_size: rows of a forward pass.
        workers: processes that hold all teachers, one per GPU or CPU slot.
        threads_per_worker: threads of a worker's CPU arithmetic; pinned, because it decides the last bits.
        decode_threads: threads of a worker that read and decode images.
        device: where the teachers run.
        attempts: how often a range is tried before it is left out.
        max_bad_fraction: stop when more than this share of the rows extracted in this run is bad.
    """

    batch_size: int = Field(default=256, gt=0)
    workers: int = Field(default=1, gt=0)
    threads_per_worker: int = Field(default=1, gt=0)
    decode_threads: int = Field(default=2, gt=0)
    device: Literal["cpu", "cuda"] = "cpu"
    attempts: int = Field(default=3, gt=0)
    max_bad_fraction: float = Field(default=0.5, gt=0, le=1)


class ExtractPipeline(Pipeline):
    """A pipeline as extraction reads it."""

    teachers: dict[str, TeacherEntry] = Field(min_length=1)
    extract: ExtractSection = ExtractSection()
