"""Checks of a dataset: what is refused, and the caveats for readers of its results."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from evaluate.datasets.formats.rules import SurvivalFiles
from store.errors import EvaluationError, PairDecodeError
from store.images.decode import MAX_PIXELS, decode_image

from .entry import DatasetEntry
from .loaded import LoadedDataset, Split
from .split_rules import SPLITS, SplitName

SHOWN = 5
"""Number of names that a message lists."""


def check_splits(
    entry: DatasetEntry, splits: Mapping[SplitName, Split], excluded: Mapping[str, int], *, allow: Collection[str]
) -> tuple[dict[str, int], list[str]]:
    """Return the duplicates between splits, and the caveats in words.

    Raises:
        EvaluationError: says everything that is wrong at once.
    """
    problems = [*_empty(splits, excluded), *_excluded(entry, splits, excluded)]
    if "test" in splits:
        problems += [*_classes(entry, splits["test"], allow), *_groups(entry, splits["test"])]
    lacking = _missing(entry, splits)
    if lacking and entry.missing == "refuse":
        problems.append(f"values are missing ({lacking}): say missing: impute or missing: drop in the dataset's file")
    caveats = [f"missing values were imputed ({lacking})"] if lacking else []
    shared = list(_shared_patients(splits))
    hint = "python -m evaluate check reads a dataset and says what it has"
    if shared and "shared_patients" not in allow:
        problems.append(f"{'; '.join(shared)}: what is known of a patient in training helps in testing")
        hint = "split by patient, or say allow: [shared_patients] in the dataset's file"
    elif shared:
        caveats += shared
    if problems:
        raise EvaluationError("\n".join(f"{entry.name}: {problem}" for problem in problems), hint=hint)
    duplicates = _duplicates(splits)
    caveats += [
        f"{count} items of {pair.replace('/', ' and ')} show the same image" for pair, count in duplicates.items()
    ]
    return duplicates, [*caveats, *_contradictions(splits), *_counts(entry, splits)]


def _missing(entry: DatasetEntry, splits: Mapping[SplitName, Split]) -> str:
    """Return in words how many values each column of a table lacks; empty if none lacks any."""
    if not isinstance(entry.read, SurvivalFiles):
        return ""
    counts: Counter[str] = Counter()
    for split in splits.values():
        if split.features is not None:
            nan_D = np.isnan(split.features).sum(axis=0).tolist()
            counts += Counter(dict(zip(entry.read.features, nan_D, strict=True)))
        if split.categories is not None:
            empty_K = (split.categories == "").sum(axis=0).tolist()
            counts += Counter(dict(zip(entry.read.categories, empty_K, strict=True)))
    return ", ".join(f"{column}: {count}" for column, count in counts.most_common(SHOWN))


def _empty(splits: Mapping[SplitName, Split], excluded: Mapping[str, int]) -> Iterator[str]:
    if "test" not in splits:
        left = f" ({_listed(excluded)} left out)" if excluded else ""
        sizes = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
        yield f"there is no test item{left}; it has {sizes or 'none at all'}"


def _excluded(entry: DatasetEntry, splits: Mapping[SplitName, Split], excluded: Mapping[str, int]) -> Iterator[str]:
    lost = sum(count for reason, count in excluded.items() if not reason.startswith("ignored"))
    total = lost + sum(len(split) for split in splits.values())
    if lost > entry.max_excluded * total:
        yield (
            f"{lost} of {total} items cannot be used ({_listed(excluded)}), "
            f"more than max_excluded, {entry.max_excluded:.1%}; fetch what is missing"
        )


def _classes(entry: DatasetEntry, test: Split, allow: Collection[str]) -> Iterator[str]:
    if test.targets is None or not entry.labelled:
        return
    counts_C = (
        test.targets.sum(axis=0) if test.targets.ndim == 2 else np.bincount(test.targets, minlength=len(entry.classes))
    )
    without = [name for name, count in zip(entry.classes, counts_C, strict=True) if not count]
    if test.targets.ndim == 1 and len(entry.classes) - len(without) == 1:
        (only,) = set(entry.classes) - set(without)
        yield f"all {len(test)} test items are of one class, {only!r}: nothing can be told apart"
    elif without and "empty_classes" not in allow:
        yield (
            f"{len(without)} of {len(entry.classes)} classes have no test item: {', '.join(without[:SHOWN])}; "
            "a metric over classes is not defined then; allow: [empty_classes] takes the others"
        )


def _groups(entry: DatasetEntry, test: Split) -> Iterator[str]:
    missing = sorted(set(entry.groups) - set(test.groups or ()))
    if missing:
        yield f"no test item belongs to the groups {', '.join(missing)}"


def _shared_patients(splits: Mapping[SplitName, Split]) -> Iterator[str]:
    for one, other in combinations([name for name in SPLITS if name in splits], 2):
        shared = sorted(set(splits[one].patients or ()) & set(splits[other].patients or ()))
        if shared:
            shown = ", ".join(shared[:SHOWN]) + (", ..." if len(shared) > SHOWN else "")
            yield f"{len(shared)} patients are in {one} and in {other} ({shown})"


def _duplicates(splits: Mapping[SplitName, Split]) -> dict[str, int]:
    """Return, for pairs of splits, how many items of the later split show an image of the earlier one."""
    found = {}
    digests = {name: _digests(split) for name, split in splits.items()}
    for one, other in combinations([name for name in SPLITS if name in splits], 2):
        known = {digest for item in digests[one] for digest in item}
        count = sum(any(digest in known for digest in item) for item in digests[other])
        if count:
            found[f"{one}/{other}"] = count
    return found


def _contradictions(splits: Mapping[SplitName, Split]) -> Iterator[str]:
    """Yield how many images of a split have several labels, of which no model can give more than one."""
    for name, split in splits.items():
        labels: dict[tuple[str, ...], set[bytes]] = {}
        for digests, label in zip(_digests(split), () if split.targets is None else split.targets, strict=False):
            labels.setdefault(digests, set()).add(label.tobytes())
        count = sum(len(known) > 1 for known in labels.values())
        if count:
            yield f"{count} images of {name} are there several times with different labels"


def _digests(split: Split) -> list[tuple[str, ...]]:
    if split.bags is not None:
        return [bag.digests for bag in split.bags]
    return [(digest,) for digest in split.image_digests or ()]


def _counts(entry: DatasetEntry, splits: Mapping[SplitName, Split]) -> Iterator[str]:
    for name, count in entry.counts.items():
        found = len(splits[name]) if name in splits else 0
        if found != count:
            yield f"{name} has {found} items, its source says {count}"


def _listed(excluded: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in excluded.items())


def undecodable(split: Split, *, max_pixels: int = MAX_PIXELS) -> dict[int, str]:
    """Return the items whose image cannot be decoded, with the reason; each image is read once.

    Args:
        split: the images of bags are their tiles; one bad tile makes a bag bad.
    """
    found = {}
    for item in range(len(split)):
        images = split.bags[item].images if split.bags else [split.images[item]] if split.images else []
        for image in images:
            try:
                decode_image(image.read(), max_pixels=max_pixels)
            except PairDecodeError as error:
                found[item] = str(error)
                break
    return found


def deep_problems(dataset: LoadedDataset, root: Path) -> Iterator[str]:
    """Yield problems found by reading every byte: files with unexpected digests, images that do not decode."""
    for name, stated in dataset.entry.digests.items():
        kind, _, digest = stated.partition(":")
        with (root / name).open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != digest:
            yield f"{name}: its {kind} is {found}, the entry says {digest}"
    for split in dataset.splits.values():
        bad = undecodable(split)
        for item, reason in list(bad.items())[:SHOWN]:
            yield f"{split.name}: {split.ids[item]}: {reason}"
        if len(bad) > SHOWN:
            yield f"{split.name}: {len(bad)} images in all cannot be decoded"
