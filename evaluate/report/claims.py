"""Is a student better than all of its teachers? One sentence, and the tests that it rests on.

docs/statistics.md has the formulas, their sources and the error rates that were measured.

Axes: R resamples, S training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluate.datasets.task_kinds import can_do
from evaluate.metrics.bootstrap import LEVEL
from evaluate.metrics.paired_tests import Difference, difference, holm, one_sided_p, over_seeds
from evaluate.metrics.predictions import Samples
from evaluate.metrics.registry import METRICS
from evaluate.results.record import Result, ResultRecord, teachers_of
from store.errors import EvaluationError
from store.format.records import Side

from .comparison import Evidence, NothingSharedError, TestSet, absent, incomparable, of_model

MARGIN = 0.01
"""The loss that counts as none, in the unit of the metrics."""
ALPHA = (1 - LEVEL) / 2
"""Level of the one-sided tests: that at which the lower end of a 95 % interval lies above zero."""


@dataclass(kw_only=True, frozen=True, slots=True)
class SetClaim:
    """A student against its teachers on one test set.

    Attributes:
        metric: the primary metric; more is better.
        n: test items.
        closest: the teacher with the smallest difference.
        difference: of the student and the best teacher. By the intersection-union rule each of its value and its ends
            is the smallest of those of all teachers; its p is the largest one-sided one.
        p_margin: one-sided, for being worse than some teacher by the margin or more.
        p_holm, p_margin_holm: the same, adjusted for the family.
        by_teacher: the difference to each teacher, with two-sided p.
        caution: why an interval of one of the models is not to be trusted.
    """

    task: str
    dataset: str
    metric: str
    n: int
    closest: str
    difference: Difference
    p_margin: float
    by_teacher: dict[str, Difference]
    caution: str | None
    p_holm: float = 1.0
    p_margin_holm: float = 1.0

    @property
    def better(self) -> bool:
        """True if the student is shown to be better than every teacher; never by an interval with a caution."""
        return self.caution is None and self.p_holm < ALPHA

    @property
    def not_worse(self) -> bool:
        """True if the student is shown to be worse than no teacher by the margin or more; as ``better``."""
        return self.caution is None and self.p_margin_holm < ALPHA


@dataclass(kw_only=True, frozen=True, slots=True)
class Claim:
    """The outcome of the tests of a student against its teachers.

    Attributes:
        seeds: models that are the student, trained with one seed each.
        others: further models with the role of a teacher, which the student is not compared with.
        absent: teachers of the student that have no results.
        images_alone: teachers that were no rivals on some test set that was tested, whose task needs texts.
        margin: loss that counts as none.
        family: test sets over which Holm's correction goes. If ``declared``, those that could not be tested count as
            not shown; else it is all that could be tested.
        validation: by test set, the one teacher that was best on validation and that the student is compared with;
            empty where it is compared with all of them.
        macro: mean difference over the test sets to the best teacher, as in ``SetClaim.difference``; not adjusted.
        left_out: test sets that could not be tested, with the reason.
    """

    student: str
    seeds: tuple[str, ...]
    teachers: tuple[str, ...]
    others: tuple[str, ...]
    absent: tuple[str, ...]
    images_alone: tuple[str, ...]
    margin: float
    family: tuple[TestSet, ...]
    declared: bool
    validation: dict[TestSet, str]
    sets: list[SetClaim]
    macro: Difference
    left_out: list[str]

    @property
    def shown(self) -> bool:
        """True if the student is shown to be better than every teacher on at least one test set."""
        return any(one.better for one in self.sets)

    @property
    def sentence(self) -> str:
        """The claim in one sentence, for readers who see nothing else."""
        total = len(self.family)
        rivals = "every named teacher" if self.others else "every teacher"
        rivals += " with results" if self.absent else ""
        rivals += " that can do the task" if self.images_alone else ""
        rivals = "the teacher that validation chose" if self.validation else rivals
        better, not_worse = (sum(getattr(one, kind) for one in self.sets) for kind in ("better", "not_worse"))
        ends = "" if self.macro.low is None else f" [{self.macro.low:.3f}, {self.macro.high:.3f}]"
        said = f"better than {rivals} on {better} of {_counted(total, 'set')} (macro {self.macro.value:+.3f}{ends})"
        said += f", not worse by {self.margin:g} or more on {not_worse}"
        return f"{self.student}: {said if self.shown else f'not shown: {said}'}"

    @property
    def footing(self) -> str:
        """The grounds of the sentence in words: seeds, teachers, family, level."""
        seeds = f"{len(self.seeds)} training seeds" if len(self.seeds) > 1 else "one training seed"
        family = "declared beforehand" if self.declared else "all test sets that they share; no family was declared"
        rivals = f"{_counted(len(self.teachers), 'teacher')} ({', '.join(self.teachers)})"
        rivals += f", not {', '.join(self.others)}" if self.others else ""
        rivals += f"; without results: {', '.join(self.absent)}" if self.absent else ""
        if self.images_alone:
            rivals += f"; no rivals where texts are needed: {', '.join(self.images_alone)}, of images alone"
        return (
            f"{seeds}; {rivals}; Holm over "
            f"{_counted(len(self.family), 'test set')} ({family}); one-sided tests at {100 * ALPHA:g} %"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def claim(
    results: Sequence[Result],
    students: Sequence[str],
    *,
    evidence: Evidence,
    teachers: Sequence[str] | None = None,
    margin: float = MARGIN,
    family: Sequence[TestSet] | None = None,
    validation: Sequence[Result] | None = None,
    name: str | None = None,
) -> Claim:
    """Test whether a student is better than all of its teachers.

    Args:
        students: models that are one student, trained with several seeds.
        teachers: if None the student's own as its results name them, or else all models with that role.
        margin: loss that counts as none, between 0 and 1.
        family: test sets that the claim is about, named before their results were seen; if None all that there are.
        validation: results of the teachers on validation items; the best of each test set is then the only rival.
        name: of the student; if None that of the first of ``students``.

    Raises:
        EvaluationError: a model has no result, or the margin is none.
        NothingSharedError: no test set can be tested.
    """
    if not 0 < margin < 1:  # also where it is no number
        raise EvaluationError(f"the margin of a claim must be above 0 and below 1, not {margin:g}")
    seeds = tuple(dict.fromkeys(students))
    models = [result.model for result in results]
    known = {model.name for model in models if model.role == "teacher"}
    of_students = [model for model in models if model.name in seeds]
    rivals = tuple(dict.fromkeys(teachers or teachers_of(of_students, models)))
    absent = {name for model in of_students for name in model.teachers} - {model.name for model in models}
    if not rivals or not seeds or {*rivals} & {*seeds}:
        raise EvaluationError(
            "a claim needs a student and teachers that are other models",
            hint="name the teachers, unless their results have the role teacher",
        )
    found = {model: of_model(results, model) for model in (*seeds, *rivals)}
    wanted = tuple(dict.fromkeys(family)) if family else tuple(sorted({key for own in found.values() for key in own}))
    chosen: dict[TestSet, str] = {}
    tested: list[SetClaim] = []
    pairs: dict[str, list[_Pair]] = {}
    left_out = []
    sides = {result.model.name: result.model.sides for result in results}
    for key in wanted:
        try:
            opponents = _opponents(results, rivals, sides, key, validation)
        except EvaluationError as error:
            left_out.append(f"{' '.join(key)}: {error}")
            continue
        if validation is not None:
            (chosen[key],) = opponents
        records = {model: found[model].get(key) for model in (*seeds, *opponents)}
        why = _untestable(records, evidence)
        if why is not None:
            left_out.append(f"{' '.join(key)}: {why}")
            continue
        there = {model: record for model, record in records.items() if isinstance(record, ResultRecord)}
        tested.append(_tested(there, seeds, evidence, margin))
        for rival, pair in _pairs(there, seeds, evidence.shuffled).items():
            pairs.setdefault("" if validation is not None else rival, []).append(pair)
    if not tested:
        raise NothingSharedError(f"no test set can be tested: {'; '.join(left_out)}")
    means = [_difference(_mean(of_rival)) for of_rival in pairs.values()]
    return Claim(
        student=name or seeds[0],
        seeds=seeds,
        teachers=rivals,
        others=tuple(sorted(known - {*rivals, *seeds})),
        absent=tuple(sorted(absent)),
        images_alone=tuple(name for name in rivals if any(not _able(name, sides, one.task) for one in tested)),
        margin=margin,
        family=wanted if family else tuple((one.task, one.dataset) for one in tested),
        declared=bool(family),
        validation=chosen,
        sets=_corrected(tested, untested=len(wanted) - len(tested) if family else 0),
        macro=_smallest(means),
        left_out=left_out,
    )


def _corrected(tested: Sequence[SetClaim], *, untested: int) -> list[SetClaim]:
    """Return tested sets with Holm's correction over them and the sets of a declared family that were not tested."""
    lost = [1.0] * untested
    better = holm([*(one.difference.p for one in tested), *lost])
    not_worse = holm([*(one.p_margin for one in tested), *lost])
    return [
        replace(one, p_holm=1.0 if p is None else p, p_margin_holm=1.0 if p_margin is None else p_margin)
        for one, p, p_margin in zip(tested, better, not_worse, strict=False)
    ]


