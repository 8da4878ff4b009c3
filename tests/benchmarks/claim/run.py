"""The experiment on the claim of docs/claim-plan.md, by the programs' own commands.

    python -m tests.benchmarks.claim.run --data ../shared/data --out runs/claim

What is there already is left alone, so that a killed run goes on. ``--status`` says what is left, ``--stage tables``
prints the tables of docs/results.md from the results on disk.
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

from store.files import write_atomic

from .arms import ABLATIONS, DRAWS, OF_STORE, PRIMARY, Arm, draw_of
from .corpora import DATASETS, write_corpora
from .datasets import ONE_PROMPT, ONE_PROMPT_STOP, TEST, UNSEEN, VALIDATION, write_entries
from .image_teacher import image_tower_alone
from .pipelines import DRAWN, make_pipelines, pipeline_of, teacher_names
from .status import status
from .tables import print_tables

Command = list[str]

RETRIEVAL = "vqa_rad_captions"

COMPUTE = "compute.jsonl"
"""A line for each command: its CPU and wall seconds, also of those that a later run repeated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The experiment: places of its data and results.

    Attributes:
        data: where the real datasets lie; nothing is written there.
        out: folder of everything that is made.
        shrink: divides all steps, to try the experiment on the validation splits.
    """

    data: Path
    out: Path
    shrink: int = 1

    @property
    def config(self) -> Path:
        """The pipelines that this program writes."""
        return self.out / "pipelines.yaml"

    def of(self, pipeline: str) -> Command:
        """Return the options that name a pipeline."""
        return ["--pipeline", pipeline, "--config", str(self.config)]

    def student(self, name: str) -> str:
        """Return the address of a student."""
        return f"{name}=checkpoint:{self.out / 'students' / name}"

    def evaluate(self, models: Sequence[str], kind: str, *chosen: str) -> Command:
        """Return a command that evaluates students on the sets of a kind."""
        places = ["--data-root", str(self.data), "--results", str(self.out / "results" / kind), "--threads", "1"]
        return ["evaluate", "run", *models, *chosen, "--datasets", str(self.out / "datasets" / kind), *places]

    def run(self, stage: str, commands: Sequence[Command]) -> None:
        """Run commands of the programs, two at a time; stop after the first that fails."""
        with ThreadPoolExecutor(2) as pool:
            codes = list(pool.map(lambda command: self._one(stage, command), commands))
        for command, code in zip(commands, codes, strict=True):
            if code:
                raise SystemExit(f"python -m {shlex.join(command)} ended with exit code {code}")

    def _one(self, stage: str, command: Command) -> int:
        began = time.monotonic()
        sys.stderr.write(f"$ python -m {shlex.join(command)}\n")
        process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)
        _, ended, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ended)
        spent = {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1)}
        line = {"stage": stage, "command": " ".join(command[:2]), **spent}
        with (self.out / COMPUTE).open("a") as log:
            log.write(json.dumps(line) + "\n")
        sys.stderr.write(f"  {line}, exit code {process.returncode}\n")
        return process.returncode


def corpora(plan: Plan) -> None:
    """Share the real images out, draw the others, and write the entries of the test sets."""
    write_entries(plan.out / "datasets", test="val" if plan.shrink > 1 else "test")
    for draw in DRAWS:
        folder = plan.out / f"draw{draw}" / "corpora"
        if not (folder / "counts.json").is_file():
            counts = write_corpora(plan.data, folder, draw)
            write_atomic(folder / "counts.json", json.dumps(counts, indent=1).encode())
    drawn = [f"phantom_{use}_{part}" for use in ("private", "distill") for part in DRAWN]
    test = _each("--corpus", [f"phantom_test_{part}" for part in DRAWN])
    commands = [["extract", "phantom", *plan.of(f"draw{draw}"), *_each("--corpus", drawn)] for draw in DRAWS]
    plan.run("corpora", [*commands, ["extract", "phantom", *plan.of("draw1"), *test]])


def teachers(plan: Plan) -> None:
    """Train the specialists of both draws."""
    plan.run("teachers", [["train", "pretrain", *plan.of(f"draw{draw}")] for draw in DRAWS])


def stores(plan: Plan) -> None:
    """Extract a store for each draw over what its students will see, and fit its projections."""
    for command in (["extract", "index"], ["extract", "run", "--local"], ["train", "project"]):
        plan.run("stores", [[*command, *plan.of(f"draw{draw}")] for draw in DRAWS])


def teachers_tested(plan: Plan) -> None:
    """Evaluate the teachers: zero-shot on validation, test and drawn images, retrieval."""
    for kind in (VALIDATION, TEST):
        chosen = [*_each("--dataset", _sets(kind)), *_each("--task", ("zero_shot", "retrieval"))]
        models = [[*plan.of(f"draw{draw}"), *_each("--model", teacher_names(draw))] for draw in DRAWS]
        plan.run("teachers tested", [plan.evaluate(named, kind, *chosen) for named in models])
    plan.run("teachers tested", [_drawn(plan, draw, teacher_names(draw)) for draw in DRAWS])


def primary(plan: Plan) -> None:
    """Train the students of the primary comparison and evaluate them."""
    _distill(plan, "students", PRIMARY)
    _tested(plan, "students tested", PRIMARY)


def ablations(plan: Plan) -> None:
    """Train the students of the ablations and evaluate them."""
    tower = plan.out / "image_teacher" / "teacher"
    plan.run("ablations", [["train", "pretrain", *plan.of("image_teacher")]])
    if not (tower / "config.json").is_file():
        image_tower_alone(plan.out / "image_teacher" / "clip", tower)
    _stores_of(plan, "ablations", ABLATIONS)
    _distill(plan, "ablations", ABLATIONS)
    _tested(plan, "ablations tested", ABLATIONS)
    texts = [arm for arm in PRIMARY if arm.name != "improved"]
    for kind in (ONE_PROMPT, ONE_PROMPT_STOP):
        chosen = [*_each("--dataset", DATASETS), "--task", "zero_shot"]
        plan.run("ablations tested", [plan.evaluate(_models(plan, [arm]), kind, *chosen) for arm in texts])


def store_ablations(plan: Plan) -> None:
    """Make the store's variants, train the students on them and evaluate them."""
    _stores_of(plan, "store", OF_STORE)
    plan.run("store", [["extract", "pixels", "--local", *plan.of("draw1")]])
    _distill(plan, "store", OF_STORE)
    _tested(plan, "store tested", OF_STORE)


