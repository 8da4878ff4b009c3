"""Students of the `improved` recipe with other feature terms, three seeds each, over the demo's store.

    make demo
    python -m tests.benchmarks.train.improved_variants

The dispersion weights multiply both parts of the distance, though PHI-S has normalised the coordinates of the
smooth-L1 part: `cosine_weighted` weights the cosine part alone. `balanced_angle` is C-RADIOv4's balanced summary loss,
the squared angle over its dispersion. Zero-shot macro accuracy is that of the validation and of the test split.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from torch import Tensor

from evaluate.report.table import by_group
from evaluate.results.files import results_on
from store.config.pipeline_file import read_pipeline
from store.config.yaml_tree import parse
from train.config import TrainPipeline
from train.losses.heads import COSINE_SHARE, distances
from train.recipes import choose
from train.recipes.improved import ImprovedObjective
from train.trainer.stages import distill

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "runs" / "improved_variants"
FILE = ROOT / "improved_variants.generated.yaml"
SEEDS = (1, 2, 3)

VARIANTS: dict[str, dict[str, Any]] = {
    "both_weighted": {},
    "cosine_weighted": {},
    "uniform": {"balance": "uniform"},
    "balanced_angle": {"distance": "angular", "phi_s": False},
    "unbalanced_angle": {"distance": "angular", "phi_s": False, "balance": "uniform"},
}
"""Changes of the recipe's defaults; `cosine_weighted` is a change of code, below."""


class CosineWeighted(ImprovedObjective):
    """The recipe with weights of the cosine part alone."""

    def _feature_loss(self, predicted: Mapping[Any, Tensor], seen: Any, given: Any, across: Any) -> Tensor:
        sides = []
        for side, balance in self.balances.items():
            part, rest = {}, []
            for name in self._of[side]:
                place = predicted[name, side], seen.features[name, side], self._coordinates[name, side]
                part[name] = distances("cos", *place)
                rest.append(distances("cos_smooth_l1", *place) - COSINE_SHARE * part[name])
            total, weight = balance(part, seen.places, rows_B=given.rows_B, step=given.step)
            plain = torch.cat(rest)
            sides.append(COSINE_SHARE * across.mean(total, weight) + across.mean(plain.sum(), len(plain)))
        return torch.stack(sides).mean()


def make_pipeline() -> dict[str, Any]:
    """Return the demo's pipeline with these students."""
    demo: dict[str, Any] = parse((ROOT / "pipelines.yaml").read_text()).data["demo"]
    student = demo["train"]["students"]["distilled"]
    demo["train"] = {"students": {}}
    for variant, changes in VARIANTS.items():
        for seed in SEEDS:
            own = copy.deepcopy(student) | {"recipe": "improved", "improved": changes}
            own["out"] = str((OUT / f"{variant}_{seed}").relative_to(ROOT))
            own["optimization"]["seed"] = seed
            demo["train"]["students"][f"{variant}_{seed}"] = own
    demo["evaluate"]["out"] = str(OUT.relative_to(ROOT))
    return demo


def train(name: str) -> None:
    """Train one student in this process."""
    pipeline = read_pipeline(FILE, "variants", TrainPipeline)
    if name.startswith("cosine_weighted"):
        choose.ImprovedObjective = CosineWeighted  # type: ignore[misc]
    distill(pipeline, name, pipeline.train.students[name])


def main() -> None:
    """Train all students, two at a time, evaluate them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", help="train this student alone")
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return
    pipeline = make_pipeline()
    FILE.write_text(yaml.safe_dump({"variants": pipeline}))  # relative paths start at the file's folder
    names = list(pipeline["train"]["students"])
    module = "tests.benchmarks.train.improved_variants"
    try:
        with ThreadPoolExecutor(2) as pool:
            commands = [[sys.executable, "-m", module, "--train", name] for name in names]
            list(pool.map(lambda command: subprocess.run(command, check=True), commands))
        chosen = [part for name in names for part in ("--model", name)]
        common = ["--pipeline", "variants", "--config", str(FILE), *chosen]
        for dataset in ("phantom_val", "phantom_test"):
            subprocess.run([sys.executable, "-m", "evaluate", "run", *common, "--dataset", dataset], check=True)
    finally:
        FILE.unlink()
    found = {
        dataset: by_group(results_on(OUT / "results", task="zero_shot", dataset=dataset))
        for dataset in ("phantom_val", "phantom_test")
    }
    print("| feature term | validation | test | test, mean ± sd |\n|---|---|---|---|")
    for variant in VARIANTS:
        val, test = ([by[f"{variant}_{seed}"]["macro_accuracy"] for seed in SEEDS] for by in found.values())
        shown = " | ".join(", ".join(f"{value:.3f}" for value in values) for values in (val, test))
        print(f"| {variant} | {shown} | {mean(test):.3f} ± {stdev(test):.3f} |")


if __name__ == "__main__":
    main()
