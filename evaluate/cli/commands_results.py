"""``python -m evaluate compare``, ``claim``, ``leaderboard``, ``report``, ``card``: results side by side."""

from __future__ import annotations

import sys
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evaluate.config import EvaluatePipeline, EvaluateSection
from evaluate.models.pipeline_models import MaybePipelineOption
from store.cli.options import PIPELINES_FILE, ConfigOption, JsonOption, print_json, wide_console
from store.config.pipeline_file import read_pipeline
from store.console import progress, say, styled
from store.errors import EvaluationError
from store.files import write_atomic

if TYPE_CHECKING:  # heavy imports are made where they are needed, so that --help stays fast
    from evaluate.metrics.model_ranks import Ranking
    from evaluate.metrics.paired_tests import Difference
    from evaluate.report.claims import Claim
    from evaluate.report.comparison import Comparison, TestSet
    from evaluate.results.record import Result

app = typer.Typer()

RESULTS = Path("results")

ResultsOption = Annotated[
    Path | None,
    typer.Option("--results", metavar="DIR", help="Folder of the results; that of --pipeline, else results."),
]
TaskOption = Annotated[str | None, typer.Option(help="Only this task; all if left out.")]
OnOption = Annotated[
    list[str] | None,
    typer.Option("--on", metavar="TASK/DATASET", help="A test set of the family; may be repeated."),
]
FamilyOption = Annotated[
    Path | None,
    typer.Option("--family", metavar="FILE", help="A text file that declares the family, a TASK/DATASET per line."),
]
ModelsArgument = Annotated[list[str] | None, typer.Argument(metavar="[A B]", help="Two models; all if left out.")]


def results_folder(results: Path | None, section: EvaluateSection | None) -> Path:
    """Return the folder that is named, else the pipeline's, else ``results``."""
    return results or (Path(section.out) / "results" if section else RESULTS)


def _folder(results: Path | None, pipeline: str | None, config: Path) -> Path:
    section = None if pipeline is None else read_pipeline(config, pipeline, EvaluatePipeline).evaluate
    return results_folder(results, section)


