"""The sections of pipelines.yaml that extraction owns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from extract.teacher_files.entry import TeacherEntry
from store.config.pipeline_file import Section
from store.pipeline import Pipeline


class ExtractSection(Section):
    """Settings of an extraction.

    Attributes:
        batch_size: rows of a forward pass.
        workers: processes that hold all teachers, one per GPU or CPU slot; 0 for as many as the cluster has room for,
            which grows and shrinks with it.
        threads_per_worker: threads of a worker's CPU arithmetic; pinned, because their number decides the last bits.
        decode_threads: threads of a worker that read and decode images.
        attempts: how often a range is tried before it is given up.
        max_bad_fraction: stop when more than this share of the rows extracted in this run is bad.
        start_timeout_s: how long a run waits for a first worker to get a place in the cluster.
        load_timeout_s: how long a worker may take to load its teachers.
        stall_timeout_s: a worker that shows no progress, or does not answer, for so long is killed.
        range_timeout_s: a worker that takes longer than this for one range is killed; None for no bound.
        max_killer_rows: rows of one range that may be left out because a process dies of them.
        progress_interval_s: seconds between writes of a run's progress, and between looks for a request to stop.
    """

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

    teachers: dict[str, TeacherEntry] = Field(min_length=1)
    extract: ExtractSection = ExtractSection()
