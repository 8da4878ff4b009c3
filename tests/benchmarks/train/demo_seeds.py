"""The demo's students over three seeds, with an ungated control and a longer task-only run; after `make demo`.

    python -m tests.benchmarks.train.demo_seeds

Reuses the demo's teachers and store. Prints the table of docs/results.md and writes runs/seeds/results.json.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from evaluate.report.table import by_group
from evaluate.results.files import results_on
from store.config.yaml_tree import parse

ROOT = Path(__file__).resolve().parents[3]
OUT = ROOT / "runs" / "seeds"
SEEDS = (1, 2, 3)


def make_pipelines() -> dict[str, Any]:
    """Return two pipelines over the demo's store, with and without its selection, each with its students."""
    demo: dict[str, Any] = parse((ROOT / "pipelines.yaml").read_text()).data["demo"]
    demo["train"]["pretrain"] = {}
    students = demo["train"].pop("students")
    gated, ungated = demo, copy.deepcopy(demo)
    gated["train"]["students"] = {
        f"{arm}_{seed}": _student(students[arm], seed) for arm in ("distilled", "task_only") for seed in SEEDS
    }
    gated["train"]["students"]["task_only_900_1"] = _student(students["task_only"], 1, steps=900)
    ungated["select"] = "all"
    ungated["train"]["project"]["out"] = "runs/seeds/projection_ungated"
    ungated["train"]["students"] = {f"ungated_{seed}": _student(students["distilled"], seed) for seed in SEEDS}
    for name, pipeline in (("gated", gated), ("ungated", ungated)):
        pipeline["evaluate"]["out"] = f"runs/seeds/{name}"
        for run, section in pipeline["train"]["students"].items():
            section["out"] = f"runs/seeds/students/{run}"
    return {"gated": gated, "ungated": ungated}


def _student(section: dict[str, Any], seed: int, **changes: int) -> dict[str, Any]:
    changed = copy.deepcopy(section)
    changed["optimization"] |= {"seed": seed, **changes}
    return changed


def run(*arguments: str) -> None:
    """Run one of the programs on the generated file."""
    subprocess.run([sys.executable, "-m", *arguments, "--config", str(ROOT / "seeds.generated.yaml")], check=True)


def main() -> None:
    """Train all students, two at a time, evaluate them on the test split, and print the table."""
    pipelines = make_pipelines()
    # Beside pipelines.yaml, because relative paths start at the file's folder.
    file = ROOT / "seeds.generated.yaml"
    file.write_text(yaml.safe_dump(pipelines))
    try:
        for name in pipelines:
            run("train", "project", "--pipeline", name)
        jobs = [(name, student) for name, p in pipelines.items() for student in p["train"]["students"]]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: run("train", "distill", "--pipeline", job[0], "--student", job[1]), jobs))
        for name in pipelines:
            run("evaluate", "run", "--pipeline", name, "--dataset", "phantom_test")
    finally:
        file.unlink()
    results: dict[str, Any] = {}
    for name in pipelines:
        results |= by_group(results_on(OUT / name / "results", task="zero_shot", dataset="phantom_test"))
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    for arm in ("distilled", "task_only", "ungated"):
        values = [results[f"{arm}_{seed}"]["macro_accuracy"] for seed in SEEDS]
        print(f"| {arm} | {', '.join(f'{v:.3f}' for v in values)} | {mean(values):.3f} ± {stdev(values):.3f} |")
    teachers = {name: model["macro_accuracy"] for name, model in results.items() if model["role"] == "teacher"}
    best = max(teachers, key=lambda name: teachers[name])
    print(f"| task_only, 900 steps | {results['task_only_900_1']['macro_accuracy']:.3f} | |")
    print(
        f"| best teacher ({best}) | {teachers[best]:.3f} | |\n| oracle | {results['oracle']['macro_accuracy']:.3f} | |"
    )


if __name__ == "__main__":
    main()
