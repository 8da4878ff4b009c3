"""The sections of pipelines.yaml that the trainer owns; docs/pipelines.md describes every key."""

from __future__ import annotations

from math import floor
from typing import Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from store.config.missing import NAME, example_of
from store.config.pipeline_file import ConfigPath, Section, Seed
from store.pipeline import Pipeline

from .recipe_sections import ImprovedRecipe, PaperRecipe

Images: TypeAlias = Literal["corpus", "pixels"]
"""Source of the images; by default the corpus, or the store if the pipeline names no corpus."""


class ModelSection(Section):
    """The model to train; give ``config`` or ``init``."""

    config: dict[str, Any] | None = None
    preprocess: dict[str, Any] = {}
    init: ConfigPath | None = None
    vision_from: str | None = None
    vocabulary: int | None = Field(default=None, ge=64)

    @model_validator(mode="after")
    def _one_beginning(self) -> ModelSection:
        if (self.config is None) == (self.init is None):
            raise ValueError("give either config (a new model) or init (a folder to start from)")
        if self.init and (self.vocabulary or self.vision_from):
            raise ValueError("vocabulary and vision_from belong to a new model; init brings its own")
        return self


class Optimization(Section):
    """Settings of a training; defaults are the released stage-1 values (docs/training.md)."""

    steps: int = Field(gt=0, examples=[1000])
    batch_size: int = Field(gt=1, examples=[64])
    lr: float = Field(gt=0, examples=[0.0005])
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.2, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    eps: float = Field(default=1e-6, gt=0)
    grad_clip: float | None = Field(default=None, gt=0)
    logit_scale_init: float | None = Field(default=None, gt=0)
    crop_scale: float = Field(default=0.9, gt=0, le=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    logits: Literal["float32", "autocast"] = "float32"
    tf32: bool = False
    accumulate: int = Field(default=1, gt=0)
    cached_rows: int | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    compile: bool = False
    gradient_checkpointing: bool = False
    seed: Seed = 0
    threads: int = Field(default=1, gt=0)
    image_workers: int = Field(default=0, ge=0)
    device: Literal["cpu", "cuda"] = "cpu"
    log_every: int = Field(default=50, gt=0)
    validate_every: int | None = Field(default=None, gt=0)
    checkpoint_every: int = Field(default=1000, gt=0)
    checkpoints_kept: int = Field(default=2, gt=0)
    tensorboard: bool = False

    @model_validator(mode="after")
    def _within_the_run(self) -> Optimization:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: {self.warmup_steps} are not fewer than steps: {self.steps}, so that the learning rate "
                f"would never be lr; give at most {self.steps - 1}, or more steps"
            )
        if self.ema is not None and round(longest := 1 / (1 - self.ema)) > self.steps:
            most = floor(1e6 * (1 - 1 / self.steps)) / 1e6
            raise ValueError(
                f"ema: {self.ema} averages over {longest:,.0f} steps and the run has {self.steps}, so that the model "
                f"would be mostly its own start; {f'give at most {most:g}, or ' if most else ''}leave it out"
            )
        return self

    @field_validator("logit_scale_init")
    @classmethod
    def _a_scale_that_training_allows(cls, scale: float | None) -> float | None:
        if scale is not None and not 1 <= scale <= 100:
            raise ValueError(
                f"expected what cosines are multiplied by (1 / temperature), which each step keeps within 1 and 100, "
                f"got {scale}; a new model has 14.3"
            )
        return scale

    @model_validator(mode="after")
    def _logits_have_a_dtype(self) -> Optimization:
        if self.logits == "autocast" and self.precision == "fp32":
            raise ValueError("logits: autocast needs precision: bf16 or fp16; with fp32 leave logits out")
        return self

    @model_validator(mode="after")
    def _one_way_to_large_batches(self) -> Optimization:
        if self.accumulate > 1 and self.cached_rows:
            raise ValueError("give accumulate or cached_rows, not both")
        if self.cached_rows and self.cached_rows >= self.batch_size:
            raise ValueError(
                f"cached_rows: {self.cached_rows} hold the whole batch of {self.batch_size}, which would pass the "
                f"towers twice for nothing; give at most {self.batch_size - 1}, or leave it out"
            )
        if 2 * self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate: {self.accumulate} parts of a batch of {self.batch_size} have less than two pairs each, "
                "and a pair alone contrasts with nothing: its loss is 0"
            )
        return self


class ValidationSection(Section):
    """Pairs that are not trained on, for validation during training."""

    split: str | None = None
    holdout: float | None = Field(default=None, gt=0, lt=1)
    max_rows: int = Field(default=2048, gt=1)

    @model_validator(mode="after")
    def _one_choice(self) -> ValidationSection:
        if (self.split is None) == (self.holdout is None):
            raise ValueError("give either split or holdout")
        if self.split == "train":
            raise ValueError("split: train are the pairs that are trained on; holdout: 0.02 keeps some of them out")
        return self


class PretrainRun(Section):
    """Stage 1: CLIP pretraining on pairs."""

    corpus: str | None = None
    images: Images | None = None
    out: ConfigPath = Field(examples=["runs/mine/stage1"])
    model: ModelSection = Field(examples=[{"init": "ViT-B-32/openai"}])
    optimization: Optimization
    validation: ValidationSection = ValidationSection(split="val")
    window_blocks: int = Field(default=256, gt=0)

    @model_validator(mode="after")
    def _pixels_are_the_stores(self) -> PretrainRun:
        if self.corpus is not None and self.images == "pixels":
            raise ValueError("images: pixels are the store's; leave corpus out")
        return self


class ProjectSection(Section):
    """The paper's projections, fitted on cached features."""

    out: ConfigPath = Field(examples=["runs/mine/projections"])
    latent_dim: int = Field(gt=0, examples=[512])
    hidden_dim: int = Field(gt=0, examples=[512])
    steps: int = Field(gt=0, examples=[2000])
    batch_size: int = Field(default=256, gt=1)
    lr: float = Field(default=1e-3, gt=0)
    seed: Seed = 0
    max_rows: int = Field(default=100_000, gt=1)
    threads: int = Field(default=1, gt=0)


class StudentRun(Section):
    """Stage 2: a student trained on the store's pairs."""

    recipe: Literal["paper", "improved", "task_only"] = Field(examples=["improved"])
    paper: PaperRecipe = PaperRecipe()
    improved: ImprovedRecipe = ImprovedRecipe()
    out: ConfigPath = Field(examples=["runs/mine/student"])
    model: ModelSection = Field(examples=[{"init": "ViT-B-32/openai"}])
    optimization: Optimization
    validation: ValidationSection = ValidationSection(split="val")
    images: Images | None = None
    window_blocks: int = Field(default=256, gt=0)


class TrainSection(Section):
    """Everything that is trained."""

    pretrain: dict[str, PretrainRun] = {}
    project: ProjectSection | None = None
    students: dict[str, StudentRun] = {}


STUDENT = {"students": {NAME: example_of(StudentRun)}}
"""A section that trains one student, for messages."""


class TrainPipeline(Pipeline):
    """A pipeline as the trainer reads it."""

    train: TrainSection = Field(examples=[STUDENT])
