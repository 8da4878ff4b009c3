"""One evaluation dataset as its YAML file describes it, validated; it does not know where the files are.

docs/datasets.md describes every key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from evaluate.datasets.formats.rules import BagFiles, ReadRule, SurvivalFiles
from evaluate.metrics.registry import METRICS
from store.config.pipeline_file import Section, read_section
from store.config.problems import suggest
from store.config.yaml_tree import KeyPath
from store.errors import ConfigError

from .prompts import ClassText, SetName, Template, filled, one_by_one, with_sets
from .split_rules import SplitRule
from .task_kinds import TASKS, Items, TaskName

Modality = Literal[
    "xray", "ct", "mri", "ultrasound", "fundus", "oct", "histopathology", "dermatology", "endoscopy", "mixed", "other"
]
MODALITIES: tuple[Modality, ...] = tuple(name for name in get_args(Modality) if name not in ("mixed", "other"))
"""The nine modalities that MMKD-CLIP's authors name. ``mixed`` is several of them, ``other`` none (cells, say)."""

Origin = Literal["official", "inferred", "ours"]

WITH_SUBGROUPS = ("zero_shot", "linear_probe", "diagnosis", "survival")
"""Tasks whose results are told apart by subgroups."""

NAME = r"[a-z0-9][a-z0-9_]*"
"""Name of a dataset that has a file."""


class Task(Section):
    """The use of a dataset for one task; ``primary`` is a name in ``evaluate.metrics.registry.METRICS``."""

    primary: str


class Group(Section):
    """Classes among which the images of one group are classified, such as those of one modality."""

    name: str | None = None
    classes: list[str] = Field(min_length=1)


class Provenance(Section):
    """``official`` if the authors concerned decided, ``inferred`` if we did from what they published, else ``ours``."""

    choice: Origin
    classes: Origin | None = None
    split: Origin
    templates: Origin | None = None
    metrics: Origin


class Released(Section):
    """A dataset as MMKD-CLIP's released evaluator knows it.

    ``prompts`` names the prompts of its classes in ``src/training/constants.py``; with ``first_label`` it takes the
    first of an image's labels for its class.
    """

    prompts: str | None = None
    first_label: bool = False


class Checked(Section):
    """The day on which an entry was compared with a source, that source, and which parts of the entry agree with it."""

    on: Annotated[str, Field(pattern=r"^20\d\d-[01]\d-[0-3]\d$")]
    source: str
    parts: list[Literal["classes", "order", "counts", "licence", "digests", "split", "layout"]] = Field(min_length=1)


class Fields(Section):
    """Dotted path of each column in a record; columns that are left out do not exist.

    No patient may be in two splits, and resamples take a patient whole. With ``bag``, the items are slides of tiles.
    """

    id: str | None = None
    label: str | None = None
    split: str | None = None
    patient: str | None = None
    caption: str | None = None
    question: str | None = None
    answer: str | None = None
    answer_type: str | None = None
    bag: str | None = None
    time: str | None = None
    event: str | None = None
    group: str | None = None


class MultiLabel(Section):
    """The way in which a record states several classes, or none."""

    by: Literal["list", "text", "columns"]
    separator: str = "|"
    none: list[str] = []
    yes: list[str] = ["1", "1.0", "true"]


class Subgroup(Section):
    """A column by whose values results are told apart.

    ``column`` is a dotted path, the name of the subgroup if left out. ``bands`` are the bounds between ranges of a
    number: ``[40, 60]`` makes ``<40``, ``40-60`` and ``>=60``.
    """

    column: str | None = None
    bands: list[float] = []

    @field_validator("bands")
    @classmethod
    def _ascending(cls, bands: list[float]) -> list[float]:
        if bands != sorted(set(bands)):
            raise ValueError("expected ascending bounds, such as [40, 60]")
        return bands


SubgroupName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


