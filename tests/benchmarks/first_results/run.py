"""Specialists, a store and students on real images, and all six tasks, by the programs' own commands.

    python -m tests.benchmarks.first_results.run --data ../shared/data --out runs/first_results

What is there already is left alone, so that a killed run goes on. The tables are those of docs/first-results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

from evaluate.datasets.registry import SHIPPED
from store.files import write_atomic

from .corpora import DATASETS, REAL_PARTS, write_corpora
from .pipeline import PHANTOMS, control_names, longer_names, make_pipelines, student_names
from .tables import VALIDATION, best_of, print_tables

Command = list[str]

DISTILLED = ("paper", "improved")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is run, and where.

    Attributes:
        data: where the real datasets lie; nothing is written there.
        out: folder of everything that is made.
        seeds, steps: of students.
    """

    data: Path
    out: Path
    seeds: list[int]
    steps: list[int]

    @property
    def config(self) -> Path:
        """The pipelines that this script writes."""
        return self.out / "pipelines.yaml"

    @property
    def students(self) -> list[str]:
        """All of the gated pipeline."""
        equal = [name for steps in self.steps for name in student_names(self.seeds, steps)]
        return list(dict.fromkeys([*equal, *longer_names(self.seeds, self.steps[0])]))

    @property
    def controls(self) -> list[str]:
        """The students that every teacher teaches everything."""
        return control_names(self.seeds, self.steps[0])

    @property
    def teachers(self) -> list[str]:
        """Of the real parts."""
        return [f"tiny_{part}" for part in REAL_PARTS]

    def of(self, pipeline: str = "gated") -> Command:
        """Return the options that name a pipeline."""
        return ["--pipeline", pipeline, "--config", str(self.config)]

    def models(self, names: Sequence[str]) -> Command:
        """Return the options that name models; the controls are not of the gated pipeline."""
        controls = {name: f"{name}=checkpoint:{self.out / 'students' / name}" for name in self.controls}
        return _each("--model", [controls.get(name, name) for name in names])


def corpora(plan: Plan) -> None:
    """Share the real images out, and draw the others."""
    counts = write_corpora(plan.data, plan.out / "corpora")
    write_atomic(plan.out / "corpora" / "counts.json", json.dumps(counts, indent=1).encode())
    drawn = [f"phantom_{use}_{part}" for use in ("private", "distill", "test") for part in PHANTOMS]
    run([["extract", "phantom", *plan.of(), *_each("--corpus", drawn)]])
    run([["evaluate", "phantom-slides", "--out", str(plan.out / "data" / "phantom_slides")]])


def teachers(plan: Plan) -> None:
    """Train the specialists, and look at them on the validation splits."""
    names = [f"tiny_{part}" for part in (*PHANTOMS, *reversed(REAL_PARTS))]
    run([["train", "pretrain", *plan.of(), *_each("--run", share)] for share in _shares(names)])
    validate(plan, plan.teachers)


def store(plan: Plan) -> None:
    """Extract one store over what the students will see."""
    run([["extract", "index", *plan.of()]])
    run([["extract", "run", "--local", *plan.of()]])


def students(plan: Plan) -> None:
    """Fit the projections and train the students, two at a time."""
    run([["train", "project", *plan.of(name)] for name in ("gated", "ungated")])
    jobs = [("gated", name) for name in plan.students] + [("ungated", name) for name in plan.controls]
    run([["train", "distill", *plan.of(pipeline), "--student", name] for pipeline, name in jobs])


def evaluate(plan: Plan) -> None:
    """Evaluate on the test splits of the real datasets, and on held-out drawn images."""
    drawn = {"gated": plan.out / "phantoms", "ungated": plan.out / "ungated" / "phantoms"}
    command = ["evaluate", "run", "--dataset", "phantom_test"]
    run([[*command, *plan.of(name), "--results", str(folder)] for name, folder in drawn.items()])
    names = [*plan.students, *plan.controls, *plan.teachers]
    # A first model alone: it counts what the training corpus and the test sets have in common.
    for task, shares in (("zero_shot", [names]), ("linear_probe", _shares(names))):
        chosen = [*_each("--dataset", DATASETS), "--task", task, *_places(plan)]
        if task == "zero_shot":
            chosen += ["--overlap", str(plan.out / "store")]
        run([["evaluate", "run", *plan.of(), *plan.models(share), *chosen] for share in shares])
    validate(plan, [*plan.students, *plan.controls])


