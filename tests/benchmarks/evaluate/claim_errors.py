"""Measure how often a claim is false or a true one shown: ``python -m tests.benchmarks.evaluate.claim_errors``.

A student and nine teachers classify the same 150 items of several test sets. A claim is made where at least one set is
said to be better than every teacher, after Holm's correction over the sets. Where the student is no better than the
best teacher, every claim is false.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evaluate.metrics.paired_tests import Difference
from evaluate.metrics.predictions import Predictions
from evaluate.report.claims import Claim, claim
from evaluate.report.comparison import Evidence
from evaluate.results.assemble import record_of
from evaluate.results.record import DatasetFacts, ModelFacts, ResultRecord, Role, RunFacts
from evaluate.results.task_result import result_of

ITEMS, SETS, TEACHERS = 150, 3, 9
REPETITIONS, RESAMPLES = 200, 400
METRIC = "accuracy"
SKILL = 1.8
"""The distance between the scores of both classes, in standard deviations."""
FACTS = RunFacts(prompts_digest=None, logit_scale=None, versions={}, seconds=0, excluded={}, overlap=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The true skills of the models.

    Attributes:
        student: skill above that of the best teachers.
        others: skill of all teachers but the first, relative to the first.
        seeds: training seeds of the student.
        seed_sd: standard deviation of its skill over training seeds, the same for all test sets.
    """

    student: float = 0.0
    others: float = 0.0
    seeds: int = 1
    seed_sd: float = 0.0


SCENARIOS = {
    "ten equal models": Truth(),
    "one equal teacher, eight far worse": Truth(others=-1.2),
    "one equal teacher, three seeds that differ": Truth(others=-1.2, seeds=3, seed_sd=0.3),
    "one equal teacher, five seeds that differ": Truth(others=-1.2, seeds=5, seed_sd=0.3),
    "student better, nine equal teachers": Truth(student=1.2),
    "student better, three seeds that differ": Truth(student=1.2, seeds=3, seed_sd=0.1),
}


def draw_claim(rng: np.random.Generator, truth: Truth, *, sets: int, resamples: int) -> Claim:
    """Draw test sets and all models' predictions, and return what is claimed."""
    seeds = [f"student {number}" for number in range(truth.seeds)]
    skill = {name: SKILL + truth.student + truth.seed_sd * float(rng.standard_normal()) for name in seeds}
    rivals = [f"teacher {number}" for number in range(TEACHERS)]
    skill |= {name: SKILL + (truth.others if place else 0.0) for place, name in enumerate(rivals)}
    records: list[ResultRecord] = []
    predictions: dict[tuple[str, str], Predictions] = {}
    for number in range(sets):
        dataset = f"set {number} {rng.integers(1 << 62)}"
        target = rng.permutation(np.arange(ITEMS) % 2)
        common = rng.standard_normal(ITEMS)
        for name, own in skill.items():
            noise = np.sqrt(0.5) * common + np.sqrt(0.5) * rng.standard_normal(ITEMS)
            found = _predictions(target, own * (target - 0.5) + noise)
            predictions[name, dataset] = found
            records.append(_record(name, dataset, found))
    evidence = Evidence(Path(), resamples=resamples, read=lambda _, one: predictions[one.model.name, one.dataset.name])
    return claim(records, seeds, evidence=evidence)


def _predictions(target: npt.NDArray[np.int64], margin: npt.NDArray[np.float64]) -> Predictions:
    columns = {
        "target": target,
        "score": np.stack([-margin / 2, margin / 2], axis=1),
        "margin": margin,
        "positive": target == 1,
    }
    return Predictions(ids=[str(item) for item in range(ITEMS)], columns=columns)


def _record(name: str, dataset: str, found: Predictions) -> ResultRecord:
    role: Role = "teacher" if name.startswith("teacher") else "student"
    where = DatasetFacts(
        name=dataset,
        title=dataset,
        modality="xray",
        provenance="ours",
        licence="",
        digest=dataset,
        split_digest=dataset,
    )
    result = result_of("zero_shot", primary=METRIC, names=[METRIC], predictions=found, details={})
    model = ModelFacts(name=name, address=name, role=role, digest=name)
    return record_of(result, model=model, dataset=where, facts=FACTS, resamples=2)


def rates(truth: Truth, *, repetitions: int, sets: int, resamples: int, seed: int = 0) -> tuple[float, float, float]:
    """Return shares: draws with a claim, sets shown, draws that beat some teacher without adjustment."""
    rng = np.random.default_rng([seed, sets])
    said = [draw_claim(rng, truth, sets=sets, resamples=resamples) for _ in range(repetitions)]
    return (
        float(np.mean([one.shown for one in said])),
        float(np.mean([each.better for one in said for each in one.sets])),
        float(np.mean([_beats_one(one.sets[0].by_teacher.values()) for one in said])),
    )


def _beats_one(found: Iterable[Difference]) -> bool:
    return any(one.p is not None and one.p < 0.05 and one.value > 0 for one in found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    arguments = parser.parse_args()
    print("| models | some set claimed | sets shown | some teacher beaten on the first set, unadjusted |")
    print("|---|---|---|---|")
    for name, truth in SCENARIOS.items():
        found = rates(truth, repetitions=arguments.repetitions, sets=SETS, resamples=RESAMPLES)
        print(f"| {name} | {' | '.join(f'{share:.3f}' for share in found)} |", flush=True)


if __name__ == "__main__":
    main()
