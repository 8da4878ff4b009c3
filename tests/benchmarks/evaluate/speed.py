"""Measure the speed of evaluation beside scikit-learn and CLIP_benchmark, in one run, and the memory of each.

``python -m tests.benchmarks.evaluate.speed`` measures the sizes of docs/benchmarks.md, ``--small`` tiny ones. Each part
runs in a process of its own, so that its peak memory is its own, on the same drawn features; what the parts of a task
compute is compared. CLIP_benchmark (1.6.2, ``pip install --no-deps clip-benchmark``) is measured where it is installed
or ``--peers`` has it: its own functions, with a model that looks embeddings up. Its linear probe needs a GPU,
scikit-learn's regression stands for it. The bootstrap stands beside the way of MMKD-CLIP's released evaluator, which
calls scikit-learn for every resample, on the same resamples.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    roc_auc_score,
)

from evaluate.metrics.bootstrap import Resampling, resampled, weight_blocks
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.linear_probe import Probe, linear_probe
from evaluate.tasks.retrieval import retrieval
from evaluate.tasks.zero_shot import zero_shot
from tests.benchmarks.rounds import add_packages

SEED = 20261123
WIDTH, CLASSES = 512, 10
BOOTSTRAPPED = ("auroc", "accuracy", "macro_f1")
MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of the measurements: images of zero-shot, items of a probe, pairs of retrieval, items and resamples.

    Attributes:
        one_by_one: of the slow bootstrap so many resamples are timed.
        strengths: values of C that both probes try.
    """

    images: int = 1_000_000
    probed: int = 100_000
    pairs: int = 20_000
    items: int = 10_000
    resamples: int = 1_000
    one_by_one: int = 100
    strengths: tuple[float, ...] = tuple(np.logspace(-2, 2, 9))


SMALL = Sizes(images=2_000, probed=600, pairs=300, items=300, resamples=50, one_by_one=20, strengths=(0.1, 1.0))


def unit_rows(rows: int, *, seed: int) -> npt.NDArray[np.float16]:
    """Return drawn features of unit norm, as a store holds them."""
    rng = np.random.default_rng(seed)
    found = np.empty((rows, WIDTH), np.float16)
    for begin in range(0, rows, 50_000):
        piece = rng.standard_normal((min(50_000, rows - begin), WIDTH), np.float32)
        found[begin : begin + len(piece)] = piece / np.linalg.norm(piece, axis=1, keepdims=True)
    return found


def classified_rows(rows: int, *, seed: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """Return drawn features of unit norm that say something of their classes, and the classes."""
    target = np.random.default_rng(seed).integers(CLASSES, size=rows)
    near = unit_rows(CLASSES, seed=SEED + 1).astype(np.float32)
    found = unit_rows(rows, seed=seed)
    for begin in range(0, rows, 50_000):
        own = slice(begin, begin + 50_000)
        piece = found[own].astype(np.float32) + 0.1 * near[target[own]]
        found[own] = piece / np.linalg.norm(piece, axis=1, keepdims=True)
    return found, target


def names(rows: int) -> list[str]:
    """Return names of rows."""
    return [str(row) for row in range(rows)]


def zero_shot_ours(sizes: Sizes) -> dict[str, Any]:
    """Zero-shot classification of cached features: scores, all metrics, confusion, predictions."""
    image, target = classified_rows(sizes.images, seed=SEED)
    text = unit_rows(CLASSES, seed=SEED + 1)
    test = LabelledFeatures(ids=names(len(target)), features=image, target=target)
    return measured(
        lambda: zero_shot(test, class_CE=text, classes=names(CLASSES), logit_scale=100.0).metrics["accuracy"]
    )


def zero_shot_sklearn(sizes: Sizes) -> dict[str, Any]:
    """The same numbers by numpy and scikit-learn."""
    image, target = classified_rows(sizes.images, seed=SEED)
    text = unit_rows(CLASSES, seed=SEED + 1).astype(np.float32)

    def numbers() -> float:
        logits = 100.0 * (image.astype(np.float32) @ text.T).astype(np.float64)
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        said = share.argmax(axis=1)
        roc_auc_score(target, share, multi_class="ovr")
        average_precision_score(np.eye(CLASSES)[target], share)
        balanced_accuracy_score(target, said)
        f1_score(target, said, average="macro")
        brier_score_loss(target, share)
        confusion_matrix(target, said)
        return float(accuracy_score(target, said))

    return measured(numbers)


class LookUp:
    """A model as CLIP_benchmark calls it, whose embeddings are there already."""

    def __init__(self, text: npt.NDArray[np.float16]) -> None:
        self._text = torch.from_numpy(text.astype(np.float32))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the loader gave: embeddings."""
        return images.float()

    def encode_text(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of numbered texts."""
        return self._text[rows]


def as_rows(texts: list[str]) -> torch.Tensor:
    """Return the numbers that the texts are."""
    return torch.tensor([int(text) for text in texts])


class Loader:
    """Yields embeddings and what belongs to them, some at a time, as a loader of torch does."""

    def __init__(self, image: npt.NDArray[np.float16], second: Any, *, size: int) -> None:
        self._image, self._second, self._size = torch.from_numpy(image), second, size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Any]]:
        """Yield the batches."""
        for begin in range(0, len(self._image), self._size):
            own = slice(begin, begin + self._size)
            yield self._image[own], self._second[own]