_Pair = tuple[float, float, Samples, Samples]
"""Numbers of student and rival, and their samples (R,)."""


def _untestable(records: Mapping[str, Result | None], evidence: Evidence) -> str | None:
    """Return why a test set cannot be tested; None if it can."""
    there = [record for record in records.values() if isinstance(record, ResultRecord)]
    if len(there) < len(records):
        return absent(records)
    if not METRICS[there[0].primary].higher_is_better:
        return f"less {there[0].primary} is better, so that the margin and the mean over test sets do not apply"
    return next((why for other in there[1:] if (why := incomparable(there[0], other, evidence))), None)


def _tested(records: Mapping[str, ResultRecord], seeds: Sequence[str], evidence: Evidence, margin: float) -> SetClaim:
    pairs = _pairs(records, seeds, evidence.samples)
    by_teacher = {rival: _difference(pair) for rival, pair in pairs.items()}
    p, p_margin = (
        max(one_sided_p(pair[2] - pair[3], above=limit) for pair in pairs.values()) for limit in (0.0, -margin)
    )
    first = records[seeds[0]]
    cautions = (record.metrics[record.primary].caution for record in records.values())
    return SetClaim(
        task=first.task,
        dataset=first.dataset.name,
        metric=first.primary,
        n=first.n,
        closest=min(by_teacher, key=lambda rival: by_teacher[rival].value),
        difference=replace(_smallest(list(by_teacher.values())), p=p),
        p_margin=p_margin,
        by_teacher=by_teacher,
        caution=next((caution for caution in cautions if caution), None),
    )


