"""Rules for reading the files of a dataset (``read:``). Paths are relative to the data root.

docs/datasets.md describes every key.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from store.config.pipeline_file import Section
from store.corpus.section import Corpus


def _relative(pattern: str) -> str:
    if not pattern or pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
        raise ValueError(f"expected a path below the data root, got '{pattern}'")
    return pattern


def _with_columns(pattern: str) -> str:
    try:
        named = [(field, spec, how) for _, field, spec, how in Formatter().parse(pattern) if field is not None]
    except ValueError as error:
        raise ValueError(f"not a pattern: {error}") from None
    wrong = [field for field, spec, how in named if re.search(r"[.\[\]]|^\d*$", field) or spec or how]
    if wrong:
        raise ValueError(f"in braces stands the name of a column, such as {{label}}, not '{wrong[0]}'")
    return _relative(pattern)


def _with_parts(pattern: str) -> str:
    wrong = [name for name in re.findall(r"\{([^}]*)\}", _with_columns(pattern)) if not name.isidentifier()]
    if wrong:
        raise ValueError(f"a part of a path has a name of letters, digits and '_', not '{wrong[0]}'")
    return pattern


Path = Annotated[str, AfterValidator(_relative)]
"""A path or pattern with ``*``."""

Pattern = Annotated[str, AfterValidator(_with_columns)]
"""A path made of a record's columns, in braces, and ``*``: ``images/*/{image_id}.jpg``."""

Parts = Annotated[str, AfterValidator(_with_parts)]
"""A pattern that tells a record's columns, in braces: ``images/{split}/{label}/*.png``."""


class FolderFiles(Section):
    """Images in folders: what a path says of an image stands in braces, and those parts are the record's columns."""

    format: Literal["folders"]
    files: list[Parts] = Field(min_length=1)


class TableFiles(Section):
    """CSV, TSV, Parquet, JSON lines, or a JSON file that is a list of objects: a record per item."""

    format: Literal["table"]
    files: list[Path] = Field(min_length=1)
    columns: list[str] | None = None
    separator: str | None = Field(default=None, min_length=1, max_length=1)
    image: str | list[Pattern] | None = None


class WebDatasetFiles(Section):
    """Tars in which what belongs together has one name; or a corpus of any kind, as extraction reads it."""

    format: Literal["webdataset"]
    files: list[Path] = []
    corpus: Corpus | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.files) == bool(self.corpus):
            raise ValueError("the format webdataset needs either files or a corpus")
        return self


class MedMnistFile(Section):
    """An npz with ``train_images``, ``train_labels`` and the same of val and test."""

    format: Literal["medmnist"]
    files: list[Path] = Field(min_length=1, max_length=1)


class ListFiles(Section):
    """Texts with a line ``name label`` for each image, as MMKD-CLIP's released evaluator reads them."""

    format: Literal["list"]
    files: list[Path] = Field(min_length=1)
    image: Pattern


class VqaFiles(Section):
    """Questions with their answers, as a JSON list (or any table), and the images that they are about."""

    format: Literal["vqa_json"]
    files: list[Path] = Field(min_length=1)
    image: Pattern
    images: list[Path] = []


class BagFiles(Section):
    """Features of the tiles of slides, computed before: a file, or an array (tiles, width) of one, per slide."""

    format: Literal["bags"]
    files: list[Path] = []
    bags: Pattern
    array: str = "features"
    per: Literal["slide", "patient"] = "slide"


class SurvivalFiles(Section):
    """A table of patients with features: columns of numbers, and ``categories``, columns of words."""

    format: Literal["survival_table"]
    files: list[Path] = Field(min_length=1)
    columns: list[str] | None = None
    features: list[str] = []
    categories: list[str] = []

    @model_validator(mode="after")
    def _some_column(self) -> Self:
        twice = sorted({*self.features} & {*self.categories})
        if twice:
            raise ValueError(f"a column is a number or a word, not both: {', '.join(twice)}")
        if not self.features and not self.categories:
            raise ValueError("a table needs columns: features (numbers) or categories (words)")
        return self


ReadRule = Annotated[
    FolderFiles | TableFiles | WebDatasetFiles | MedMnistFile | ListFiles | VqaFiles | BagFiles | SurvivalFiles,
    Field(discriminator="format"),
]

FORMATS = ("folders", "table", "webdataset", "medmnist", "list", "vqa_json", "bags", "survival_table")


def wild(pattern: str) -> str:
    """Return a pattern with ``*`` in place of its parts in braces."""
    return re.sub(r"\{[^}]*\}", "*", pattern)


def any_suffix(pattern: str) -> str:
    """Return the pattern of an image with any suffix: ``*/*.*`` for ``*/*.jpg``, since files may end with ``.JPG``."""
    folder, _, name = pattern.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    changed = f"{stem}.*" if dot and not re.search(r"[*?{\[]", suffix) else name
    return f"{folder}/{changed}" if folder else changed


def needed_patterns(rule: ReadRule) -> list[str]:
    """Return the patterns that must each match a file if the dataset is present."""
    found = [wild(pattern) for pattern in rule.files]
    if isinstance(rule, VqaFiles):
        found += rule.images or [wild(rule.image)]
    if isinstance(rule, BagFiles):
        found.append(wild(rule.bags))
    if isinstance(rule, ListFiles):
        found.append(wild(rule.image))
    if isinstance(rule, TableFiles) and isinstance(rule.image, list):
        found.append(wild(rule.image[0]))
    if isinstance(rule, TableFiles) and isinstance(rule.image, str) and "{" in rule.image:
        found.append(wild(rule.image))
    return found
