"""A corpus file of any kind as a sequence of pairs; which kind it is, its name says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from store.errors import CorpusError

from .corpus_files import CorpusFile
from .fields import TABLE_DEFAULTS, TAR_DEFAULTS, FieldReader
from .section import Corpus
from .source_pair import SourcePair
from .tables import read_csv, read_jsonl, read_parquet
from .webdataset import read_tar

Format = Literal["tar", "parquet", "jsonl", "csv"]

SUFFIXES: dict[str, Format] = {
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
"""By the end of the name; a compressed tar is refused by its reader, which says what to do."""


def format_of(file: CorpusFile, corpus: Corpus) -> Format:
    """Return what kind of file it is.

    Raises:
        CorpusError: its name does not tell and the corpus does not say.
    """
    if corpus.format is not None:
        return corpus.format
    for suffix, kind in SUFFIXES.items():
        if file.name.lower().endswith(suffix):
            return kind
    raise CorpusError(
        f"{file.uri}: its name does not say what it is; expected one of {', '.join(SUFFIXES)}",
        hint="say it in the corpus of pipelines.yaml, as in format: jsonl",
    )


class Source:
    """One corpus file, to be read from front to back."""

    def __init__(self, file: CorpusFile, corpus: Corpus) -> None:
        self._file, self._format = file, format_of(file, corpus)
        defaults = TAR_DEFAULTS if self._format == "tar" else TABLE_DEFAULTS
        self.fields = FieldReader(file.uri, corpus.fields, defaults, raw=corpus.keep.raw_paths())

    def pairs(self, *, all_columns: bool = False) -> Iterator[SourcePair]:
        """Yield the file's pairs in order.

        Args:
            all_columns: of Parquet, read the columns that no field names too.

        Raises:
            CorpusError: the file cannot be read, or no record has a field that is mapped.
        """
        for pair in self._read(all_columns=all_columns):
            self.fields.note(pair.record)
            yield pair
        self.fields.finish()

    def _read(self, *, all_columns: bool) -> Iterator[SourcePair]:
        match self._format:
            case "tar":
                yield from self._tar_pairs()
            case "parquet":
                yield from read_parquet(self._file, self.fields, all_columns=all_columns)
            case "jsonl":
                yield from read_jsonl(self._file, self.fields)
            case "csv":
                yield from read_csv(self._file, self.fields)

    def _tar_pairs(self) -> Iterator[SourcePair]:
        for pair in read_tar(self._file):
            mapped = self.fields.text(pair.record, "key")
            if mapped is not None:
                pair.key = mapped
            yield pair