def zero_shot_clip_benchmark(sizes: Sizes) -> dict[str, Any]:
    """CLIP_benchmark's zero-shot classification of the same features.

    Its own ``accuracy`` makes a number of an array of one, which numpy 2.4 refuses; scikit-learn's stands for it.
    """
    from clip_benchmark.metrics import zeroshot_classification

    image, target = classified_rows(sizes.images, seed=SEED)
    model, loader = LookUp(unit_rows(CLASSES, seed=SEED + 1)), Loader(image, torch.from_numpy(target), size=1024)

    def numbers() -> float:
        text = zeroshot_classification.zero_shot_classifier(model, as_rows, names(CLASSES), ["{c}"], "cpu", amp=False)
        logits, true = zeroshot_classification.run_classification(model, text, loader, "cpu", amp=False)
        said = logits.argmax(axis=1)
        balanced_accuracy_score(true, said)
        return float(accuracy_score(true, said))

    return measured(numbers)


def probe_splits(sizes: Sizes) -> list[LabelledFeatures]:
    """Return items for training, and a tenth as many each for validation and testing."""
    parts = [(sizes.probed, "train"), (sizes.probed // 10, "val"), (sizes.probed // 10, "test")]
    found = []
    for place, (rows, name) in enumerate(parts):
        image, target = classified_rows(rows, seed=SEED + 10 + place)
        ids = [f"{name} {row}" for row in range(rows)]
        found.append(LabelledFeatures(ids=ids, features=image.astype(np.float64), target=target))
    return found


def probe_ours(sizes: Sizes) -> dict[str, Any]:
    """The linear probe: C by validation, a model trained from zero, all metrics."""
    train, val, test = probe_splits(sizes)
    probe = Probe(strengths=sizes.strengths)

    def numbers() -> list[float]:
        found = linear_probe(train, test, classes=names(CLASSES), val=val, probe=probe)
        return [found.metrics["accuracy"]]

    return measured(numbers)


def probe_sklearn(sizes: Sizes) -> dict[str, Any]:
    """Scikit-learn used plainly: a model from zero for every C."""
    train, val, test = (unit_features(split) for split in probe_splits(sizes))

    def numbers() -> list[float]:
        models = [LogisticRegression(C=c, max_iter=1000).fit(*train) for c in sizes.strengths]
        losses = [log_loss(val[1], model.predict_proba(val[0])) for model in models]
        best = int(np.argmin(losses))
        return [float(models[best].score(*test))]

    return measured(numbers)


def unit_features(split: LabelledFeatures) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return features of unit norm and classes."""
    features = np.asarray(split.features)
    return features / np.linalg.norm(features, axis=1, keepdims=True), split.target


def pairs_of(sizes: Sizes) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """Return images, and texts near their image."""
    image = unit_rows(sizes.pairs, seed=SEED)
    text = image.astype(np.float32) + 3 * unit_rows(sizes.pairs, seed=SEED + 1).astype(np.float32)
    return image, text.astype(np.float16)


def retrieval_ours(sizes: Sizes) -> dict[str, Any]:
    """Both directions of retrieval: ranks, all metrics."""
    image, text = pairs_of(sizes)
    texts, rows = [f"caption {row}" for row in range(sizes.pairs)], np.arange(sizes.pairs)

    def numbers() -> list[float]:
        found = retrieval(image, text, texts=texts, image_of_text=rows, image_ids=texts).metrics
        return [found[f"{side}_recall_at_{k}"] for k in (1, 5, 10) for side in ("t2i", "i2t")]

    return measured(numbers)


def retrieval_clip_benchmark(sizes: Sizes) -> dict[str, Any]:
    """CLIP_benchmark's retrieval of the same pairs."""
    from clip_benchmark.metrics import zeroshot_retrieval

    image, text = pairs_of(sizes)
    captions = [[name] for name in names(sizes.pairs)]
    loader = Loader(image, captions, size=64)  # the default of its command line

    def numbers() -> list[float]:
        found = zeroshot_retrieval.evaluate(LookUp(text), loader, as_rows, "cpu", amp=False, recall_k_list=[1, 5, 10])
        return [found[f"{side}_retrieval_recall@{k}"] for k in (1, 5, 10) for side in ("image", "text")]

    return measured(numbers)


def drawn_predictions(items: int) -> Predictions:
    """Return scores of ten classes that are right somewhat more often than not."""
    rng = np.random.default_rng(SEED)
    target = rng.integers(CLASSES, size=items)
    score = np.exp(rng.normal(size=(items, CLASSES)) + 1.5 * np.eye(CLASSES)[target])
    columns = {"target": target, "score": score / score.sum(axis=1, keepdims=True)}
    return Predictions(ids=names(items), columns=columns, strata="target")


def bootstrap_ours(sizes: Sizes) -> dict[str, Any]:
    """All resamples at once, by weights; the first values are returned, to be compared."""
    predictions = drawn_predictions(sizes.items)
    resampling = Resampling(mode="official", seed=42, resamples=sizes.resamples)
    chosen = {name: METRICS[name] for name in BOOTSTRAPPED}
    return measured(
        lambda: [
            float(value)
            for samples in resampled(predictions, chosen, resampling).values()
            for value in samples[: sizes.one_by_one]
        ]
    )


def bootstrap_sklearn(sizes: Sizes) -> dict[str, Any]:
    """The first of the same resamples one by one, as the released evaluator does; the seconds are those of all."""
    predictions = drawn_predictions(sizes.items)
    resampling = Resampling(mode="official", seed=42, resamples=sizes.one_by_one)
    target, score = predictions.columns["target"], predictions.columns["score"]

    def one_by_one() -> list[float]:
        found: dict[str, list[float]] = {name: [] for name in BOOTSTRAPPED}
        for block in weight_blocks(resampling, predictions):
            for weight in block:
                rows = np.repeat(np.arange(sizes.items), weight.astype(int))
                said = score[rows].argmax(axis=1)
                auroc = roc_auc_score(target[rows], score[rows], multi_class="ovr", average="macro")
                found["auroc"].append(float(auroc))
                found["accuracy"].append(float(accuracy_score(target[rows], said)))
                found["macro_f1"].append(float(f1_score(target[rows], said, average="macro")))
        return [value for name in BOOTSTRAPPED for value in found[name]]

    found = measured(one_by_one)
    times = sizes.resamples / sizes.one_by_one
    return found | {name: round(found[name] * times, 2) for name in ("seconds", "processor_seconds")}


def measured(work: Callable[[], Any]) -> dict[str, Any]:
    """Return what work gives, its seconds, and by how much memory grew at most beyond its inputs."""
    before = psutil.Process().memory_info().rss
    began, began_cpu = time.perf_counter(), time.process_time()
    value = work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(cpu, 2),
        "inputs_mib": round(before / MIB),
        "more_mib": round(max(0, peak - before) / MIB),
        "value": value,
    }


OURS = "here"
PARTS: dict[tuple[str, str], Callable[[Sizes], dict[str, Any]]] = {
    ("zero-shot", OURS): zero_shot_ours,
    ("zero-shot", "scikit-learn"): zero_shot_sklearn,
    ("zero-shot", "CLIP_benchmark"): zero_shot_clip_benchmark,
    ("probe", OURS): probe_ours,
    ("probe", "scikit-learn"): probe_sklearn,
    ("retrieval", OURS): retrieval_ours,
    ("retrieval", "CLIP_benchmark"): retrieval_clip_benchmark,
    ("bootstrap", OURS): bootstrap_ours,
    ("bootstrap", "scikit-learn"): bootstrap_sklearn,
}
"""By task and by who does it."""

ALIKE = {"zero-shot": 1e-4, "probe": 2e-3, "retrieval": 1e-3, "bootstrap": 1e-9}
"""By task, how far the values of two parts may lie apart: float32 and stopping rules differ."""


def main() -> None:
    """Run all parts, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=[":".join(part) for part in PARTS], help="in this process, as JSON")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of an environment with clip-benchmark")
    chosen = parser.parse_args()
    if chosen.peers:
        add_packages(chosen.peers)
    sizes = SMALL if chosen.small else Sizes()
    if chosen.part:
        task, _, who = chosen.part.partition(":")
        print(json.dumps(PARTS[task, who](sizes)))
        return
    print(f"scikit-learn {sklearn.__version__}\n")
    print("| | wall s | processor s | inputs MiB | more MiB | load before |\n| --- | --- | --- | --- | --- | --- |")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for task, who in PARTS:
        if who == "CLIP_benchmark" and importlib.util.find_spec("clip_benchmark") is None:
            print(f"| {task}, {who} | not installed |")
            continue
        load, same = os.getloadavg()[0], ["--small"] if chosen.small else []
        same += ["--peers", str(chosen.peers)] if chosen.peers else []
        command = [sys.executable, "-m", "tests.benchmarks.evaluate.speed", "--part", f"{task}:{who}", *same]
        one = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        value = np.ravel(one.pop("value"))
        print(f"| {task}, {who} | " + " | ".join(f"{cell:,}" for cell in one.values()) + f" | {load:.1f} |", flush=True)
        found[task, who] = one | {"value": value}
        np.testing.assert_allclose(found[task, OURS]["value"], value, atol=ALIKE[task])
    print("\nThe parts of a task gave the same values. How many times as long the others take:\n")
    for (task, who), one in found.items():
        if who != OURS:
            ours = found[task, OURS]
            ratios = [one[key] / max(ours[key], 0.01) for key in ("seconds", "processor_seconds")]
            print(f"- {task}, {who}: {ratios[0]:.1f} of wall time, {ratios[1]:.1f} of processor time")


if __name__ == "__main__":
    main()
