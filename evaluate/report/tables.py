"""The report's sortable tables: one board per task, and every result with all that judges it."""

from __future__ import annotations

from collections.abc import Sequence

from evaluate.metrics.registry import METRICS
from evaluate.results.record import DIGEST_SHOWN, ModelFacts, Overlap, ResultRecord, SeedValues, SkippedRecord

from .boards import Board
from .figures import in_words, scrolling, table_caption
from .markup import Child, Markup, tag
from .plots import number


def board_table(board: Board) -> Markup:
    """Return models by datasets, with intervals, the best of each column marked."""
    heads = [sort_head("model"), sort_head("mean rank", sorted_now=board.ranking is not None)]
    heads += [_column_head(board, place) for place in range(len(board.columns))]
    rows = []
    for row, model in enumerate(board.models):
        rank = board.mean_rank(row)
        cells = [number_cell("–" if rank is None else f"{rank:.2f}", rank)]
        cells += [_board_cell(board, row, place) for place in range(len(board.columns))]
        rows.append(tag("tr", model_head(model), cells))
    caption = f"{in_words(board.task)}: values with 95 % intervals of the test set; the best of several is green"
    return _sortable(caption, heads, rows)


def results_table(records: Sequence[ResultRecord]) -> Markup:
    """Return one row per result, with everything that a reader needs to judge its number."""
    heads = [sort_head(text) for text in ("model", "task", "dataset", "modality", "metric")]
    heads += [sort_head(text, first="descending") for text in ("value [95 %]", "n", "seeds: mean ± sd", "overlap")]
    heads += [sort_head(text) for text in ("resamples", "split", "model version", "provenance", "excluded")]
    caption = (
        "Every result. The interval says how sure the test set makes the number, the seeds how much training varies"
    )
    return _sortable(caption, heads, [_result_row(record) for record in records])


def _result_row(record: ResultRecord) -> Markup:
    metric, seeds = record.metrics[record.primary], record.seeds.get(record.primary)
    failed = f", {metric.failed:,} failed" if metric.failed else ""
    overlap = record.overlap
    excluded = ", ".join(f"{count:,} {reason}" for reason, count in record.excluded.items()) or "none"
    return tag(
        "tr",
        model_head(record.model),
        cell(in_words(record.task)),
        cell(record.dataset.title),
        cell(record.dataset.modality),
        cell(METRICS[record.primary].title),
        number_cell(str(metric), record.value),
        number_cell(f"{record.n:,}", record.n),
        number_cell(_seeds(seeds), seeds.mean if seeds else None),
        number_cell(overlap_in_words(overlap), overlap.exact + overlap.near if overlap else None),
        cell(f"{metric.resamples:,} {record.bootstrap.mode}{failed}"),
        cell(_digest(record.split_digest)),
        cell(_digest(record.model.digest)),
        cell(record.dataset.provenance),
        cell(tag("span", excluded, class_="wrap")),
    )


def overlap_in_words(overlap: Overlap | None) -> str:
    """Return how many test images were seen in training."""
    if overlap is None:
        return "not checked"
    if not overlap.exact + overlap.near:
        return f"none with {overlap.store}"
    return f"{overlap.exact:,} exact, {overlap.near:,} near in {overlap.store}"


def _seeds(seeds: SeedValues | None) -> str:
    if seeds is None:
        return "no training seeds"
    if seeds.sd is None:
        return f"{number(seeds.mean)}, one seed"
    return f"{number(seeds.mean)} ± {number(seeds.sd)} ({len(seeds.values)})"


def _digest(digest: str) -> Markup:
    return tag("span", digest[:DIGEST_SHOWN], class_="digest", title=digest)


def model_head(model: ModelFacts) -> Markup:
    """Return the head of a model's row: name, role and version."""
    about = tag("small", tag("span", model.role.replace("_", " "), class_="role"), " ", _digest(model.digest))
    return tag("th", model.name, about, scope="row", data_value=model.name)


def cell(content: Child) -> Markup:
    """Return a cell that sorts by its text."""
    return tag("td", content)


def number_cell(content: Child, value: float | None) -> Markup:
    """Return a cell that sorts by a number; one without a number comes last in any order."""
    return tag("td", content, data_value="" if value is None else value)


def sort_head(text: str, *about: Child, first: str = "ascending", sorted_now: bool = False) -> Markup:
    """Return the head of a column that can be sorted by keyboard."""
    return tag(
        "th",
        tag("button", text, type="button"),
        [tag("small", line) for line in about],
        scope="col",
        data_first=first,
        aria_sort="ascending" if sorted_now else None,
    )


def _column_head(board: Board, place: int) -> Markup:
    column = board.columns[place]
    if column.metric is None:
        return sort_head(column.title, column.dataset.modality, "skipped")
    direction = "" if column.higher_is_better else " (less is better)"
    split = (column.dataset.split_digest or "")[:DIGEST_SHOWN]
    found = [board.result(row, place) for row in range(len(board.models))]
    overlaps = list(dict.fromkeys(overlap_in_words(one.overlap) for one in found if one is not None))
    return sort_head(
        column.title,
        f"{METRICS[column.metric].title}{direction}",
        column.dataset.modality,
        f"n = {column.n:,}",
        [tag("span", f"overlap: {overlap}") for overlap in overlaps],
        tag("span", f"split {split}", class_="digest"),
        first="descending" if column.higher_is_better else "ascending",
    )


def _board_cell(board: Board, row: int, place: int) -> Markup:
    result = board.cells.get((row, place))
    if result is None:
        return number_cell(tag("span", "not run", class_="muted"), None)
    if isinstance(result, SkippedRecord):
        return number_cell(tag("span", "skipped", class_="muted", title=result.skipped), None)
    value, _, rest = str(result.metrics[result.primary]).partition(" ")
    seeds = result.seeds.get(result.primary)
    best = board.is_best(row, place)
    shown = tag("strong", value, tag("span", " best", class_="unseen"), class_="best") if best else value
    spread = tag("small", f"seeds ± {number(seeds.sd)}") if seeds and seeds.sd is not None else None
    return number_cell([shown, tag("small", rest), spread], result.value)


def _sortable(caption: str, heads: Sequence[Markup], rows: Sequence[Markup]) -> Markup:
    inner = tag(
        "table",
        table_caption(caption),
        tag("thead", tag("tr", heads)),
        tag("tbody", rows),
        class_="sortable",
    )
    return scrolling(inner, label=caption)
