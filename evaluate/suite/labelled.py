"""A labelled corpus in memory: what its images show, their pixels as each model wants them, and its digest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from evaluate.config import ZeroShotDataset
from evaluate.models.encoders import short_reason
from evaluate.tasks.group_accuracy import check_labels
from extract.teacher_files.geometry import Geometry, fit
from store.config.pipeline_file import dump_resolved
from store.corpus.corpus_files import corpus_files
from store.corpus.decode import decode_image
from store.corpus.section import Corpus
from store.corpus.source_pair import SourcePair
from store.errors import CorpusError, PairDecodeError
from store.index.in_memory import read_pairs
from store.index.indexing import settings_of

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


@dataclass(kw_only=True, slots=True)
class LabelledImages:
    """The images of a dataset that can be decoded, N of them.

    Attributes:
        pixels: by geometry, (N, H, W, 3) uint8.
        labels, groups: N each.
        excluded: how many images were left out, by reason.
    """

    pixels: dict[Geometry, Pixels]
    labels: list[str]
    groups: list[str]
    excluded: dict[str, int]


def dataset_digest(corpus: Corpus, dataset: ZeroShotDataset, *, max_pixels: int) -> str:
    """Return a SHA-256 of all that decides a model's result on a dataset, but for the model.

    Of a corpus of tables whose images are files of their own, only the tables count.

    Raises:
        CorpusError: the corpus has no file.
    """
    parts = {
        "dataset": json.loads(dump_resolved(dataset)),
        "corpus": settings_of(corpus),
        "files": [(file.name, file.sha256()) for file in corpus_files(corpus.files)],
        "max_pixels": max_pixels,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_labelled(
    corpus: Corpus, dataset: ZeroShotDataset, geometries: Collection[Geometry], *, max_pixels: int
) -> LabelledImages:
    """Read a labelled corpus; an image that cannot be decoded is left out with a warning.

    Args:
        corpus: where the pairs are.
        dataset: which fields label them.
        geometries: what resize and crop the models need.
        max_pixels: width times height that is decoded.

    Raises:
        CorpusError: pairs lack the label or group field, or a group has no image left.
    """
    fitted: dict[Geometry, list[Pixels]] = {geometry: [] for geometry in geometries}
    labels, groups, unlabelled = [], [], []
    excluded: Counter[str] = Counter()
    pairs = 0
    for pair in read_pairs(corpus):
        pairs += 1
        label, group = pair.metadata.get(dataset.label), pair.metadata.get(dataset.group)
        if not isinstance(label, str) or not isinstance(group, str):
            unlabelled.append(_place(pair, corpus))
            continue
        try:
            image = _decode(pair, max_pixels=max_pixels)
        except PairDecodeError as error:
            log.warning("%s is left out: %s", _place(pair, corpus), error)
            excluded[short_reason(error)] += 1
            continue
        labels.append(label)
        groups.append(group)
        for geometry, images in fitted.items():
            images.append(fit(image, geometry))
    if unlabelled:
        raise CorpusError(
            f"{unlabelled[0]}: expected the text fields {dataset.label!r} and {dataset.group!r} in its record; "
            f"{len(unlabelled)} of {pairs} pairs lack one"
        )
    _check(labels, groups, dataset, excluded)
    pixels = {geometry: np.stack(images) for geometry, images in fitted.items()}
    return LabelledImages(pixels=pixels, labels=labels, groups=groups, excluded=dict(excluded))


def _place(pair: SourcePair, corpus: Corpus) -> str:
    return f"{pair.uri or corpus.files[0]}: {pair.key}"


def _decode(pair: SourcePair, *, max_pixels: int) -> Image.Image:
    if pair.image is None:
        raise PairDecodeError("there is no image")
    return decode_image(pair.image, max_pixels=max_pixels)


def _check(labels: list[str], groups: list[str], dataset: ZeroShotDataset, excluded: Counter[str]) -> None:
    try:
        check_labels(labels, groups, dataset.classes)
    except CorpusError as error:
        if not excluded:
            raise
        hint = f"{excluded.total()} images were left out; the warnings above name them"
        raise CorpusError(str(error), hint=hint) from error
