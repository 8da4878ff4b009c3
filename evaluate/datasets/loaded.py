"""A dataset in memory; its images and its bags of features are read on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evaluate.datasets.formats.record import BagFile, Image
from store.config.problems import it_has
from store.errors import EvaluationError

from .entry import DatasetEntry
from .split_rules import SplitName


@dataclass(frozen=True, kw_only=True, slots=True)
class Bag:
    """The tiles of one slide, or of all slides of a patient: as features or as images.

    Attributes:
        files: features that were computed before.
        images: tiles that a model still has to encode.
        digests: SHA-256 of each file's features, or of each image.
    """

    files: tuple[BagFile, ...] = ()
    images: tuple[Image, ...] = ()
    digests: tuple[str, ...]

    def features(self) -> npt.NDArray[np.float32]:
        """Return the features of all tiles, (tiles, width) float32.

        Raises:
            EvaluationError: the bag has images, or its files are not of one width.
        """
        if not self.files:
            raise EvaluationError("the tiles of this bag are images: encode them first")
        parts = [file.read() for file in self.files]
        if len({part.shape[1] for part in parts}) > 1:
            widths = ", ".join(
                f"{file.path.name}: {part.shape[1]}" for file, part in zip(self.files, parts, strict=True)
            )
            raise EvaluationError(f"the slides of a patient have features of several widths ({widths})")
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """N items of a dataset; columns that it does not have are None.

    Attributes:
        ids: distinct within the dataset.
        patients: N names; items of one patient are never independent, see ``clusters``.
        groups: the group whose classes each item is classified among.
        targets: (N,) int64, positions among the classes; of a multi-label dataset (N, C) uint8.
        captions, questions, answers: N texts each.
        answer_types: N times ``open`` or ``closed``; if the dataset does not say, yes and no are closed.
        times: (N,) float64.
        events: (N,) bool, whether the event was seen.
        features: (N, D) float64 of a table; NaN where a value is missing.
        categories: (N, K) words of a table; empty where a value is missing.
        subgroups: by column of the entry's ``subgroups``, N words.
        images: N; items about the same image share its digest.
        image_digests: N SHA-256 of the images' bytes.
    """

    name: SplitName
    ids: list[str]
    patients: list[str] | None = None
    groups: list[str] | None = None
    targets: npt.NDArray[Any] | None = None
    captions: list[str] | None = None
    questions: list[str] | None = None
    answers: list[str] | None = None
    answer_types: list[str] | None = None
    times: npt.NDArray[np.float64] | None = None
    events: npt.NDArray[np.bool_] | None = None
    features: npt.NDArray[np.float64] | None = None
    categories: npt.NDArray[np.object_] | None = None
    subgroups: dict[str, list[str]] | None = None
    images: list[Image] | None = None
    image_digests: list[str] | None = None
    bags: list[Bag] | None = None

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)

    @property
    def clusters(self) -> list[str] | None:
        """N names of what a resample takes together: items that share a patient, an image or a bag, directly or not.

        A cluster has the name of its first item. None where patients are not known and no two items are the same.
        """
        bags = None if self.bags is None else [" ".join(bag.digests) for bag in self.bags]
        known = [keys for keys in (self.patients, self.image_digests, bags) if keys is not None]
        if not known:
            return None
        count = len(self)
        nodes = [np.unique(np.array(keys), return_inverse=True)[1] for keys in known]
        ends = np.concatenate([count * (1 + place) + of_item for place, of_item in enumerate(nodes)])
        starts, size = np.tile(np.arange(count), len(known)), count * (1 + len(known))
        joined = coo_array((np.ones(len(ends), bool), (starts, ends)), shape=(size, size))
        component_N = connected_components(joined, directed=False)[1][:count]
        first, of_item = np.unique(component_N, return_index=True, return_inverse=True)[1:]
        if self.patients is None and len(first) == count:
            return None
        return [self.ids[first[number]] for number in of_item]

    def image_bytes(self, item: int) -> bytes:
        """Return the bytes of an item's image, for ``store.images.decode.decode_image``."""
        if self.images is None:
            raise EvaluationError("the items of this dataset are no images")
        return self.images[item].read()

    def distinct_images(self) -> tuple[list[int], npt.NDArray[np.int64]]:
        """Return an item of each distinct image, in order, and (N,) which of them each item has.

        Encode the first; index with the second.
        """
        places: dict[str, int] = {}
        first = []
        for item, digest in enumerate(self.image_digests or []):
            if digest not in places:
                places[digest] = len(places)
                first.append(item)
        return first, np.array([places[digest] for digest in self.image_digests or []], dtype=np.int64)

    def take(self, items: Sequence[int] | npt.NDArray[np.integer]) -> Split:
        """Return some of the items, in the order that is given."""
        rows = np.asarray(items, dtype=np.int64)
        values: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.ndarray):
                values[each.name] = value[rows]
            elif isinstance(value, list):
                values[each.name] = [value[row] for row in rows]
            elif isinstance(value, dict):
                values[each.name] = {name: [column[row] for row in rows] for name, column in value.items()}
        return replace(self, **values)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedDataset:
    """A dataset that was read and checked.

    Attributes:
        splits: the splits that have items; ``test`` always does.
        digest: SHA-256 of all items: images, labels, texts, times, features, and which split each is in.
        split_digest: SHA-256 of the ids and images of each split.
        duplicates: by pair of splits, such as ``train/test``: how many items of the second show an image of the first.
        caveats: what a reader of results should know, in words.
    """

    entry: DatasetEntry
    splits: dict[SplitName, Split]
    digest: str
    split_digest: str
    excluded: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)

    @property
    def test(self) -> Split:
        """The test split."""
        return self.splits["test"]

    def require(self, name: SplitName) -> Split:
        """Return a split; raise EvaluationError if the dataset has no such items."""
        if name not in self.splits:
            raise EvaluationError(
                f"{self.entry.name}: has no {name} split{it_has(name, self.splits)}",
                hint=f"the split: of {self.entry.name}.yaml decides; val_share takes a validation split from train",
            )
        return self.splits[name]
