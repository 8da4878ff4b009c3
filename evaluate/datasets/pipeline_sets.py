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
    found = {}
    for name, section in pipeline.evaluate.own_sets.items():
        kind, own = (
            ("zero_shot", _labelled(section)) if isinstance(section, ZeroShotDataset) else ("retrieval", CAPTIONS)
        )
        if section.corpus not in pipeline.corpora:
            known = it_has(section.corpus, pipeline.corpora)
            raise ConfigError(f"evaluate.{kind}.{name}.corpus: the pipeline has no corpus {section.corpus!r}{known}")
        found[name] = DatasetEntry(
            name=name,
            title=name,
            source=f"evaluate.{kind}.{name}",
            licence="not stated",
            access="open",
            get=f"the files of corpora.{section.corpus}",
            citation="",
            read=WebDatasetFiles(format="webdataset", corpus=pipeline.corpora[section.corpus]),
            split=NothingTrained(rule="all_test"),
            max_excluded=ANY_SHARE,
            **own,
        )
    return found


CAPTIONS: dict[str, Any] = {
    "modality": "mixed",
    "tasks": {"retrieval": Task(primary="mean_recall")},
    "fields": Fields(caption="caption"),
    "provenance": Provenance(choice="ours", split="ours", metrics="ours"),
}


def _labelled(section: ZeroShotDataset) -> dict[str, Any]:
    labels = dict.fromkeys(label for own in section.classes.values() for label in own)
    modalities = [modality for modality in MODALITIES if {modality} == set(section.classes)]
    return {
        "modality": modalities[0] if modalities else "mixed",
        "tasks": {"zero_shot": Task(primary="group_accuracy")},
        "fields": Fields(label=f"json.{section.label}", group=f"json.{section.group}"),
        "classes": {label: label for label in labels},
        "groups": {
            group: Group(name=section.group_names.get(group), classes=own) for group, own in section.classes.items()
        },
        "templates": section.templates,
        # A class without images still counts as a wrong answer.
        "allow": ["empty_classes"],
        "provenance": Provenance(choice="ours", classes="ours", split="ours", templates="ours", metrics="ours"),
    }
