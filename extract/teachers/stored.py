"""The teachers behind a store's features: compares their specs with the pipeline's, and encodes a query with them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from extract.config import ExtractPipeline
from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from store.config.problems import it_has
from store.errors import ConfigError, SpecMismatchError
from store.format.records import Side, Spec
from store.images.decode import open_image
from store.read.reader import FeatureStore

from .loading import load_teacher

log = logging.getLogger(__name__)


def same_spec(store: FeatureStore, pipeline: ExtractPipeline, name: str) -> Spec:
    """Return the spec of a pipeline's teacher, which is that of the store's features.

    Raises:
        SpecMismatchError: the store holds features of another teacher of that name.
        WeightsNotFoundError: its files are not there; the hint says how they are fetched.
    """
    stored = store.spec(name)
    spec = teacher_spec(name, pipeline.teachers[name], stored_dtype=stored.stored_dtype, window=pipeline.image.bounds)
    if spec.hash != stored.hash:
        changes = "\n  ".join(spec.difference(stored))
        raise SpecMismatchError(
            f"{store.location} holds features of another {name} than the pipeline's:\n  {changes}",
            hint="name the pipeline that the store was made with, or put the old teacher back",
        )
    return spec


def encode_query(
    store: FeatureStore, pipeline: ExtractPipeline, name: str, query: str | Path
) -> npt.NDArray[np.float32]:
    """Return the feature (D,) of a caption, or of the image in a file, as a store's teacher encodes it.

    Raises:
        ConfigError: the pipeline has no such teacher.
        StoreError: the store has none, or it encodes images alone and the query is a caption.
        PairDecodeError: the file holds no image that can be used.
        SpecMismatchError, WeightsNotFoundError: as `same_spec`.
    """
    side: Side = "text" if isinstance(query, str) else "image"
    store.spec(name).require(side)
    if name not in pipeline.teachers:
        raise ConfigError(f"the pipeline has no teacher {name!r}{it_has(name, [*pipeline.teachers])}")
    log.info("%s: reading the teacher's files", name)
    teacher = load_teacher(same_spec(store, pipeline, name), pipeline.teachers[name])
    if isinstance(query, str):
        return teacher.encode_text([query]).reshape(-1)
    opened = open_image(query.read_bytes(), max_pixels=pipeline.max_pixels, window=teacher.window)
    # Stacked, so that torch has an array of its own.
    pixels_1HWC = np.stack([fit(opened.image, teacher.geometry, max_pixels=pipeline.max_pixels)])
    return teacher.encode_image(pixels_1HWC).reshape(-1)
