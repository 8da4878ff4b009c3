"""Reads the records of a dataset in any format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from store.corpus.image_source import ImageSource
from store.files import find_paths

from .images import read_corpus, read_folders, read_webdataset
from .medmnist import read_medmnist
from .record import Record
from .rules import (
    BagFiles,
    FolderFiles,
    ListFiles,
    MedMnistFile,
    ReadRule,
    SurvivalFiles,
    TableFiles,
    VqaFiles,
    WebDatasetFiles,
)
from .tables import images_by_name, read_bags, read_list, read_table, read_vqa


def read_all(rule: ReadRule, root: Path) -> Iterator[Record]:
    """Yield every record of a dataset, in an order that depends on the names of its files alone.

    Raises:
        EvaluationError, CorpusError: a file cannot be read.
    """
    match rule:
        case FolderFiles():
            for pattern in rule.files:
                yield from read_folders(root, pattern)
        case WebDatasetFiles(corpus=corpus) if corpus:
            yield from read_corpus(corpus)
        case BagFiles():
            yield from read_bags(root, rule, _files(root, rule.files))
        case VqaFiles():
            images = images_by_name(root, _files(root, rule.images))
            for path in _files(root, rule.files):
                yield from read_vqa(root, path, rule, images)
        case TableFiles() | SurvivalFiles():
            image, separator = (rule.image, rule.separator) if isinstance(rule, TableFiles) else (None, None)
            for path in _files(root, rule.files):
                yield from read_table(root, path, columns=rule.columns, image=image, separator=separator)
        case WebDatasetFiles():
            source = ImageSource(root)
            for path in _files(root, rule.files):
                yield from read_webdataset(path, path.relative_to(root).as_posix(), source)
        case MedMnistFile() | ListFiles():
            for path in _files(root, rule.files):
                yield from read_list(root, path, rule) if isinstance(rule, ListFiles) else read_medmnist(root, path)


def _files(root: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(find_paths(root, pattern)) if path.is_file()]