@app.command(epilog="Example: python -m evaluate compare mmkd biomedclip --results results")
def compare(
    models: ModelsArgument = None,
    *,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    results: ResultsOption = None,
    task: TaskOption = None,
    on: OnOption = None,
    family: FamilyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models by paired differences on every test set, or all models by their ranks.

    Holm's correction goes over the test sets of --on and --family, or over all that both models share.
    """
    folder = _folder(results, pipeline, config)
    found, declared = _results_of_task(folder, task), _family(on, family)
    if not models:
        if declared:
            raise typer.BadParameter("--on and --family are for two models")
        _compare_all(found, as_json=as_json)
    elif len(models) == 2:
        _compare_two(found, (models[0], models[1]), folder, declared, as_json=as_json)
    else:
        raise typer.BadParameter("name two models, or none to rank all of them")


def _results_of_task(folder: Path, task: str | None) -> list[Result]:
    from evaluate.results.files import read_results

    known = read_results(folder)
    found = [result for result in known if task in (None, result.task)]
    if not found:
        tasks = ", ".join(sorted({result.task for result in known}))
        raise EvaluationError(f"{folder}: holds no result of a task {task!r}", hint=f"there are {tasks}")
    return found


def _family(on: list[str] | None, file: Path | None) -> list[TestSet] | None:
    """Return the test sets that were named, each once, None if none was; lines that begin with # are passed over."""
    try:
        lines = [*(on or []), *(file.read_text("utf-8-sig").splitlines() if file else [])]
    except UnicodeDecodeError:
        raise EvaluationError(f"{file}: is no text", hint="expected a TASK/DATASET per line, in UTF-8") from None
    named = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
    if (on or file) and not named:
        raise EvaluationError(f"{file or '--on'}: names no test set", hint="expected a TASK/DATASET per line")
    pairs = [name.partition("/") for name in named]
    wrong = next((name for name, pair in zip(named, pairs, strict=True) if not (pair[0] and pair[2])), None)
    if wrong is not None:
        raise EvaluationError(f"{wrong!r} is no test set", hint="TASK/DATASET, such as zero_shot/breastmnist")
    return list(dict.fromkeys((task, dataset) for task, _, dataset in pairs)) or None


def _compare_two(
    found: list[Result], models: tuple[str, str], folder: Path, family: list[TestSet] | None, *, as_json: bool
) -> None:
    from evaluate.report.comparison import Evidence, enough_resamples, of_model, shared
    from evaluate.report.comparison import compare as compare_models

    first, second = models
    tests = shared(of_model(found, first), of_model(found, second))
    with progress(2 * tests, label="resample", noun="results") as done:
        evidence = Evidence(folder, resamples=enough_resamples(found, max(1, tests, len(family or ()))), done=done)
        comparison = compare_models(found, first, second, evidence=evidence, family=family)
    if as_json:
        rows = [
            asdict(row) | {"first": row.first.model_dump(), "second": row.second.model_dump()}
            for row in comparison.rows
        ]
        print_json({**asdict(comparison), "rows": rows})
        return
    console = wide_console()
    console.print(_comparison_table(comparison))
    counts = ", ".join(f"{verdict} {comparison.count(verdict)}" for verdict in ("better", "undecided", "worse"))
    tests = len(family) if family else len(comparison.rows)
    named = "declared beforehand" if family else "all test sets that both share; no family was declared"
    console.print(f"{styled(first)} is, after Holm's correction over {tests} tests ({named}): {counts}")
    for one, mean in comparison.means.items():
        p = comparison.signed_rank_p[one]
        ranked = "" if p is None else f"; signed ranks over datasets p {p:.3g}"
        console.print(f"{one}: mean difference {_signed(mean)}, p {_p(mean.p)}{ranked}", highlight=False)
    for reason in comparison.left_out:
        console.print(f"left out: {styled(reason)}", highlight=False)


def _comparison_table(comparison: Comparison) -> Table:
    first, second = styled(comparison.first), styled(comparison.second)
    table = Table("task", "dataset", "metric", "n", "split", first, second)
    table.add_column("difference [95 %]", no_wrap=True)
    for heading in ("p", "Holm", ""):
        table.add_column(heading)
    for row in comparison.rows:
        table.add_row(
            row.task,
            styled(row.dataset),
            row.metric,
            f"{row.n:,}",
            row.split_digest[:8],
            styled(row.first),
            styled(row.second),
            styled(_signed(row.difference)),
            _p(row.difference.p),
            _p(row.p_holm),
            row.verdict,
        )
    return table


def _signed(found: Difference) -> str:
    if found.low is None:
        return f"{found.value:+.3f} [no interval: all {found.resamples:,} resamples failed]"
    failed = f" ({found.failed:,} failed)" if found.failed else ""
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{failed}"


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.3g}"


def _compare_all(found: list[Result], *, as_json: bool) -> None:
    from evaluate.report.boards import boards

    ranked = [(board, board.ranking) for board in boards(found) if board.ranking is not None]
    if not ranked:
        raise EvaluationError("no test set has results of two models", hint="evaluate another model, then compare")
    if as_json:
        print_json({board.task: asdict(ranking) for board, ranking in ranked})
        return
    console = wide_console()
    for board, ranking in ranked:
        console.print(f"[bold]{styled(board.task)}[/]")
        console.print(_diagram(ranking), highlight=False, markup=False)
        for note in board.notes:
            console.print(f"note: {styled(note)}", highlight=False)


def _diagram(ranking: Ranking) -> str:
    """Return a critical-difference diagram as text: models that share a bar are not told apart."""
    width = max(len(name) for name in ranking.models)
    lines = []
    for place, (name, mean) in enumerate(zip(ranking.models, ranking.mean_ranks, strict=True)):
        bars = " ".join("|" if start <= place <= end else " " for start, end in ranking.groups)
        lines.append(f"{mean:6.2f}  {name:<{width}}  {bars}".rstrip())
    said = f"mean ranks over {ranking.datasets} test sets"
    if ranking.p is not None:
        said += f"; Friedman's chi-squared {ranking.statistic:.2f}, p {ranking.p:.3g}"
    if ranking.critical_difference is not None:
        said += f"; critical difference {ranking.critical_difference:.2f} (Nemenyi, 5 %)"
    return "\n".join([*lines, said])


