"""The sections of pipelines.yaml that extraction owns; docs/pipelines.md describes every key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from extract.teacher_files.entry import Teachers
from store.config.pipeline_file import Section
from store.pipeline import Pipeline


def _whole_above_one(cards: float) -> float:
    if cards > 1 and cards != int(cards):
        raise ValueError(f"expected a part of one card, as 0.5, or a whole number of cards, got {cards:g}")
    return cards


Cards = Annotated[float, Field(ge=0.01), AfterValidator(_whole_above_one)]


class ExtractSection(Section):
    """Settings of an extraction."""

    batch_size: int = Field(default=256, gt=0)
    workers: int = Field(default=1, ge=0)
    threads_per_worker: int = Field(default=1, gt=0)
    decode_threads: int = Field(default=2, gt=0)
    gpus_per_worker: Cards = 1.0
    device: Literal["cpu", "cuda"] = "cpu"
    attempts: int = Field(default=3, gt=0)
    max_bad_fraction: float = Field(default=0.5, gt=0, le=1)
    start_timeout_s: float = Field(default=300.0, gt=0)
    load_timeout_s: float = Field(default=1800.0, gt=0)
    stall_timeout_s: float = Field(default=900.0, gt=0)
    range_timeout_s: float | None = Field(default=None, gt=0)
    max_killer_rows: int = Field(default=16, ge=0)
    progress_interval_s: float = Field(default=5.0, gt=0)

    @property
    def asked(self) -> dict[str, float]:
        """The CPUs and GPUs of one node that a worker asks for: torch's threads and those that decode work at once."""
        gpus = self.gpus_per_worker if self.device == "cuda" else 0.0
        return {"CPU": float(self.threads_per_worker + self.decode_threads), "GPU": gpus}


class ExtractPipeline(Pipeline):
    """A pipeline as extraction reads it."""

    teachers: Teachers = Field(min_length=1, examples=[{"biomedclip": {"folder": "weights/biomedclip"}}])
    extract: ExtractSection = ExtractSection()


def resources_text(resources: Mapping[str, float]) -> str:
    """Return CPUs and GPUs for a message."""
    shown = (f"{name} {resources[name]:g}" for name in ("CPU", "GPU") if resources.get(name))
    return ", ".join(shown) or "neither CPU nor GPU"
