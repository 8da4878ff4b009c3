"""Tables of `first_results` as Markdown, from the records that the evaluation wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from evaluate.report.table import by_group
from evaluate.results.files import read_result, result_path, results_on
from evaluate.results.record import ResultRecord

from .corpora import DATASETS, REAL_PARTS
from .pipeline import RECIPES

VALIDATION = {"_val": "", "_val_stop": "."}
"""Suffixes of the validation datasets, and what stands behind their prompts."""

PROBES = ("linear_probe", "linear_probe_1pct", "linear_probe_4shot")

OTHER_TASKS = (
    ("zero_shot", "lc25000_lung_224"),
    ("retrieval", "vqa_rad_captions"),
    ("vqa", "vqa_rad"),
    ("diagnosis_mean", "phantom_slides"),
    ("diagnosis_abmil", "phantom_slides"),
)


def print_tables(out: Path, *, seeds: list[int], steps: list[int]) -> None:
    """Print all tables of docs/first-results.md.

    Args:
        out: the folder of the run.
        seeds, steps: of the students.
    """
    arms = [f"{recipe}_{number}" for number in steps for recipe in RECIPES]
    arms += [arm for arm in (f"task_only_{3 * steps[0]}",) if arm not in arms]
    control = f"ungated_{steps[0]}"
    teachers = [f"tiny_{part}" for part in REAL_PARTS]
    for task in ("zero_shot", *PROBES):
        _heading(f"{task}, test", [*DATASETS, "mean of the three"])
        for arm in (*arms, control):
            _row(arm, [f"{arm}_{seed}" for seed in seeds], out / "results", task, DATASETS)
        for model in teachers:
            _row(model, [model], out / "results", task, DATASETS)
    for suffix in VALIDATION:
        _heading(f"zero_shot, validation ({suffix})", [*DATASETS, "mean of the three"])
        names = [dataset + suffix for dataset in DATASETS]
        for arm in (*arms, control):
            _row(arm, [f"{arm}_{seed}" for seed in seeds], out / "validation", "zero_shot", names)
        for model in teachers:
            _row(model, [model], out / "validation", "zero_shot", names)
    _phantoms(out, arms, control, seeds)
    _intervals(out, [*(f"{arm}_{seeds[0]}" for arm in arms), f"{control}_{seeds[0]}", *teachers])
    _differences(out)
    _others(out, [f"{recipe}_{steps[0]}_{seeds[0]}" for recipe in RECIPES] + ["tiny_xray", "tiny_histopathology"])


def best_of(validation: Path, models: Sequence[str]) -> str:
    """Return the model of the highest mean over the validation splits: the test splits choose nothing."""
    names = [f"{dataset}_val" for dataset in DATASETS]
    return max(models, key=lambda model: mean(_primary(validation, model, "zero_shot", name) for name in names))


def _primary(results: Path, model: str, task: str, dataset: str) -> float | None:
    record = _record(results, model, task, dataset)
    return None if record is None else record.metrics[record.primary].value


def _record(results: Path, model: str, task: str, dataset: str) -> ResultRecord | None:
    path = result_path(results, model=model, task=task, dataset=dataset)
    found = read_result(path) if path.is_file() else None
    return found if isinstance(found, ResultRecord) else None


def _heading(title: str, columns: Sequence[str]) -> None:
    print(f"\n{title}\n\n| model | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")


def _row(name: str, models: Sequence[str], results: Path, task: str, datasets: Sequence[str]) -> None:
    """Print mean ± sd over the models of several seeds, by dataset and of the mean over datasets."""
    found = [[_primary(results, model, task, dataset) for dataset in datasets] for model in models]
    columns = [[value for value in column if value is not None] for column in zip(*found, strict=True)]
    macro = [mean(values) for values in found if None not in values]
    print(f"| {name} | {' | '.join(_spread(column) for column in (*columns, macro))} |")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "missing"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _phantoms(out: Path, arms: list[str], control: str, seeds: list[int]) -> None:
    found = {}
    for folder in (out, out / "ungated"):
        found |= by_group(results_on(folder / "phantoms", task="zero_shot", dataset="phantom_test"))
    _heading("Drawn modalities, accuracy within the modality", ["macro"])
    for arm in (*arms, control):
        values = [found[name]["macro_accuracy"] for seed in seeds if (name := f"{arm}_{seed}") in found]
        print(f"| {arm} | {_spread(values)} |")
    for name, model in found.items():
        if name.startswith("tiny_") or name == "oracle":
            print(f"| {name} | {model['macro_accuracy']:.3f} |")


def _intervals(out: Path, models: list[str]) -> None:
    _heading("Zero-shot with intervals over the test items", DATASETS)
    for model in models:
        records = [_record(out / "results", model, "zero_shot", dataset) for dataset in DATASETS]
        said = ["missing" if record is None else str(record.metrics[record.primary]) for record in records]
        print(f"| {model} | {' | '.join(said)} |")


def _differences(out: Path) -> None:
    _heading("Paired differences", ["zero_shot", "Holm", "linear_probe", "Holm"])
    print("(rows: one dataset each)")
    for path in sorted((out / "compare").glob("*.json")):
        found = json.loads(path.read_text())
        rows = {(row["task"], row["dataset"]): row for row in found["rows"]}
        for dataset in DATASETS:
            cells = [_difference(rows.get((task, dataset))) for task in ("zero_shot", "linear_probe")]
            print(f"| {found['first']} - {found['second']}, {dataset} | {' | '.join(cells)} |")
        for task, value in found["means"].items():
            if task in {"zero_shot", "linear_probe"}:
                print(f"  mean {task}: {_signed(value)} p {value['p']:.3g}")


def _difference(row: dict | None) -> str:
    if row is None:
        return "missing | "
    return f"{_signed(row['difference'])} | {row['p_holm']:.3g} {row['verdict']}"


def _signed(found: dict) -> str:
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _cited(record: ResultRecord | None) -> str:
    return "missing" if record is None else f"{record.primary} {record.metrics[record.primary]}"


def _others(out: Path, models: list[str]) -> None:
    _heading("The other tasks", [f"{task} {dataset}" for task, dataset in OTHER_TASKS])
    for model in models:
        said = [_cited(_record(out / "results", model, task, dataset)) for task, dataset in OTHER_TASKS]
        print(f"| {model} | {' | '.join(said)} |")
    for task in ("survival_cox", "survival_abmil"):
        print(f"own features, {task} wpbc: {_cited(_record(out / 'results', 'own-features', task, 'wpbc'))}")
