"""The whole page, from its contents. It has no address in it that a browser would open by itself."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from evaluate.results.record import ResultRecord, SkippedRecord

from .boards import ROLE_ORDER
from .contents import ByModality, Contents
from .figures import in_words, table
from .galleries import confusion, gallery
from .kaplan_meier import kaplan_meier
from .markup import Markup, raw, tag
from .plots import FEWEST_AXES, forest, p_value, radar, ranks_plot, with_interval
from .tables import board_table, overlap_in_words, results_table

HERE = Path(__file__).parent


def render(contents: Contents, *, title: str) -> str:
    """Return the page as a text.

    Args:
        title: heading of the page and title of the browser's window.
    """
    style, script = ((HERE / name).read_text() for name in ("report.css", "report.js"))
    sections = [
        ("leaderboard", "Leaderboard", _leaderboard(contents)),
        ("ranks", "Which models differ", _ranks(contents)),
        ("modalities", "By modality", _modalities(contents)),
        ("differences", "Students against teachers", _differences(contents)),
        ("survival", "Survival by risk", _survival(contents.records)),
        ("confusion", "Zero-shot confusion", _confusions(contents.records)),
        ("retrieval", "What searches find", _galleries(contents.records, "retrieval")),
        ("failures", "Failures", _galleries(contents.records, "failure")),
        ("results", "Every result", [results_table(contents.records)] if contents.records else []),
        ("skipped", "Skipped", _skipped(contents)),
    ]
    shown = [(name, heading, content) for name, heading, content in sections if content]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", raw(style)),
    )
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in shown]
    body = tag(
        "body",
        tag("a", "To the results", href="#leaderboard", class_="skip"),
        tag("header", tag("h1", title), _summary(contents), tag("nav", tag("ul", links), aria_label="Sections")),
        tag("main", [_section(name, heading, content) for name, heading, content in shown]),
        tag("footer", _how_to_read()),
        tag("div", id="said", class_="unseen", role="status", aria_live="polite"),
        tag("script", raw(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _policy(style: str, script: str) -> str:
    """Return what a browser may do with the page: show images that it holds, run its one script, and no more."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    allowed = f"img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _section(name: str, heading: str, content: Sequence[Markup]) -> Markup:
    return tag("section", tag("h2", heading, id=f"{name}-head"), content, id=name, aria_labelledby=f"{name}-head")


def _summary(contents: Contents) -> Markup:
    counts = {
        "models": len({result.model.name for result in contents.results}),
        "test sets": len({record.split_digest for record in contents.records}),
        "tasks": len(contents.boards),
        "results": len(contents.records),
        "skipped": len(contents.results) - len(contents.records),
    }
    return tag(
        "dl", [tag("div", tag("dt", name), tag("dd", f"{count:,}")) for name, count in counts.items()], class_="facts"
    )


def _leaderboard(contents: Contents) -> list[Markup]:
    parts = []
    overlapping = {
        f"{record.dataset.title}: {overlap_in_words(record.overlap)}"
        for record in contents.records
        if record.overlap is not None and record.overlap.exact + record.overlap.near
    }
    if overlapping:
        said = f"Test images that occur in a training corpus, exactly or nearly. {'; '.join(sorted(overlapping))}."
        parts.append(tag("p", tag("strong", "Overlap. "), said, class_="note"))
    for board in contents.boards:
        parts += [tag("h3", in_words(board.task)), board_table(board)]
        if board.notes:
            parts.append(tag("ul", [tag("li", note) for note in board.notes], class_="muted"))
    return parts


def _ranks(contents: Contents) -> list[Markup]:
    drawn = [
        ranks_plot(f"ranks-{number}", title=in_words(board.task), ranking=board.ranking)
        for number, board in enumerate(contents.boards)
        if board.ranking is not None and board.ranking.critical_difference is not None
    ]
    return [tag("div", drawn, class_="plots")] if drawn else []


def _modalities(contents: Contents) -> list[Markup]:
    parts: list[Markup] = []
    without = []
    for place, task in enumerate(contents.modalities):
        modalities = list(next(iter(task.means.values()), {}))
        if len(modalities) < FEWEST_AXES:
            without.append(in_words(task.task))
            continue
        parts.append(tag("h3", in_words(task.task)))
        if task.left_out:
            said = f"{task.left_out} test sets are not in the means: not every model has them, or less is better there."
            parts.append(tag("p", said, class_="muted"))
        parts.append(tag("div", _radars(place, task, modalities), class_="plots"))
    if without:
        said = f"A radar takes {FEWEST_AXES} modalities that all models have; fewer have {', '.join(without)}."
        parts.append(tag("p", said, class_="muted"))
    return parts


