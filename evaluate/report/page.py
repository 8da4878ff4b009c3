"""The whole page, from its contents. It has no address in it that a browser would open by itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from evaluate.results.examples import Example, examples_in
from evaluate.results.record import ResultRecord, SkippedRecord
from store.errors import plain
from store.report.elements import base_style, environment, policy

from .boards import ROLE_ORDER
from .clinical import decision_tables, prompt_tables, strict_tables, subgroup_tables
from .comparison import few_items
from .contents import Contents, Means
from .drawing.forest import forest, teachers_forest
from .drawing.groups import group_plots
from .drawing.kaplan_meier import kaplan_meier
from .drawing.probe_curves import probe_curves
from .drawing.radar import FEWEST_AXES, radar
from .drawing.ranks import ranks_plot
from .drawing.reliability import reliability
from .drawing.seconds import Stage, seconds_plot
from .items import same_items
from .model_card import model_card
from .overview import models_of, overview, probe_curves_of
from .wording import FILTERS, in_words, overlap_in_words

HERE = Path(__file__).parent

MOST_CLASSES = 16
"""Classes of a matrix that is shown whole; for more the most frequent confusions are listed."""
MOST_PAIRS = 12
MOST_EXAMPLES = 12
"""Examples of one result that are shown."""

Groups = list[tuple[str, str, list[tuple[ResultRecord, Any]]]]
"""By title of the dataset and task, records with what is shown of them."""


@functools.cache
def _templates() -> Environment:
    found = environment(HERE)
    found.filters |= FILTERS
    return found


def render(contents: Contents, *, title: str, note: str = "", stages: Mapping[str, Stage] | None = None) -> str:
    """Return the page as a text.

    Args:
        note: stands below the title.
        stages: where the time of the run went that made the results.
    """
    style, script = base_style() + (HERE / "report.css").read_text(), (HERE / "report.js").read_text()
    records = contents.records
    models, whole = models_of(contents), [one for one in records if not few_items(one.task)]
    numbers = {id(record): number for number, record in enumerate(records)}
    page: str = (
        _templates()
        .get_template("page.html")
        .render(
            contents=contents,
            title=title,
            note=note,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            policy=policy(style, script),
            facts=_facts(contents),
            overlapping=_overlapping(records),
            rankings=[
                ranks_plot(f"ranks-{number}", title=in_words(board.task), ranking=board.ranking)
                for number, board in enumerate(contents.boards)
                if board.ranking is not None and board.ranking.critical_difference is not None
            ],
            headline=teachers_forest("headline", contents.headline),
            models=models,
            overview=overview(contents, models),
            curves=[probe_curves(f"probes-{place}", one) for place, one in enumerate(probe_curves_of(contents))],
            radars=[_radars(place, one) for place, one in enumerate(contents.means)],
            forests=[(one, forest(f"forest-{number}", one)) for number, one in enumerate(contents.comparisons)],
            decisions=decision_tables(records),
            calibrated=_by_dataset(whole, lambda one: reliability(f"reliability-{numbers[id(one)]}", one)),
            subgroups=subgroup_tables(records),
            prompts=prompt_tables(records),
            strict=strict_tables(records),
            survivals=_by_dataset(records, lambda one: kaplan_meier(f"survival-{numbers[id(one)]}", one)),
            confused=_by_dataset([one for one in records if one.task == "zero_shot"], confusion),
            grouped=[
                (title, group_plots(f"groups-{number}", group))
                for number, (title, group) in enumerate(_with_groups(records).items())
            ],
            sampled=same_items(records, "sample"),
            retrieved=same_items(records, "retrieval"),
            failures=_by_dataset(records, failures),
            time=seconds_plot(stages) if stages else "",
            reasons=_reasons(contents),
            cards={model.name: model_card(contents.results, model.name) for model in models if model.role == "student"},
        )
    )
    return plain(page, keep="\n")


def _facts(contents: Contents) -> dict[str, int]:
    return {
        "models": len({result.model.name for result in contents.results}),
        "test sets": len({record.split_digest for record in contents.records}),
        "tasks": len(contents.boards),
        "results": len(contents.records),
        "skipped": len(contents.results) - len(contents.records),
    }


def _overlapping(records: Sequence[ResultRecord]) -> list[str]:
    found = [one for one in records if one.overlap is not None and one.overlap.exact + one.overlap.near]
    return sorted({f"{one.dataset.title}: {overlap_in_words(one.overlap)}" for one in found})


def _radars(place: int, task: Means) -> dict[str, Any]:
    modalities, drawn = list(next(iter(task.by_modality.values()), {})), []
    if len(modalities) >= FEWEST_AXES:
        best = {name: max(means[name].value or 0.0 for means in task.by_modality.values()) for name in modalities}
        least = min(means[name].value or 0.0 for means in task.by_modality.values() for name in modalities)
        # The centre is below all values, so that the worst one is still visible.
        low = max(0.0, (math.ceil(10 * least) - 2) / 10)
        drawn = [
            radar(f"radar-{place}-{number}", title=model, values=means, best=best, low=low)
            for number, (model, means) in enumerate(task.by_modality.items())
        ]
    return {"task": task.task, "left_out": task.left_out, "drawn": drawn}


def _by_dataset(records: Sequence[ResultRecord], show: Callable[[ResultRecord], Any]) -> Groups:
    """Return what is shown of results by test set and task, students first; nothing for what ``show`` has none of."""
    groups: dict[tuple[str, str], list[tuple[ResultRecord, Any]]] = {}
    for record in sorted(records, key=lambda one: (ROLE_ORDER.index(one.model.role), one.model.name)):
        shown = show(record)
        if shown is not None:
            groups.setdefault((record.dataset.title, record.task), []).append((record, shown))
    return [(title, task, parts) for (title, task), parts in sorted(groups.items())]


def _with_groups(records: Sequence[ResultRecord]) -> dict[str, list[ResultRecord]]:
    """Return the results of each test set with groups, by its title."""
    found: dict[str, list[ResultRecord]] = {}
    for record in records:
        if "groups" in record.details:
            found.setdefault(record.dataset.title, []).append(record)
    return found


def _reasons(contents: Contents) -> list[list[str]]:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for result in contents.results:
        if isinstance(result, SkippedRecord):
            reasons.setdefault((result.dataset.title, result.task, result.skipped), []).append(result.model.name)
    wrapped = Markup('<span class="wrap">{}</span>').format
    return [
        [title, in_words(task), wrapped(reason), wrapped(", ".join(models))]
        for (title, task, reason), models in sorted(reasons.items())
    ]


def confusion(record: ResultRecord) -> dict[str, Any] | None:
    """Return how often each class was taken for each, as the template takes it; None if the record does not say."""
    counts, names = record.details.get("confusion"), record.details.get("classes")
    if not isinstance(counts, list) or not isinstance(names, list) or len(counts) != len(names):
        return None
    if not all(isinstance(line, list) and len(line) == len(names) for line in counts):
        return None
    title = f"{record.model.name} on {record.dataset.title}: rows are the true class, columns what was said, in percent"
    pairs = _pairs(counts, names) if len(names) > MOST_CLASSES else []
    return {"title": title, "names": names, "counts": counts, "pairs": pairs}


def _pairs(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[list[str]]:
    wrong = [
        (line[place] / total, line[place], name, names[place])
        for row, (name, line, total) in enumerate(zip(names, counts, map(sum, counts), strict=True))
        for place in range(len(names))
        if place != row and line[place]
    ]
    return [
        [name, taken, f"{share:.0%} of its items ({count:,})"]
        for share, count, name, taken in sorted(wrong, key=lambda pair: (-pair[0], -pair[1]))[:MOST_PAIRS]
    ]


def failures(record: ResultRecord) -> list[Example] | None:
    """Return a result's wrong answers; None if it keeps none."""
    return [example for example in examples_in(record.details) if example.kind == "failure"][:MOST_EXAMPLES] or None
