"""The contents of the report, computed from a folder of results: boards, comparisons, means by modality."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluate.metrics.bootstrap import Interval, interval
from evaluate.results.files import read_results
from evaluate.results.record import Result, ResultRecord
from store.console import progress

from .boards import Board, boards
from .claims import Claim, claim
from .comparison import Comparison, Evidence, NothingSharedError, compare, enough_resamples, few_items, of_model, shared

log = logging.getLogger(__name__)

COMPARED_ROLES = ("student", "task_only")
"""Roles of the models that are compared with each teacher."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Means:
    """Means of one task's primary metrics over test sets, each of the same weight.

    Attributes:
        overall: by model, over the test sets that all models have; empty if there are none.
        by_modality: by model and modality, over the same.
        left_out: number of test sets without a place in the means: some model lacks them, or less is better.
    """

    task: str
    overall: dict[str, Interval]
    by_modality: dict[str, dict[str, Interval]]
    left_out: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Contents:
    """Everything that the page shows.

    Attributes:
        comparisons: each student with each teacher that it shares a test set with.
        claims: of each student, whether it is better than every teacher on test sets of tasks that use all their
            training items.
    """

    results: list[Result]
    boards: list[Board]
    comparisons: list[Comparison]
    claims: list[Claim]
    means: list[Means]

    @property
    def headline(self) -> list[Comparison]:
        """The first student's comparisons with the teachers."""
        return [one for one in self.comparisons if one.first == self.comparisons[0].first]

    @property
    def records(self) -> list[ResultRecord]:
        """The results that have numbers."""
        return [result for result in self.results if isinstance(result, ResultRecord)]


def gather(folder: Path) -> Contents:
    """Read a folder of results and compute what the report shows.

    Raises:
        EvaluationError: there are no results, or a record or its predictions are damaged.
    """
    results = read_results(folder)
    found = boards(results)
    pairs = _pairs(results)
    tests = max((count for _, _, count in pairs), default=1)
    resamples = enough_resamples(results, tests)
    records = [result for result in results if isinstance(result, ResultRecord)]
    with progress(len(records), label="resample", noun="results") as done:
        evidence = Evidence(folder, resamples=resamples, done=done)
        comparisons = _comparisons(results, pairs, evidence)
        means = [_means(board, evidence) for board in found]
        claims = _claims(results, evidence)
    return Contents(results=results, boards=found, comparisons=comparisons, claims=claims, means=means)


def _pairs(results: Sequence[Result]) -> list[tuple[str, str, int]]:
    """Return pairs of student and teacher, and the number of test sets that they share."""
    roles = {result.model.name: result.model.role for result in results}
    ours = sorted((COMPARED_ROLES.index(role), name) for name, role in roles.items() if role in COMPARED_ROLES)
    theirs = sorted(name for name, role in roles.items() if role == "teacher")
    pairs = [
        (one, other, shared(of_model(results, one), of_model(results, other))) for _, one in ours for other in theirs
    ]
    return [pair for pair in pairs if pair[2]]


def _comparisons(
    results: Sequence[Result], pairs: Sequence[tuple[str, str, int]], evidence: Evidence
) -> list[Comparison]:
    """Return the comparisons of pairs that have a comparable test set; say of the others why they have none."""
    found = []
    for ours, theirs, _ in pairs:
        try:
            found.append(compare(results, ours, theirs, evidence=evidence))
        except NothingSharedError as error:
            log.warning("not compared: %s", error)
    return found


def _claims(results: Sequence[Result], evidence: Evidence) -> list[Claim]:
    whole = [result for result in results if not few_items(result.task)]
    students = sorted({result.model.name for result in whole if result.model.role == "student"})
    if all(result.model.role != "teacher" for result in whole):
        return []
    claims = []
    for student in students:
        try:
            claims.append(claim(whole, [student], evidence=evidence))
        except NothingSharedError as error:
            log.warning("%s: %s", student, error)
    return claims


def _means(board: Board, evidence: Evidence) -> Means:
    rows = [
        row for row in range(len(board.models)) if any(board.result(row, place) for place in range(len(board.columns)))
    ]
    common = [
        place
        for place, column in enumerate(board.columns)
        if column.higher_is_better and all(board.result(row, place) is not None for row in rows)
    ]
    evaluated = sum(column.metric is not None for column in board.columns)
    overall: dict[str, Interval] = {}
    by_modality: dict[str, dict[str, Interval]] = {}
    for row in rows if common else ():
        own: dict[str, list[ResultRecord]] = {}
        for record in (board.result(row, place) for place in common):
            if record is not None:
                own.setdefault(record.dataset.modality, []).append(record)
        name = board.models[row].name
        overall[name] = _mean([record for records in own.values() for record in records], evidence)
        by_modality[name] = {modality: _mean(own[modality], evidence) for modality in sorted(own)}
    return Means(task=board.task, overall=overall, by_modality=by_modality, left_out=evaluated - len(common))


def _mean(records: Sequence[ResultRecord], evidence: Evidence) -> Interval:
    values = [record.value for record in records]
    return interval(float(np.mean(values)), np.mean([evidence.shuffled(record) for record in records], axis=0))
