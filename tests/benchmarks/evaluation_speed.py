"""How fast evaluation is, and how much memory it takes: ``python -m tests.benchmarks.evaluation_speed``.

Each part runs in a process of its own, so that its peak memory is its own. The bootstrap stands beside the way of
MMKD-CLIP's released evaluator, which calls scikit-learn for every resample, on the same resamples.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import sklearn
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from evaluate.metrics.bootstrap import Resampling, resampled, weight_blocks
from evaluate.metrics.predictions import Predictions
from evaluate.metrics.registry import METRICS
from evaluate.tasks.inputs import LabelledFeatures
from evaluate.tasks.retrieval import retrieval
from evaluate.tasks.zero_shot import zero_shot

SEED = 20261123
WIDTH = 512
IMAGES, CLASSES = 1_000_000, 10
PAIRS = 100_000
ITEMS, RESAMPLES, ONE_BY_ONE = 10_000, 1_000, 100
"""Of the slow way a tenth of the resamples is timed."""
BOOTSTRAPPED = ("auroc", "accuracy", "macro_f1")
MIB = 2**20


def unit_rows(rows: int, *, seed: int) -> npt.NDArray[np.float16]:
    """Return drawn features of unit norm, as a store holds them."""
    rng = np.random.default_rng(seed)
    found = np.empty((rows, WIDTH), np.float16)
    for begin in range(0, rows, 50_000):
        piece = rng.standard_normal((min(50_000, rows - begin), WIDTH), np.float32)
        found[begin : begin + len(piece)] = piece / np.linalg.norm(piece, axis=1, keepdims=True)
    return found


def zero_shot_part() -> dict[str, Any]:
    """Zero-shot classification of a million cached features: scores, six metrics, confusion, predictions."""
    image, text = unit_rows(IMAGES, seed=SEED), unit_rows(CLASSES, seed=SEED + 1)
    target = np.random.default_rng(SEED).integers(CLASSES, size=IMAGES)
    ids = [str(row) for row in range(IMAGES)]
    classes = [f"class {number}" for number in range(CLASSES)]
    test = LabelledFeatures(ids=ids, features=image, target=target)
    return measured(lambda: zero_shot(test, class_CE=text, classes=classes, logit_scale=100.0).metrics["auroc"])


def retrieval_part() -> dict[str, Any]:
    """Both directions of retrieval among a hundred thousand images and as many texts."""
    image = unit_rows(PAIRS, seed=SEED)
    text = (image.astype(np.float32) + 3 * unit_rows(PAIRS, seed=SEED + 1).astype(np.float32)).astype(np.float16)
    texts = [f"caption {row}" for row in range(PAIRS)]
    return measured(
        lambda: retrieval(image, text, texts=texts, image_of_text=np.arange(PAIRS), image_ids=texts).metrics[
            "mean_recall"
        ]
    )


def drawn_predictions() -> Predictions:
    """Return scores of ten classes that are right somewhat more often than not."""
    rng = np.random.default_rng(SEED)
    target = rng.integers(CLASSES, size=ITEMS)
    score = np.exp(rng.normal(size=(ITEMS, CLASSES)) + 1.5 * np.eye(CLASSES)[target])
    columns = {"target": target, "score": score / score.sum(axis=1, keepdims=True)}
    return Predictions(ids=[str(row) for row in range(ITEMS)], columns=columns, strata="target")


def bootstrap_part() -> dict[str, Any]:
    """All resamples at once, by weights; the first values are returned, to be compared."""
    predictions, resampling = drawn_predictions(), Resampling(mode="official", seed=42, resamples=RESAMPLES)
    chosen = {name: METRICS[name] for name in BOOTSTRAPPED}
    return measured(
        lambda: {
            name: [float(value) for value in samples[:ONE_BY_ONE]]
            for name, samples in resampled(predictions, chosen, resampling).items()
        }
    )


def loop_part() -> dict[str, Any]:
    """The first of the same resamples one by one through scikit-learn, as the released evaluator does."""
    predictions, resampling = drawn_predictions(), Resampling(mode="official", seed=42, resamples=ONE_BY_ONE)
    target, score = predictions.columns["target"], predictions.columns["score"]

    def one_by_one() -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in BOOTSTRAPPED}
        for block in weight_blocks(resampling, predictions):
            for weight in block:
                rows = np.repeat(np.arange(ITEMS), weight.astype(int))
                said = score[rows].argmax(axis=1)
                auroc = roc_auc_score(target[rows], score[rows], multi_class="ovr", average="macro")
                found["auroc"].append(float(auroc))
                found["accuracy"].append(float(accuracy_score(target[rows], said)))
                found["macro_f1"].append(float(f1_score(target[rows], said, average="macro")))
        return found

    return measured(one_by_one)


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


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "zero_shot": zero_shot_part,
    "retrieval": retrieval_part,
    "bootstrap": bootstrap_part,
    "bootstrap, a tenth one by one": loop_part,
}


def main() -> None:
    """Run all parts, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="in this process, as JSON")
    chosen = parser.parse_args().part
    if chosen:
        print(json.dumps(PARTS[chosen]()))
        return
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scikit-learn {sklearn.__version__}\n")
    print("| | wall s | processor s | inputs MiB | more MiB | load before |\n| --- | --- | --- | --- | --- | --- |")
    values = {}
    for name in PARTS:
        load = os.getloadavg()[0]
        command = [sys.executable, "-m", "tests.benchmarks.evaluation_speed", "--part", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        values[name] = found.pop("value")
        print(f"| {name} | " + " | ".join(f"{cell:,}" for cell in found.values()) + f" | {load:.1f} |", flush=True)
    for name in BOOTSTRAPPED:
        ours, theirs = (values[part][name] for part in ("bootstrap", "bootstrap, a tenth one by one"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    print(f"\nBoth bootstraps give the same {', '.join(BOOTSTRAPPED)} on each of {ONE_BY_ONE} resamples.")


if __name__ == "__main__":
    main()
