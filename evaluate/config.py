"""The section of pipelines.yaml for evaluation, which reads and checks all other sections too.

docs/pipelines.md describes every key.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from extract.config import ExtractPipeline
from store.config.pipeline_file import ConfigPath, Section
from store.config.problems import suggest
from store.config.template import PADDING
from train.config import STUDENT, TrainPipeline, TrainSection

TEMPLATE_FIELDS = ("group", "label")


def fillable(template: str, *, fields: Sequence[str] = TEMPLATE_FIELDS) -> str:
    """Return a prompt template if it names the label, and no other fields than these.

    Raises:
        ValueError: it is not such a template; the message says why.
    """
    try:
        holes = [hole for hole in Formatter().parse(template) if hole[1] is not None]
        named = [str(field) for _, field, _, _ in holes]
        wide = [spec for _, _, spec, _ in holes if not PADDING.fullmatch(spec or "")]
        if set(named) <= set(fields) and not wide:
            template.format(**dict.fromkeys(fields, ""))
    except (ValueError, LookupError) as error:
        raise ValueError(f"not a template: {error}; {{ and }} are written {{{{ and }}}}") from None
    if wide:  # {label:>999999999} would fill the memory
        raise ValueError(f"not a template: expected padding such as >12 after a colon, got {wide[0]!r}")
    unknown = [field for field in named if field not in fields]
    if unknown:
        expected = suggest(unknown[0], fields) or f"; expected {' or '.join(map(repr, fields))}"
        raise ValueError(f"unknown field '{unknown[0]}' in braces{expected}")
    if "label" not in named:
        raise ValueError("lacks {label}: every class would have the same prompt")
    return template


class ZeroShotDataset(Section):
    """A labelled image set for zero-shot classification."""

    corpus: str = Field(examples=["test"])
    label: str = Field(examples=["label"])
    group: str = Field(examples=["modality"])
    classes: dict[str, list[str]] = Field(min_length=1, examples=[{"xray": ["effusion", "no finding"]}])
    group_names: dict[str, str] = {}
    templates: list[Annotated[str, AfterValidator(fillable)]] = Field(
        min_length=1, examples=[["an {group} image of {label}"]]
    )


class RetrievalDataset(Section):
    """Image-text pairs for retrieval."""

    corpus: str = Field(examples=["test"])


class EvaluateSection(Section):
    """Settings of evaluation."""

    out: ConfigPath = Field(examples=["runs/mine/results"])
    zero_shot: dict[str, ZeroShotDataset] = {}
    retrieval: dict[str, RetrievalDataset] = {}
    batch_size: int = Field(default=256, gt=0)
    threads: int = Field(default=2, gt=0)
    datasets: list[ConfigPath] = []
    data_root: ConfigPath | None = None

    @field_validator("retrieval")
    @classmethod
    def _of_one_corpus(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        labelled = info.data.get("zero_shot", {})
        for name in value.keys() & labelled.keys():
            if value[name].corpus != labelled[name].corpus:
                raise ValueError(f"zero_shot.{name} has another corpus; sets of one name are one set")
        return value

    @property
    def own_sets(self) -> list[str]:
        """The names of the pipeline's own sets."""
        return list({**self.zero_shot, **self.retrieval})


class EvaluatePipeline(ExtractPipeline, TrainPipeline):
    """A pipeline as evaluation reads it."""

    # Repeated, because with two parents pydantic takes a field from the first, where it is not checked yet.
    train: TrainSection = Field(examples=[STUDENT])
    evaluate: EvaluateSection
