"""Tables of the claim as Markdown, from the results on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from .analysis import Compared, Results, adjusted, best_of_each, best_teacher, compared
from .arms import ABLATIONS, ARMS, DRAWS, OF_STORE, PRIMARY, Arm, draw_of
from .corpora import DATASETS
from .datasets import ONE_PROMPT, ONE_PROMPT_STOP, TEST, UNSEEN, VALIDATION
from .pipelines import teacher_names

PROBES = tuple(
    f"linear_probe{amount}" for amount in ("_1shot", "_2shot", "_4shot", "_8shot", "_16shot", "_1pct", "_10pct", "")
)

DISTILLED = tuple(ARMS[name] for name in ("paper", "improved"))


def print_tables(out: Path) -> None:
    """Print all tables; what is not evaluated yet is said to be missing."""
    test, validation = (Results(out / "results" / kind) for kind in (TEST, VALIDATION))
    endpoints(test, validation)
    comparisons(test, validation)
    if _complete(test, ABLATIONS):
        ablations(test, validation)
        text_side(out, test)
    if _complete(test, OF_STORE):
        store(test, validation)
    probe_curves(test)
    others(out, test)
    compute(out)


def endpoints(test: Results, validation: Results) -> None:
    """Print the endpoint and its datasets, by arm, and those of the teachers."""
    _heading("Zero-shot on the test splits", ["model", *DATASETS, "endpoint", *(f"draw {draw}" for draw in DRAWS)])
    for arm in PRIMARY:
        by_dataset = [_spread([test.value(name, one) for name in arm.students]) for one in DATASETS]
        whole = _spread([test.endpoint(name) for name in arm.students])
        draws = [
            _spread([test.endpoint(arm.student(seed)) for seed in arm.seeds if draw_of(seed) == draw]) for draw in DRAWS
        ]
        _row([f"`{arm.name}`", *by_dataset, whole, *draws])
    for draw in DRAWS:
        best = best_teacher(validation, draw)
        for name in teacher_names(draw):
            values = [test.value(name, one) for one in DATASETS]
            title = f"`{name}`{' (best)' if name == best else ''}"
            _row([title, *map(_number, values), _number(test.endpoint(name)), "", ""])
        each = best_of_each(validation, draw)
        strict = [test.value(name, one) for name, one in zip(each, DATASETS, strict=True)]
        said = f"best of each dataset, draw {draw}: {', '.join(f'`{name}`' for name in each)}"
        _row([said, *map(_number, strict), _number(mean(value for value in strict if value is not None)), "", ""])


def primary(test: Results, validation: Results) -> list[Compared]:
    """Return the six primary comparisons."""
    best = {draw: best_teacher(validation, draw) for draw in DRAWS}
    each = {draw: best_of_each(validation, draw) for draw in DRAWS}
    family = []
    for arm in DISTILLED:
        rivals = {
            "`task_only`": ARMS["task_only"].student,
            "best teacher": lambda seed: best[draw_of(seed)],
            "best teacher of each dataset": lambda seed: each[draw_of(seed)],
        }
        family += [compared(test, arm, rival, f"`{arm.name}` - {name}") for name, rival in rivals.items()]
    return adjusted(family)


def comparisons(test: Results, validation: Results) -> None:
    """Print the primary comparisons, then the same by dataset and against each teacher, without verdicts."""
    columns = ["difference [95 %]", "sd", "p", "Holm", *(f"draw {draw}" for draw in DRAWS), "verdict"]
    _heading("Primary comparisons", ["comparison", *columns])
    for one in primary(test, validation):
        draws = map(_signed, one.by_draw)
        _row(
            [one.name, _interval(one), f"{stdev(one.values):.3f}", _p(one.found.p), _p(one.p_holm), *draws, one.verdict]
        )
    _heading("By dataset, not adjusted", ["comparison", *DATASETS])
    best = {draw: best_teacher(validation, draw) for draw in DRAWS}
    for arm in DISTILLED:
        for name, rival in (
            ("`task_only`", ARMS["task_only"].student),
            ("best teacher", lambda seed: best[draw_of(seed)]),
        ):
            cells = [_interval(compared(test, arm, rival, "", datasets=[one])) for one in DATASETS]
            _row([f"`{arm.name}` - {name}", *cells])
    _heading("Against each teacher, not adjusted", ["teacher", *(f"`{arm.name}`" for arm in DISTILLED)])
    for place, name in enumerate(teacher_names(DRAWS[0])):
        cells = [
            _interval(compared(test, arm, lambda seed: teacher_names(draw_of(seed))[place], ""))  # noqa: B023 - used at once
            for arm in DISTILLED
        ]
        _row([f"`{name.rpartition('_')[0]}`", *cells])


def _against_base(results: Results, arms: Sequence[Arm]) -> list[Compared]:
    return [
        compared(results, arm, ARMS[arm.base or "paper"].student, f"`{arm.name}` - `{arm.base or 'paper'}`")
        for arm in arms
    ]


def ablation_arms() -> list[Arm]:
    """Return the arms of the family of ablations: those of their own, and ``improved`` with three seeds of draw 1."""
    return [*ABLATIONS, Arm(name="improved", recipe="improved", base="paper")]


def ablations(test: Results, validation: Results) -> None:
    """Print the ablations on test and validation."""
    _heading("Ablations", ["comparison", "test [95 %]", "p", "Holm", "by seed", "validation [95 %]"])
    arms = ablation_arms()
    for one, other in zip(adjusted(_against_base(test, arms)), _against_base(validation, arms), strict=True):
        seeds = ", ".join(map(_signed, one.values))
        _row([one.name, _interval(one), _p(one.found.p), _p(one.p_holm), seeds, _interval(other)])


def store(test: Results, validation: Results) -> None:
    """Print the ablations of the store on test and validation."""
    _heading("The store", ["variant", "endpoint, test", "difference, test", "by seed", "difference, validation"])
    for arm, one, other in zip(
        OF_STORE, _against_base(test, OF_STORE), _against_base(validation, OF_STORE), strict=True
    ):
        seeds = ", ".join(map(_signed, one.values))
        value = _spread([test.endpoint(name) for name in arm.students])
        _row([f"`{arm.name}`", value, _interval(one), seeds, _interval(other)])


def text_side(out: Path, test: Results) -> None:
    """Print zero-shot with one prompt, with a full stop, and with the ensemble."""
    kinds = {"ensemble": test}
    kinds |= {kind: Results(out / "results" / kind) for kind in (ONE_PROMPT, ONE_PROMPT_STOP)}
    _heading("The text side", ["students", "prompts", *DATASETS, "endpoint"])
    for arm in (ARMS["task_only"], ARMS["paper"]):
        for kind, results in kinds.items():
            cells = [_spread([results.value(name, one) for name in arm.students]) for one in DATASETS]
            _row([f"`{arm.name}`", kind, *cells, _spread([results.endpoint(name) for name in arm.students])])


def probe_curves(test: Results) -> None:
    """Print linear probes, mean of the three datasets and BreastMNIST alone."""
    for title, datasets in (("mean of the three", DATASETS), ("BreastMNIST", ("breastmnist",))):
        _heading(f"Linear probe, {title}", ["model", *(task.removeprefix("linear_probe") or "all" for task in PROBES)])
        rows = {arm.name: arm.students for arm in PRIMARY}
        rows |= {names[0].rpartition("_")[0]: [*names] for names in zip(*map(teacher_names, DRAWS), strict=True)}
        for name, models in rows.items():
            _row([f"`{name}`", *(_probe(test, models, task, datasets) for task in PROBES)])


def _probe(test: Results, models: Sequence[str], task: str, datasets: Sequence[str]) -> str:
    found = [[test.value(model, one, task) for one in datasets] for model in models]
    return _spread([None if None in values else mean(value for value in values if value) for values in found])


def others(out: Path, test: Results) -> None:
    """Print tissue that nobody learned from, retrieval, and the drawn modalities."""
    _heading("Further test sets", ["model", "LC25000 lung", "VQA-RAD retrieval", "drawn modalities (not patient data)"])
    for arm in PRIMARY:
        _row([f"`{arm.name}`", *_further(out, test, arm.students)])
    for names in zip(*map(teacher_names, DRAWS), strict=True):
        _row([f"`{names[0].rpartition('_')[0]}`", *_further(out, test, names)])


def _further(out: Path, test: Results, models: Sequence[str]) -> list[str]:
    drawn = [Results(out / "results" / f"drawn_{draw}") for draw in DRAWS]
    values = [
        next((value for one in drawn if (value := one.value(model, "phantom_test")) is not None), None)
        for model in models
    ]
    return [
        _spread([test.value(model, UNSEEN) for model in models]),
        _spread([test.value(model, "vqa_rad_captions", "retrieval") for model in models]),
        _spread(values),
    ]


def compute(out: Path) -> None:
    """Print the CPU minutes by stage."""
    _heading("Compute", ["stage", "commands", "CPU min"])
    spent: dict[str, list[float]] = {}
    for line in (out / "compute.jsonl").read_text().splitlines():
        one = json.loads(line)
        spent.setdefault(one["stage"], []).append(one["cpu_s"])
    for stage, seconds in spent.items():
        _row([stage, str(len(seconds)), f"{sum(seconds) / 60:.1f}"])
    _row(["all", str(sum(map(len, spent.values()))), f"{sum(map(sum, spent.values())) / 60:.1f}"])


def _complete(results: Results, arms: Sequence[Arm]) -> bool:
    """Return whether arms are evaluated; say so where they are not."""
    missing = [name for arm in arms for name in arm.students if None in [results.value(name, one) for one in DATASETS]]
    if missing:
        print(f"\nnot evaluated yet: {', '.join(missing)}")
    return not missing


def _heading(title: str, columns: Sequence[str]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def _row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |")


def _spread(values: Sequence[float | None]) -> str:
    """Return mean and standard deviation; of what is incomplete, how many there are."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return f"{len(known)} of {len(values)}"
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _interval(one: Compared) -> str:
    found = one.found
    return f"{found.value:+.3f} [{found.low or 0:+.3f}, {found.high or 0:+.3f}]"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
