"""The section of pipelines.yaml that evaluation owns; it reads and checks all the others too."""

from __future__ import annotations

from pydantic import Field

from extract.config import ExtractPipeline
from store.config import ConfigPath, Section
from train.config import TrainPipeline, TrainSection


class ZeroShotDataset(Section):
    """A labelled image set whose classes are told by prompts.

    Attributes:
        corpus: which of the pipeline's corpora holds the images; labels come from their ``.json``.
        label: field with the class name.
        group: field with the group that an image is classified within, e.g. its modality.
        classes: class names by group. They are listed, never inferred from the labels, so that a class without
            images still counts as a wrong answer.
        group_names: how prompts name a group; the group itself if left out.
        templates: prompts with ``{group}`` and ``{label}``.
    """

    corpus: str
    label: str
    group: str
    classes: dict[str, list[str]] = Field(min_length=1)
    group_names: dict[str, str] = {}
    templates: list[str] = Field(min_length=1)


class EvaluateSection(Section):
    """What is evaluated.

    Attributes:
        out: folder of the results.
        zero_shot: datasets by name.
        batch_size: images or prompts of a forward pass.
        threads: of CPU arithmetic.
    """

    out: ConfigPath
    zero_shot: dict[str, ZeroShotDataset] = Field(min_length=1)
    batch_size: int = Field(default=256, gt=0)
    threads: int = Field(default=2, gt=0)


class EvaluatePipeline(ExtractPipeline, TrainPipeline):
    """A pipeline as evaluation reads it."""

    # Said again, because of two parents pydantic takes a field from the first, where it is still unchecked.
    train: TrainSection
    evaluate: EvaluateSection