def tasks(plan: Plan) -> None:
    """Run the other tasks: retrieval, questions, survival, diagnosis; and zero-shot of tissue unseen in training."""
    first = student_names(plan.seeds[:1], plan.steps[0])
    models = plan.models([*first, "tiny_xray", "tiny_histopathology"])
    real = _each("--dataset", ("lc25000_lung_224", "vqa_rad", "vqa_rad_captions", "wpbc"))
    chosen = _each("--task", ("zero_shot", "retrieval", "vqa", "survival"))
    slides = [
        "--dataset",
        "phantom_slides",
        "--results",
        str(plan.out / "results"),
        "--data-root",
        str(plan.out / "data"),
    ]
    run([["evaluate", "run", *plan.of(), *models, *real, *chosen, *_places(plan)]])
    run([["evaluate", "run", *plan.of(), *models, *slides]])


def compare(plan: Plan) -> None:
    """Compare by paired differences, and write the leaderboard, the page and the tables."""
    first, best = plan.seeds[0], best_of(plan.out / "validation", plan.teachers)
    for steps in plan.steps:
        named = [(f"{one}_{steps}_{seed}", f"task_only_{steps}_{seed}") for seed in plan.seeds for one in DISTILLED]
        named += [(f"{one}_{steps}_{first}", best) for one in DISTILLED]
        named += [(f"improved_{steps}_{first}", f"paper_{steps}_{first}")]
        # Controls are trained for the first number of steps only.
        named += [(f"paper_{steps}_{first}", f"ungated_{steps}_{first}")] if steps == plan.steps[0] else []
        for one, other in named:
            command = ["evaluate", "compare", one, other, "--results", str(plan.out / "results"), "--json"]
            write_atomic(plan.out / "compare" / f"{one}_{other}.json", _output(command))
    run([["evaluate", "leaderboard", "--results", str(plan.out / "results")]])
    run([["evaluate", "report", "--results", str(plan.out / "results"), "--title", "First results on real images"]])
    print_tables(plan.out, seeds=plan.seeds, steps=plan.steps)


def validate(plan: Plan, names: Sequence[str]) -> None:
    """Zero-shot on the validation splits, on which settings are chosen; results stay apart from those of the tests.

    A second time with a full stop behind each prompt: captions have one, and small text towers notice.
    """
    folder = plan.out / "validation_datasets"
    for name in DATASETS:
        entry = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
        entry["split"] = {"rule": "field", "values": {"val": "test"}, "ignore": ["test"]}
        entry.pop("counts", None)
        for suffix, stop in VALIDATION.items():
            own = entry | {"name": name + suffix, "templates": [text + stop for text in entry["templates"]]}
            write_atomic(folder / f"{name}{suffix}.yaml", yaml.safe_dump(own, sort_keys=False).encode())
    chosen = _each("--dataset", [name + suffix for suffix in VALIDATION for name in DATASETS])
    places = ["--data-root", str(plan.data), "--results", str(plan.out / "validation"), "--datasets", str(folder)]
    chosen += ["--task", "zero_shot", *places, "--threads", "1"]
    run([["evaluate", "run", *plan.of(), *plan.models(names), *chosen]])


STAGES: dict[str, Callable[[Plan], None]] = {
    "corpora": corpora,
    "teachers": teachers,
    "store": store,
    "students": students,
    "evaluate": evaluate,
    "tasks": tasks,
    "compare": compare,
}


def run(commands: Sequence[Command]) -> None:
    """Run commands of the programs, two at a time; stop at the first that fails."""
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(_run, commands))
    for command, code in zip(commands, codes, strict=True):
        if code:
            raise SystemExit(f"python -m {shlex.join(command)} ended with exit code {code}")


def _run(command: Command) -> int:
    began = time.monotonic()
    sys.stderr.write(f"$ python -m {shlex.join(command)}\n")
    code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    sys.stderr.write(f"  {command[0]} {command[1]}: {time.monotonic() - began:.0f} s, exit code {code}\n")
    return code


def _output(command: Command) -> bytes:
    return subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.PIPE).stdout


def _each(option: str, names: Sequence[str]) -> Command:
    return [part for name in names for part in (option, name)]


def _shares(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start::2] for start in range(min(2, len(names)))]


def _places(plan: Plan, data: Path | None = None) -> Command:
    places = ["--data-root", str(data or plan.data), "--results", str(plan.out / "results")]
    return [*places, "--threads", "1"]


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="where the real datasets lie")
    parser.add_argument("--out", type=Path, default=Path("runs/first_results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of students")
    parser.add_argument("--steps", type=int, nargs="+", default=[300], help="of students")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--shrink", type=int, default=1, help="divide all steps by this, to try the script")
    given = parser.parse_args()
    plan = Plan(data=given.data.resolve(), out=given.out.resolve(), seeds=given.seeds, steps=given.steps)
    # Two processes with one thread each beat one with two; the programs inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pipelines = make_pipelines(seeds=plan.seeds, steps=plan.steps, shrink=given.shrink)
    write_atomic(plan.config, yaml.safe_dump(pipelines, sort_keys=False).encode())
    for stage in given.stage:
        STAGES[stage](plan)


if __name__ == "__main__":
    main()
