"""The sections of pipelines.yaml that more than one program reads; docs/pipelines.md describes every key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from store.config.pipeline_file import ConfigPath, Section
from store.corpus.section import Corpus
from store.format.pixels import Pixels
from store.format.records import StoredDtype
from store.images.decode import MAX_PIXELS
from store.images.depth import Window
from store.read.selection import Selection
from store.read.shards import Verify


class StoreSection(Section):
    """The feature store."""

    path: ConfigPath = Field(examples=["runs/mine/store"])
    corpus: str | None = None
    range_rows: int = Field(default=8192, gt=0)
    chunk_rows: int = Field(default=256, gt=0)
    dtype: StoredDtype = "float16"
    verify: Verify = "first"


class CenterWidth(Section):
    """A window as radiology states it."""

    center: float = Field(examples=[40])
    width: float = Field(gt=0, examples=[400])


class ImageSection(Section):
    """Settings of reading images."""

    window: Literal["minmax"] | CenterWidth | Annotated[list[float], Field(min_length=2, max_length=2)] | None = None

    @field_validator("window")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        if isinstance(value, list) and not value[0] < value[1]:
            raise ValueError("the first number of [low, high] must be less than the second")
        return value

    @property
    def bounds(self) -> Window | None:
        """The values that become black and white."""
        if isinstance(self.window, CenterWidth):
            half = self.window.width / 2
            return self.window.center - half, self.window.center + half
        return (self.window[0], self.window[1]) if isinstance(self.window, list) else self.window


class Pipeline(Section):
    """One named pipeline; each program narrows the sections that it owns."""

    corpora: dict[str, Corpus] = {}
    store: StoreSection
    pixels: Pixels | None = None
    image: ImageSection = ImageSection()
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