def _pairs(
    records: Mapping[str, ResultRecord], seeds: Sequence[str], samples_of: Callable[[ResultRecord], Samples]
) -> dict[str, _Pair]:
    """Return numbers and samples of the student, as the mean of its seeds, and of each rival."""
    ours = [records[seed] for seed in seeds]
    value = float(np.mean([record.value for record in ours]))
    samples = over_seeds(np.stack([samples_of(record) for record in ours]))
    return {
        rival: (value, record.value, samples, samples_of(record))
        for rival, record in records.items()
        if rival not in seeds
    }


def _difference(pair: _Pair) -> Difference:
    return difference(pair[:2], pair[2:])


def _mean(pairs: Sequence[_Pair]) -> _Pair:
    """Return the means over test sets, each of the same weight."""
    values, rivals, samples, theirs = zip(*pairs, strict=True)
    return float(np.mean(values)), float(np.mean(rivals)), np.mean(samples, axis=0), np.mean(theirs, axis=0)


def _smallest(found: Sequence[Difference]) -> Difference:
    """Return the difference to the best of several rivals: value and ends are the smallest of all."""
    lows, highs = (
        [end for end in ends if end is not None] for ends in ([d.low for d in found], [d.high for d in found])
    )
    whole = len(lows) == len(found)
    return Difference(
        value=min(one.value for one in found),
        low=min(lows) if whole else None,
        high=min(highs) if whole else None,
        p=max(one.p for one in found if one.p is not None) if whole else None,
        resamples=found[0].resamples,
        failed=max(one.failed for one in found),
    )


def _able(name: str, sides: Mapping[str, tuple[Side, ...]], task: str) -> bool:
    return name not in sides or can_do(task, sides[name])


def _opponents(
    results: Sequence[Result],
    rivals: Sequence[str],
    sides: Mapping[str, tuple[Side, ...]],
    key: TestSet,
    validation: Sequence[Result] | None,
) -> tuple[str, ...]:
    """Return the rivals on a test set: those that can do its task, or the best of them on validation.

    Raises:
        EvaluationError: none can do it, or the best cannot be known.
    """
    able = tuple(name for name in rivals if _able(name, sides, key[0]))
    if not able:
        raise EvaluationError(f"the task needs texts, which no rival encodes: {', '.join(rivals)}")
    return able if validation is None else (_best(validation, results, able, key),)


def _best(validation: Sequence[Result], results: Sequence[Result], rivals: Sequence[str], key: TestSet) -> str:
    """Return the teacher with the best validation result; raise EvaluationError where that cannot be known."""
    there = {
        result.model.name: result
        for result in validation
        if (result.task, result.dataset.name) == key
        and isinstance(result, ResultRecord)
        and result.model.name in rivals
    }
    missing = [rival for rival in rivals if rival not in there]
    if missing:
        raise EvaluationError(f"the validation results lack {', '.join(missing)}")
    tests = {result.dataset.split_digest for result in results if (result.task, result.dataset.name) == key}
    if tests & {result.split_digest for result in there.values()}:
        raise EvaluationError("the validation results are of the test items themselves")
    if len({(result.split_digest, result.protocol, result.primary, result.n) for result in there.values()}) > 1:
        raise EvaluationError("the validation results of the teachers cannot be compared")
    return max(there, key=lambda rival: there[rival].value)
