"""A model's embeddings of a dataset's items by split; items without an embedding are left out and counted.

Axes: N items, E embedding width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluate.datasets.loaded import LoadedDataset, Split
from evaluate.datasets.split_rules import SplitName
from evaluate.models.encoders import NOT_STORED, Embeddings, Encoder, ImageSet
from evaluate.tasks.inputs import LabelledFeatures
from store.errors import EvaluationError


class Embedder:
    """A model's embeddings of a dataset's splits.

    Args:
        encoder: None if the dataset brings its own features.
        official: whether the tasks follow MMKD-CLIP's released evaluator, see ``run_task``.
    """

    def __init__(self, encoder: Encoder | None, dataset: LoadedDataset, *, official: bool = False) -> None:
        self._encoder, self.dataset, self.official = encoder, dataset, official
        self.excluded: Counter[str] = Counter()

    @property
    def encoder(self) -> Encoder:
        """The model; raises EvaluationError if there is none."""
        if self._encoder is None:
            raise EvaluationError(f"{self.dataset.entry.name}: this task needs a model")
        return self._encoder

    def split(self, split: Split) -> tuple[Split, Embeddings]:
        """Return the items of a split that have an embedding, and (N, E) those; other items are counted.

        Raises:
            EvaluationError: no item has one, or more images cannot be read than the dataset's entry allows.
        """
        if split.images is None:
            raise EvaluationError(
                f"{self.dataset.entry.name}: the {split.name} items have no image",
                hint="say in the dataset's file where the images are: read.image",
            )
        first, image_N = split.distinct_images()
        images = split.images
        digests = split.image_digests or []
        found = self.encoder.embed_images(
            ImageSet(images=[images[item] for item in first], digests=[digests[item] for item in first])
        )
        good_N = np.array([int(image) not in found.without for image in image_N], bool)
        self._leave_out(split, [found.without[int(image)] for image in image_N[~good_N]], of=len(split))
        if not good_N.any():
            reasons = ", ".join(f"{count} x {why}" for why, count in Counter(found.without.values()).most_common(3))
            raise EvaluationError(f"{self.dataset.entry.name}: no {split.name} image has an embedding: {reasons}")
        return split.take(np.flatnonzero(good_N)), found.rows[image_N[good_N]]

    def labelled(self, name: SplitName) -> LabelledFeatures | None:
        """Return a split with its class numbers; None if the dataset has no such split."""
        if name not in self.dataset.splits:
            return None
        return labelled_features(*self.split(self.dataset.splits[name]))

    def features(self, split: Split) -> tuple[Split, Sequence[Embeddings]]:
        """Return a split's items and the features of each: those of its bags, or of its image."""
        if split.bags is not None:
            return self._of_bags(split)
        found, rows_NE = self.split(split)
        return found, list(rows_NE)

    def bags(self, split: Split) -> LabelledFeatures:
        """Return a split's bags with their class numbers; raise EvaluationError if the items are no bags."""
        if split.bags is None:
            raise EvaluationError(f"{self.dataset.entry.name}: the {split.name} items are no bags of tiles")
        return labelled_features(*self._of_bags(split))

    def _of_bags(self, split: Split) -> tuple[Split, Sequence[Embeddings]]:
        bags = split.bags or []
        if all(bag.files for bag in bags):
            return split, [bag.features() for bag in bags]
        tiles = {digest: image for bag in bags for digest, image in zip(bag.digests, bag.images, strict=True)}
        place = {digest: number for number, digest in enumerate(tiles)}
        found = self.encoder.embed_images(ImageSet(images=list(tiles.values()), digests=list(tiles)))
        good = [[place[digest] for digest in bag.digests if place[digest] not in found.without] for bag in bags]
        kept = [item for item, places in enumerate(good) if places]
        self._leave_out(split, list(found.without.values()), of=len(tiles), what="tile: ")
        self._leave_out(split, ["no tile of the slide has an embedding"] * (len(bags) - len(kept)), of=len(bags))
        return split.take(kept), [found.rows[good[item]] for item in kept]

    def _leave_out(self, split: Split, reasons: Sequence[str], *, of: int, what: str = "") -> None:
        """Count what has no embedding; refuse a split of which more than the entry allows cannot be read."""
        where = "" if split.name == "test" else f"{split.name}: "
        self.excluded.update(f"{where}{what}{why}" for why in reasons)
        entry = self.dataset.entry
        # A feature that a store lacks is not a fault of the dataset.
        unreadable = Counter(f"{what}{why}" for why in reasons if why != NOT_STORED)
        if unreadable.total() > entry.max_excluded * of:
            listed = ", ".join(f"{why}: {count}" for why, count in unreadable.most_common(3))
            raise EvaluationError(
                f"{entry.name}: {unreadable.total()} of {of} of the {split.name} split cannot be used ({listed}), more "
                f"than max_excluded, {entry.max_excluded:.1%}",
                hint=f"python -m evaluate check {entry.name} --deep names them",
            )


def labelled_features(split: Split, features: Embeddings | Sequence[Embeddings]) -> LabelledFeatures:
    """Return the items of a split with their features, class numbers, patients and subgroups."""
    return LabelledFeatures(
        ids=split.ids,
        features=features,
        target=targets_of(split),
        clusters=split.patients,
        subgroups=split.subgroups or {},
    )


def targets_of(split: Split) -> npt.NDArray[Any]:
    """Return the class numbers of a split's items; raise EvaluationError if they have none."""
    if split.targets is None:
        raise EvaluationError(f"the {split.name} items have no classes")
    return split.targets
