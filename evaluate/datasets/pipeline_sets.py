"""A pipeline's own labelled sets, ``evaluate.zero_shot``, as dataset entries like those of the registry."""

from __future__ import annotations

from evaluate.config import EvaluatePipeline, ZeroShotDataset
from store.config.problems import it_has
from store.corpus.section import Corpus
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
    for name, section in pipeline.evaluate.zero_shot.items():
        if section.corpus not in pipeline.corpora:
            known = it_has(section.corpus, pipeline.corpora)
            raise ConfigError(f"evaluate.zero_shot.{name}.corpus: the pipeline has no corpus {section.corpus!r}{known}")
        found[name] = _entry(name, section, pipeline.corpora[section.corpus])
    return found


def _entry(name: str, section: ZeroShotDataset, corpus: Corpus) -> DatasetEntry:
    labels = dict.fromkeys(label for own in section.classes.values() for label in own)
    modalities = [modality for modality in MODALITIES if {modality} == set(section.classes)]
    return DatasetEntry(
        name=name,
        title=name,
        modality=modalities[0] if modalities else "mixed",
        tasks={"zero_shot": Task(primary="group_accuracy")}
        | ({"retrieval": Task(primary="mean_recall")} if section.caption else {}),
        source=f"evaluate.zero_shot.{name}",
        licence="not stated",
        access="open",
        get=f"the files of corpora.{section.corpus}",
        citation="",
        read=WebDatasetFiles(format="webdataset", corpus=corpus),
        fields=Fields(label=f"json.{section.label}", group=f"json.{section.group}", caption=section.caption),
        split=NothingTrained(rule="all_test"),
        classes={label: label for label in labels},
        groups={
            group: Group(name=section.group_names.get(group), classes=own) for group, own in section.classes.items()
        },
        templates=section.templates,
        # A class without images still counts as a wrong answer.
        allow=["empty_classes"],
        max_excluded=ANY_SHARE,
        provenance=Provenance(choice="ours", classes="ours", split="ours", templates="ours", metrics="ours"),
    )
