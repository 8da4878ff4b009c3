"""The sections of pipelines.yaml that more than one program reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import Field, model_validator

from .config import ConfigPath, Section
from .curation import Keep
from .fields import Fields
from .images import MAX_PIXELS
from .records import StoredDtype
from .selection import Selection


class Phantom(Section):
    """How to draw a phantom corpus (``python -m extract phantom``).

    Attributes:
        rows: pairs to draw.
        seed: decides every pixel and word.
        modality: draw this one only; all nine in turn if left out.
        others: share of rows drawn from the other modalities when one is given.
        split: written into every pair.
        size_px: side of the images.
    """

    rows: int = Field(gt=0)
    seed: int = Field(ge=0)
    modality: str | None = None
    others: float = Field(default=0.0, ge=0, lt=1)
    split: str = "train"
    size_px: int = Field(default=64, ge=32)


class Corpus(Section):
    """Image-text pairs.

    Attributes:
        files: WebDataset tars, Parquet, JSON lines or CSV: paths or URLs with ``*``.
        format: which of them; by the names of the files if left out.
        qualify_keys: put the file's name before each key, for corpora whose files count their keys anew.
        fields: where in a record the key, the caption, the modality and so on are.
        modality_map: from what the corpus says to the modality; a value that it lacks gives none.
        keep: rules that choose pairs while indexing.
        phantom: how the corpus is drawn, if it is a phantom; the tars then go to the folder of ``files``.
    """

    files: list[ConfigPath] = Field(min_length=1)
    format: Literal["tar", "parquet", "jsonl", "csv"] | None = None
    qualify_keys: bool = False
    fields: Fields = Fields()
    modality_map: dict[str, str] | None = None
    keep: Keep = Keep()
    phantom: Phantom | None = None


class StoreSection(Section):
    """The feature store.

    Attributes:
        path: its folder.
        corpus: which of the pipeline's corpora it holds.
        range_rows: R, rows of a store shard, the unit of writing.
        chunk_rows: C, rows of a chunk, the unit of reading; divides R.
        dtype: what features are stored as. int8 halves the bytes and costs up to 1e-3 of cosine (docs/benchmarks.md).
    """

    path: ConfigPath
    corpus: str
    range_rows: int = Field(default=8192, gt=0)
    chunk_rows: int = Field(default=256, gt=0)
    dtype: StoredDtype = "float16"


class Pixels(Section):
    """The store's own copies of the images, so that training needs no corpus (``python -m extract pixels``).

    Attributes:
        short_side_px: images whose short side is longer are made so small; none is enlarged.
        format: of the encoded images.
        quality: of the encoder, or ``lossless``, which WebP alone has.
    """

    short_side_px: int = Field(default=256, gt=0)
    format: Literal["jpeg", "webp"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] | Literal["lossless"] = 90

    @model_validator(mode="after")
    def _jpeg_loses(self) -> Pixels:
        if self.format == "jpeg" and self.quality == "lossless":
            raise ValueError("JPEG has no lossless quality; give a number, or format: webp")
        return self


class Pipeline(Section):
    """One named pipeline; each program narrows the sections that it owns.

    Attributes:
        corpora: by name.
        store: where features go and come from.
        pixels: how the store keeps the images themselves; it keeps none if left out.
        max_pixels: width times height of an image that is decoded at most.
        select: which teachers may teach which rows.
        teachers, extract: read by extract.
        train: read by train.
        evaluate: read by evaluate.
    """

    corpora: dict[str, Corpus]
    store: StoreSection
    pixels: Pixels | None = None
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    select: Selection = "all"
    teachers: Any = None
    extract: Any = None
    train: Any = None
    evaluate: Any = None


PIPELINES_FILE = Path("pipelines.yaml")

PipelineOption = Annotated[str, typer.Option("--pipeline", help="Which pipeline of the configuration file.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one value, e.g. --set train.students.distilled.optimization.lr=3e-4"),
]
