"""A pipeline's own sets, ``evaluate.zero_shot`` and ``evaluate.retrieval``, as dataset entries like the registry's."""

from __future__ import annotations

from typing import Any

from evaluate.config import EvaluatePipeline, ZeroShotDataset
from store.config.problems import it_has
from store.errors import ConfigError

from .entry import MODALITIES, DatasetEntry, Fields, Group, Provenance, Task
from .formats.rules import WebDatasetFiles
from .split_rules import NothingTrained

ANY_SHARE = 1 - 1e-9
"""A user's own set is not refused for images that cannot be read: they are left out and counted."""


def pipeline_sets(pipeline: EvaluatePipeline) -> dict[str, DatasetEntry]:
    """Return the entries of a pipeline's own sets by name; no file is opened.

    Raises:
        ConfigError: a set names a corpus that the pipeline does not have.
    """
    return {name: _entry(name, pipeline) for name in pipeline.evaluate.own_sets}


def _entry(name: str, pipeline: EvaluatePipeline) -> DatasetEntry:
    labelled, pairs = pipeline.evaluate.zero_shot.get(name), pipeline.evaluate.retrieval.get(name)
    kind = "zero_shot" if labelled else "retrieval"
    corpus = (labelled or pipeline.evaluate.retrieval[name]).corpus
    if corpus not in pipeline.corpora:
        known = it_has(corpus, pipeline.corpora)
        raise ConfigError(f"evaluate.{kind}.{name}.corpus: the pipeline has no corpus {corpus!r}{known}")
    label, group = (f"json.{labelled.label}", f"json.{labelled.group}") if labelled else (None, None)
    return DatasetEntry(
        name=name,
        title=name,
        tasks={
            **({"zero_shot": Task(primary="group_accuracy")} if labelled else {}),
            **({"retrieval": Task(primary="mean_recall")} if pairs else {}),
        },
        source=f"evaluate.{kind}.{name}",
        licence="not stated",
        access="open",
        get=f"the files of corpora.{corpus}",
        citation="",
        read=WebDatasetFiles(format="webdataset", corpus=pipeline.corpora[corpus]),
        fields=Fields(label=label, group=group, caption="caption" if pairs else None),
        split=NothingTrained(rule="all_test"),
        max_excluded=ANY_SHARE,
        **(_classes(labelled) if labelled else UNLABELLED),
    )


UNLABELLED: dict[str, Any] = {
    "modality": "mixed",
    "provenance": Provenance(choice="ours", split="ours", metrics="ours"),
}


def _classes(section: ZeroShotDataset) -> dict[str, Any]:
    labels = dict.fromkeys(label for own in section.classes.values() for label in own)
    modalities = [modality for modality in MODALITIES if {modality} == set(section.classes)]
    return {
        "modality": modalities[0] if modalities else "mixed",
        "classes": {label: label for label in labels},
        "groups": {
            group: Group(name=section.group_names.get(group), classes=own) for group, own in section.classes.items()
        },
        "templates": section.templates,
        # A class without images still counts as a wrong answer.
        "allow": ["empty_classes"],
        "provenance": Provenance(choice="ours", classes="ours", split="ours", templates="ours", metrics="ours"),
    }
