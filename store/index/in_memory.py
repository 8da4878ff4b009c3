"""Reads a corpus into memory: for one that is small or read once, such as the pairs of a stage-1 training."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store.corpus.corpus_files import common_root, corpus_files
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.format.pairs import PAIR_SCHEMA
from store.io.location import Location

from .index_file import FileIndexer, FileReport
from .merge import merge


@dataclass(kw_only=True, slots=True)
class CorpusIndex:
    """Pairs found in a corpus.

    Attributes:
        root: the folder or URL that the table's uris are relative to.
        problems: one line per pair whose members are not as they should be; such a pair is kept.
    """

    table: pa.Table
    root: str | os.PathLike[str] | Location
    problems: list[str] = field(default_factory=list)


def read_corpus(corpus: Corpus) -> CorpusIndex:
    """Read a corpus once and return the table of its pairs, by the rules of its ``keep``.

    A pair without image or without caption is a row too, unless a rule refuses it: extraction gives it a bad status and
    a reason, so that no pair is lost silently.

    Raises:
        CorpusError: a file cannot be read, a key occurs twice, or there is no pair at all.
    """
    files = corpus_files(corpus.files)
    root = common_root(files)
    parts = [FileIndexer(file, corpus, root=root).part() for file in files]
    merged = merge([functools.partial(bytes, part) for part in parts], corpus.keep)
    require_pairs(merged.report, rows=int(merged.keep_N.sum()), files=len(files))
    columns = [name for name in PAIR_SCHEMA.names if name != "row"]
    candidates = pa.concat_tables([pq.read_table(pa.BufferReader(part), columns=columns) for part in parts])
    kept = candidates.filter(pa.array(merged.keep_N))
    table = kept.add_column(0, PAIR_SCHEMA.field("row"), pa.array(np.arange(kept.num_rows))).cast(PAIR_SCHEMA)
    return CorpusIndex(table=table, root=root, problems=merged.report.problems)


def require_pairs(report: FileReport, *, rows: int, files: int) -> None:
    """Refuse a corpus without any pair: the CorpusError says whether the corpus or the rules leave none."""
    if not report.usable:
        raise CorpusError(
            f"the corpus holds no pair: {files} files were read, {report.pairs} keys found, and none has both an "
            "image and a caption",
            hint="in a tar a pair is KEY.jpg (or .png, ...) and KEY.txt, side by side; in a table, a row with both",
        )
    if not rows:
        refused = ", ".join(f"{rule}: {count}" for rule, count in report.dropped.items())
        raise CorpusError(
            f"the rules of the corpus keep none of its {report.pairs} pairs ({refused})",
            hint="python -m extract index --report prints what each rule refuses; relax keep: in pipelines.yaml",
        )