@app.command(epilog="Example: python -m evaluate claim 'distilled_seed*' --results results --on zero_shot/breastmnist")
def claim(
    students: Annotated[
        list[str],
        typer.Argument(metavar="STUDENT...", help="A model or a pattern of models; several are seeds of one student."),
    ],
    *,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    results: ResultsOption = None,
    teacher: Annotated[
        list[str] | None, typer.Option(help="A rival; may be repeated. The student's own teachers if left out.")
    ] = None,
    margin: Annotated[float, typer.Option(help="The loss that counts as none, for: not worse.")] = 0.01,
    task: TaskOption = None,
    on: OnOption = None,
    family: FamilyOption = None,
    validation: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Results on validation items: the best teacher there is the only rival."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="How the sentence calls the student.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Test whether a student is better than all of its teachers, and say it in one sentence."""
    from evaluate.report.claims import claim as claim_of
    from evaluate.report.comparison import Evidence, enough_resamples
    from evaluate.results.files import read_results

    folder = _folder(results, pipeline, config)
    found, declared = _results_of_task(folder, task), _family(on, family)
    names = sorted({result.model.name for result in found})
    # A model's whole name means that model, also where it could be read as a pattern.
    seeds = [
        name
        for text in students
        for name in ([] if text in names else [one for one in names if fnmatchcase(one, text)]) or [text]
    ]
    tests = len(declared or {(result.task, result.dataset.name) for result in found})
    with progress(len(found), label="resample", noun="results") as done:
        said = claim_of(
            found,
            seeds,
            evidence=Evidence(folder, resamples=enough_resamples(found, tests), done=done),
            teachers=teacher,
            margin=margin,
            family=declared,
            validation=None if validation is None else read_results(validation),
            name=name or (students[0] if len(seeds) > 1 else None),
        )
    if as_json:
        chosen = {"/".join(key): rival for key, rival in said.validation.items()}
        sets = [asdict(one) | {"better": one.better, "not_worse": one.not_worse} for one in said.sets]
        heads = {"sentence": said.sentence, "footing": said.footing, "shown": said.shown}
        print_json(heads | asdict(said) | {"validation": chosen, "sets": sets})
        return
    console = wide_console()
    console.print(_claim_table(said))
    for line in (said.sentence, said.footing, *(f"left out: {reason}" for reason in said.left_out)):
        console.print(styled(line), highlight=False)


def _claim_table(said: Claim) -> Table:
    table = Table("task", "dataset", "metric", "n", "best teacher" if said.validation else "closest teacher")
    table.add_column("difference [95 %]", no_wrap=True)
    for heading in ("p", "Holm", f"Holm, -{said.margin:g}", ""):
        table.add_column(heading)
    for one in said.sets:
        verdict = "better" if one.better else "not worse" if one.not_worse else "not shown"
        table.add_row(
            one.task,
            styled(one.dataset),
            one.metric,
            f"{one.n:,}",
            styled(one.closest),
            styled(_signed(one.difference)),
            _p(one.difference.p),
            _p(one.p_holm),
            _p(one.p_margin_holm),
            f"{verdict}{' (not to be trusted)' if one.caution else ''}",
        )
    return table


@app.command(epilog="Example: python -m evaluate leaderboard --results results")
def leaderboard(
    *,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    results: ResultsOption = None,
) -> None:
    """Write leaderboard.csv, leaderboard.md and leaderboard.json into the folder of the results."""
    from evaluate.report.leaderboard import write_leaderboards

    for path in write_leaderboards(_folder(results, pipeline, config)):
        say(f"{path}")


@app.command(epilog="Example: python -m evaluate report --results results --out report.html")
def report(
    *,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    results: ResultsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page; report.html beside the results."),
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Evaluation",
) -> None:
    """Write all results as one HTML page that needs no network and no other file."""
    from evaluate.report.contents import gather
    from evaluate.report.page import render

    folder = _folder(results, pipeline, config)
    path = out or folder / "report.html"
    write_atomic(path, render(gather(folder), title=title).encode())
    say(f"{path}")


@app.command(epilog="Example: python -m evaluate card mmkd --results results > results.md")
def card(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A model that has results.")],
    *,
    pipeline: MaybePipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    results: ResultsOption = None,
) -> None:
    """Print a model's results beside the best teacher's, as Markdown for train export --results."""
    from evaluate.report.comparison import of_model
    from evaluate.report.model_card import model_card
    from evaluate.results.files import read_results

    found = read_results(_folder(results, pipeline, config))
    of_model(found, name)
    sys.stdout.write(model_card(found, name) + "\n")
