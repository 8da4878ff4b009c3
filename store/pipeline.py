"""The sections of pipelines.yaml that more than one program reads; docs/pipelines.md describes every key."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from store.config.pipeline_file import ConfigPath, Section
from store.corpus.section import Corpus
from store.format.pixels import Pixels
from store.format.records import StoredDtype
from store.images.decode import MAX_PIXELS
from store.read.selection import Selection
from store.read.shards import Verify


class StoreSection(Section):
    """The feature store."""

    path: ConfigPath
    corpus: str | None = None
    range_rows: int = Field(default=8192, gt=0)
    chunk_rows: int = Field(default=256, gt=0)
    dtype: StoredDtype = "float16"
    verify: Verify = "first"


class Pipeline(Section):
    """One named pipeline; each program narrows the sections that it owns."""

    corpora: dict[str, Corpus] = {}
    store: StoreSection
    pixels: Pixels | None = None
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    select: Selection = "all"
    teachers: Any = None
    extract: Any = None
    train: Any = None
    evaluate: Any = None

    def readable(self) -> tuple[str, ...]:
        """Return the places beside the store's corpus root that single images may be read from."""
        corpus = self.corpora.get(self.store.corpus or "")
        return corpus.readable() if corpus else ()