def probes(plan: Plan) -> None:
    """Fit linear probes on the students of the primary comparison and on the teachers of the real parts."""
    chosen = [*_each("--dataset", DATASETS), "--task", "linear_probe"]
    students = [plan.evaluate(_models(plan, [arm], draw), TEST, *chosen) for arm in PRIMARY for draw in DRAWS]
    rivals = [[*plan.of(f"draw{draw}"), *_each("--model", teacher_names(draw))] for draw in DRAWS]
    plan.run("probes", [*students, *(plan.evaluate(named, TEST, *chosen) for named in rivals)])


def tables(plan: Plan) -> None:
    """Print the tables of docs/results.md."""
    print_tables(plan.out)


STAGES: dict[str, Callable[[Plan], None]] = {
    "corpora": corpora,
    "teachers": teachers,
    "stores": stores,
    "teachers_tested": teachers_tested,
    "primary": primary,
    "ablations": ablations,
    "store_ablations": store_ablations,
    "probes": probes,
    "tables": tables,
}


def _stores_of(plan: Plan, stage: str, arms: Sequence[Arm]) -> None:
    """Make the stores and projections of the kinds that arms name; a selection needs a projection alone."""
    kinds = [arm.kind for arm in arms if arm.kind]
    own = [kind for kind in kinds if kind not in {"ungated", "quantile"}]
    for command, needed in ((["extract", "index"], own), (["extract", "run", "--local"], own)):
        plan.run(stage, [[*command, *plan.of(kind)] for kind in needed])
    plan.run(stage, [["train", "project", *plan.of(kind)] for kind in kinds])


def _distill(plan: Plan, stage: str, arms: Sequence[Arm]) -> None:
    """Train the students of arms, pipeline by pipeline."""
    of_pipeline: dict[str, list[str]] = {}
    for arm in arms:
        for seed in arm.seeds:
            of_pipeline.setdefault(pipeline_of(arm, seed), []).append(arm.student(seed))
    plan.run(
        stage,
        [
            ["train", "distill", *plan.of(pipeline), *_each("--student", sorted(names, key=_seed_first))]
            for pipeline, names in of_pipeline.items()
        ],
    )


def _seed_first(name: str) -> tuple[int, str]:
    return int(name.rpartition("_")[2]), name


def _tested(plan: Plan, stage: str, arms: Sequence[Arm]) -> None:
    """Evaluate the students of arms: zero-shot on validation, test and drawn images, retrieval."""
    shares = [one for one in (arms[::2], arms[1::2]) if one]
    for kind in (TEST, VALIDATION):
        chosen = [*_each("--dataset", _sets(kind)), *_each("--task", ("zero_shot", "retrieval"))]
        plan.run(stage, [plan.evaluate(_models(plan, share), kind, *chosen) for share in shares])
    for draw in DRAWS:
        students = [[plan.student(name) for name in _names(share, draw)] for share in shares]
        plan.run(stage, [_drawn(plan, draw, models) for models in students if models])


def _models(plan: Plan, arms: Sequence[Arm], draw: int | None = None) -> Command:
    names = [name for one in ([draw] if draw else DRAWS) for name in _names(arms, one)]
    return _each("--model", [plan.student(name) for name in names])


def _names(arms: Sequence[Arm], draw: int) -> list[str]:
    return [arm.student(seed) for arm in arms for seed in arm.seeds if draw_of(seed) == draw]


def _drawn(plan: Plan, draw: int, models: Sequence[str]) -> Command:
    command = ["evaluate", "run", *plan.of(f"draw{draw}"), *_each("--model", models), "--dataset", "phantom_test"]
    return [*command, "--task", "zero_shot", "--results", str(plan.out / "results" / f"drawn_{draw}")]


def _sets(kind: str) -> list[str]:
    return [*DATASETS] if kind == VALIDATION else [*DATASETS, UNSEEN, RETRIEVAL]


def _each(option: str, names: Sequence[str]) -> Command:
    return [part for name in names for part in (option, name)]


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="where the real datasets lie")
    parser.add_argument("--out", type=Path, default=Path("runs/claim"))
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--shrink", type=int, default=1, help="divide steps by this and leave the test splits alone")
    parser.add_argument("--status", action="store_true", help="say what is left, and do nothing")
    given = parser.parse_args()
    plan = Plan(data=given.data.resolve(), out=given.out.resolve(), shrink=given.shrink)
    if given.status:
        print(status(plan.out))
        return
    # Two processes with one thread each beat one with two; the programs inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plan.out.mkdir(parents=True, exist_ok=True)
    pipelines = make_pipelines(shrink=plan.shrink)
    write_atomic(plan.config, yaml.safe_dump(pipelines, sort_keys=False).encode())
    for stage in given.stage:
        if stage != "corpora":
            sys.stderr.write(status(plan.out) + "\n")
        STAGES[stage](plan)


if __name__ == "__main__":
    main()