def _radars(place: int, task: ByModality, modalities: Sequence[str]) -> list[Markup]:
    best = {name: max(means[name].value or 0.0 for means in task.means.values()) for name in modalities}
    least = min(means[name].value or 0.0 for means in task.means.values() for name in modalities)
    # The centre is below all values, so that the worst is still seen.
    low = max(0.0, (math.ceil(10 * least) - 2) / 10)
    return [
        radar(f"radar-{place}-{number}", title=model, values=means, best=best, low=low)
        for number, (model, means) in enumerate(task.means.items())
    ]


def _differences(contents: Contents) -> list[Markup]:
    if not contents.comparisons:
        return []
    parts = [
        tag(
            "p",
            "Differences are paired: both models are resampled on the same test items. p-values are adjusted over all "
            "test sets of a comparison (Holm).",
        )
    ]
    for number, comparison in enumerate(contents.comparisons):
        means = [f"{in_words(task)}: {with_interval(mean, signed=True)}" for task, mean in comparison.means.items()]
        ranked = [
            f"{in_words(task)}: p {p_value(p, sign=True)}"
            for task, p in comparison.signed_rank_p.items()
            if p is not None
        ]
        across = f"Over datasets (Wilcoxon's signed ranks), {'; '.join(ranked)}." if ranked else None
        parts.append(
            tag(
                "details",
                tag(
                    "summary",
                    f"{comparison.first} against {comparison.second} ",
                    tag("span", f"mean differences: {'; '.join(means)}"),
                ),
                forest(f"forest-{number}", comparison),
                tag("p", across, class_="muted") if across else None,
                tag("ul", [tag("li", f"left out: {one}") for one in comparison.left_out], class_="muted")
                if comparison.left_out
                else None,
                class_="pair",
                open=number == 0,
            )
        )
    return parts


def _confusions(records: Sequence[ResultRecord]) -> list[Markup]:
    found = [(record, confusion(record)) for record in records if record.task == "zero_shot"]
    return _by_dataset([(record, shown) for record, shown in found if shown is not None], class_="plots")


def _survival(records: Sequence[ResultRecord]) -> list[Markup]:
    found = [(record, kaplan_meier(f"survival-{number}", record)) for number, record in enumerate(records)]
    return _by_dataset([(record, shown) for record, shown in found if shown is not None], class_="plots")


def _galleries(records: Sequence[ResultRecord], kind: str) -> list[Markup]:
    parts = []
    for record in records:
        cards = gallery(record, kind)
        if cards is not None:
            heading = tag("h3", record.model.name, class_="small")
            parts.append((record, tag("div", heading, cards)))
    return _by_dataset(parts)


def _by_dataset(parts: Sequence[tuple[ResultRecord, Markup]], *, class_: str | None = None) -> list[Markup]:
    """Return what is shown of results, to be unfolded per test set; students first."""
    groups: dict[tuple[str, str], list[Markup]] = {}
    for record, part in sorted(parts, key=lambda one: (ROLE_ORDER.index(one[0].model.role), one[0].model.name)):
        groups.setdefault((record.dataset.title, record.task), []).append(part)
    return [
        tag(
            "details",
            tag("summary", f"{title} ", tag("span", in_words(task))),
            tag("div", shown, class_=class_),
            class_="pair",
            open=number == 0,
        )
        for number, ((title, task), shown) in enumerate(sorted(groups.items()))
    ]


def _skipped(contents: Contents) -> list[Markup]:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for result in contents.results:
        if isinstance(result, SkippedRecord):
            reasons.setdefault((result.dataset.title, result.task, result.skipped), []).append(result.model.name)
    rows = [
        [title, in_words(task), tag("span", reason, class_="wrap"), tag("span", ", ".join(models), class_="wrap")]
        for (title, task, reason), models in sorted(reasons.items())
    ]
    return [table("Not evaluated, and why", ["dataset", "task", "reason", "models"], rows)] if rows else []


def _how_to_read() -> list[Markup]:
    return [
        tag(
            "p",
            "Numbers in brackets are 95 % percentile intervals over resamples of the test set; they say how sure this "
            "test set makes a number. The spread over training seeds is another thing and stands apart. Resamples on "
            "which a metric is not defined are counted as failed and left out.",
        ),
        tag("p", "No medical use: these are measurements of research models."),
    ]