class DatasetEntry(Section):
    """One dataset."""

    name: str
    title: str
    modality: Modality
    tasks: dict[TaskName, Task] = Field(min_length=1)
    source: str = Field(pattern=r"^(https?://|evaluate[/.])")
    facts_from: list[str] = []
    licence: str
    access: Literal["open", "registration", "agreement"]
    get: str
    citation: str
    read: ReadRule
    digests: dict[str, Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]] = {}
    fields: Fields = Fields()
    split: SplitRule
    counts: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=0)]] = {}
    classes: dict[str, str | ClassText] = {}
    label_map: dict[str, str] = {}
    ignore_labels: list[str] = []
    keep: dict[str, list[str]] = {}
    one_hot: bool = False
    multi_label: MultiLabel | None = None
    positive: str | None = None
    groups: dict[str, Group] = {}
    templates: list[Template] = []
    negative_templates: list[Template] = []
    template_sets: list[SetName] = []
    released: Released | None = None
    checked: Checked | None = None
    event_values: list[str] = ["1", "1.0", "true"]
    censored_values: list[str] = ["0", "0.0", "false"]
    missing: Literal["refuse", "drop", "impute"] = "refuse"
    subgroups: dict[SubgroupName, Subgroup] = {}
    sensitivity: float | None = Field(default=None, gt=0, lt=1)
    prevalence: float | None = Field(default=None, gt=0, lt=1)
    allow: list[Literal["shared_patients", "empty_classes"]] = []
    max_excluded: float = Field(default=0.01, ge=0, lt=1)
    provenance: Provenance
    notes: str | None = None

    @property
    def items(self) -> Items:
        """Kind of its items: single images, bags of tiles or of features, or rows of a table."""
        if isinstance(self.read, SurvivalFiles):
            return "table"
        return "bags" if isinstance(self.read, BagFiles) or self.fields.bag is not None else "images"

    @property
    def labelled(self) -> bool:
        """Return whether a task of the dataset has classes as targets."""
        return any(TASKS[task].labelled for task in self.tasks)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in prompts, in order."""
        return [text.name if isinstance(text, ClassText) else text for text in self.classes.values()]

    @property
    def positive_index(self) -> int | None:
        """Position of the positive class, None where there is none."""
        return None if self.positive is None else list(self.classes).index(self.positive)

    def prompts(self, *, negative: bool = False, group: str | None = None) -> list[list[str]]:
        """Return the prompts of each class, in order.

        Args:
            negative: return those that say that the class is absent; for multi-label datasets.
            group: only the classes of this group, in its order.
        """
        return filled(*self._words(negative=negative, group=group), group=self._shown(group))

    def single_prompts(self, *, negative: bool = False, group: str | None = None) -> dict[str, list[list[str]]]:
        """Return, by template, the prompts of each class if it were the only template; arguments as of ``prompts``."""
        return one_by_one(*self._words(negative=negative, group=group), group=self._shown(group))

    def _words(self, *, negative: bool, group: str | None) -> tuple[list[str | ClassText], list[str]]:
        labels = self.classes if group is None else self.groups[group].classes
        texts = [self.classes[label] for label in labels]
        if negative:  # prompts of a class's own say that it is there
            texts = [text.model_copy(update={"prompts": []}) if isinstance(text, ClassText) else text for text in texts]
        own = self.negative_templates if negative else self.templates
        return texts, with_sets(own, self.template_sets, negative=negative)

    def _shown(self, group: str | None) -> str | None:
        return group and (self.groups[group].name or group)


def read_entry(path: Path) -> DatasetEntry:
    """Read the YAML file of a dataset.

    Raises:
        ConfigError: with one ``file:line: key: problem`` per line.
    """
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"{path}: expected a .yaml file", hint="python -m evaluate new NAME writes a template")
    return read_section(path, DatasetEntry, check=lambda entry: _problems(entry, path.stem))


def _problems(entry: DatasetEntry, stem: str) -> Iterator[tuple[KeyPath, str]]:
    """Yield contradictions between keys that are each valid."""
    if entry.name != stem:
        yield ("name",), f"'{entry.name}' is not the name of the file, '{stem}'"
    if not re.fullmatch(NAME, entry.name):
        yield ("name",), f"expected small letters, digits and '_', got '{entry.name}'"
    yield from _label_problems(entry)
    yield from _group_problems(entry)
    yield from _clinical_problems(entry)
    for task, use in entry.tasks.items():
        if use.primary not in METRICS:
            known = suggest(use.primary, METRICS) or f"; expected one of {', '.join(METRICS)}"
            yield ("tasks", task, "primary"), f"'{use.primary}' is no metric{known}"
        if TASKS[task].trains and entry.split.rule == "all_test":
            folds = "; {rule: folds} trains on the others of each" if TASKS[task].folds else ""
            yield ("tasks", task), f"needs items for training; by split, all are for testing{folds}"
        if TASKS[task].trains and entry.split.rule == "folds" and not TASKS[task].folds:
            yield ("tasks", task), "has no folds: the split must say which items are for training"
        if entry.items not in TASKS[task].items:
            expected = " or ".join(TASKS[task].items)
            yield ("tasks", task), f"is for {expected}; the items of this dataset are {entry.items}"
        for field in TASKS[task].fields:
            if getattr(entry.fields, field) is None:
                yield ("tasks", task), f"needs fields.{field}"
    if entry.split.rule == "field" and entry.fields.split is None and entry.read.format != "medmnist":
        yield ("split",), "the rule 'field' needs fields.split"
    by_patient = "patient" in {getattr(entry.split, "by", None), getattr(entry.split, "val_by", None)}
    if by_patient and entry.fields.patient is None:
        yield ("split",), "by: patient needs fields.patient"
    if entry.fields.bag is not None and entry.read.format == "bags":
        yield ("fields", "bag"), "the format 'bags' has a file per bag; fields.bag is for tiles that are images"


def _clinical_problems(entry: DatasetEntry) -> Iterator[tuple[KeyPath, str]]:
    two = len(entry.classes) == 2 and not entry.multi_label and not entry.groups
    for key in ("sensitivity", "prevalence"):
        if getattr(entry, key) is not None and not two:
            yield (key,), "is for datasets of two classes, one of them positive"
    if entry.subgroups and (entry.groups or not set(entry.tasks) & {*WITH_SUBGROUPS}):
        yield ("subgroups",), f"are for {', '.join(WITH_SUBGROUPS)}, without groups"
    if isinstance(entry.read, SurvivalFiles):
        outcome = {entry.fields.time, entry.fields.event}
        for column in (name for name in (*entry.read.features, *entry.read.categories) if name in outcome):
            yield ("read",), f"'{column}' is the outcome, which no feature may tell"
    if entry.missing != "refuse" and entry.items != "table":
        yield ("missing",), "is for tables of features"


def _label_problems(entry: DatasetEntry) -> Iterator[tuple[KeyPath, str]]:
    labelled = [task for task in entry.tasks if TASKS[task].labelled]
    if labelled and len(entry.classes) < (1 if entry.multi_label else 2):
        yield ("tasks", labelled[0]), f"needs classes: at least two, there are {len(entry.classes)}"
    by_columns = entry.one_hot or (entry.multi_label is not None and entry.multi_label.by == "columns")
    if labelled and entry.fields.label is None and not by_columns and entry.read.format != "medmnist":
        yield ("tasks", labelled[0]), "needs fields.label"
    if labelled and len(entry.classes) == 2 and not (entry.multi_label or entry.groups) and entry.positive is None:
        yield ("tasks", labelled[0]), "of two classes one is positive: say which with positive:"
    if entry.positive is not None and entry.positive not in entry.classes:
        yield ("positive",), f"'{entry.positive}' is not one of classes{suggest(entry.positive, entry.classes)}"
    for label, name in entry.label_map.items():
        if name not in entry.classes:
            yield ("label_map", label), f"'{name}' is not one of classes{suggest(name, entry.classes)}"
    if entry.one_hot and entry.multi_label:
        yield ("one_hot",), "several columns may be 1 in a multi-label dataset; drop one of the two keys"
    if "zero_shot" in entry.tasks and not all(entry.prompts()):
        yield ("tasks", "zero_shot"), "needs templates, template_sets, or prompts of every class"
    if "zero_shot" in entry.tasks and entry.multi_label and not all(entry.prompts(negative=True)):
        yield ("tasks", "zero_shot"), "of a multi-label dataset needs negative_templates or template_sets"
    for part in ("classes", "templates"):
        if getattr(entry, part) and getattr(entry.provenance, part) is None:
            yield ("provenance",), f"missing key '{part}'"


def _group_problems(entry: DatasetEntry) -> Iterator[tuple[KeyPath, str]]:
    if entry.groups and entry.fields.group is None:
        yield ("groups",), "needs fields.group, the column that says the group"
    if entry.groups and (entry.multi_label or set(entry.tasks) != {"zero_shot"}):
        yield ("groups",), "are for zero_shot alone, of images with one class"
    if not entry.groups and entry.fields.group is not None:
        yield ("fields", "group"), "needs groups: the classes of each"
    if not entry.groups and any("{group" in template for template in (*entry.templates, *entry.negative_templates)):
        yield ("templates",), "{group} needs groups"
    for group, of in entry.groups.items():
        for label in of.classes:
            if label not in entry.classes:
                yield ("groups", group), f"'{label}' is not one of classes{suggest(label, entry.classes)}"
