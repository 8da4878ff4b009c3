"""``python -m extract phantom``, ``index``, ``append``, ``pixels``, ``import-mmkd``: corpora and their pair tables."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extract.config import ExtractPipeline
from store.cli.options import (
    PIPELINES_FILE,
    ConfigOption,
    PipelineOption,
    SeedOption,
    SetOption,
    options_of,
    print_json,
)
from store.config.missing import NAME, example_of, to_add
from store.config.pipeline_file import read_pipeline
from store.config.problems import it_has
from store.console import progress, say_next
from store.corpus.section import Corpus
from store.errors import ConfigError

from .commands_run import LocalOption, RootOption, end, on_ray

if TYPE_CHECKING:
    from extract.run.tracker import Outcome
    from store.index.curation_report import CurationReport

app = typer.Typer()
log = logging.getLogger("extract")

ReportOption = Annotated[
    bool,
    typer.Option("--report", help="Print the whole account as JSON: what was read, and what was passed over and why."),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes that read corpus files; one per core.")]


@app.command(epilog="Example: python -m extract phantom --out runs/phantom --rows 900 --seed 1")
def phantom(
    *,
    out: Annotated[Path | None, typer.Option(help="Folder to write the tars to.")] = None,
    rows: Annotated[int, typer.Option(help="Number of pairs.")] = 900,
    seed: SeedOption = 0,
    modality: Annotated[str | None, typer.Option(help="Draw this modality only.")] = None,
    others: Annotated[float, typer.Option(help="With --modality: share of rows from the other modalities.")] = 0.0,
    size_px: Annotated[int, typer.Option("--size", help="Side of the images in pixels.")] = 64,
    split: Annotated[str, typer.Option(help="The split of every pair.")] = "train",
    pipeline: Annotated[str | None, typer.Option(help="Draw this pipeline's phantom corpora instead.")] = None,
    config: ConfigOption = PIPELINES_FILE,
    corpus: Annotated[list[str] | None, typer.Option(help="With --pipeline: only these.")] = None,
) -> None:
    """Draw a phantom corpus: nine modalities, WebDataset tars, deterministic. It is not patient data."""
    from extract.corpora.phantom.corpus import PhantomSettings, write_corpus

    if pipeline is not None:
        _draw_corpora(read_pipeline(config, pipeline, ExtractPipeline), corpus)
        return
    if out is None:
        raise typer.BadParameter("give --out FOLDER, or --pipeline NAME")
    settings = PhantomSettings(
        rows=rows, seed=seed, modality=modality, others=others, size_px=size_px, split=split, key_prefix=out.name
    )
    with progress(rows, label="draw", noun="images") as advance:
        written = write_corpus(out, settings, advance)
    log.info("%s: %d pairs%s", out, rows, "" if written else " exist already")


def _draw_corpora(pipeline: ExtractPipeline, names: list[str] | None) -> None:
    from extract.corpora.phantom.corpus import PhantomSettings, write_corpus

    drawn = {name: corpus for name, corpus in pipeline.corpora.items() if corpus.phantom}
    unknown = sorted(set(names or []) - set(drawn))
    if unknown:
        raise ConfigError(f"no phantom corpus {', '.join(unknown)} in the pipeline{it_has(unknown[0], drawn)}")
    if not drawn:
        log.info("the pipeline has no phantom corpus: nothing to do")
    for name, corpus in drawn.items():
        if corpus.phantom and (not names or name in names):
            settings = PhantomSettings(key_prefix=name, **corpus.phantom.model_dump())
            with progress(corpus.phantom.rows, label=f"draw {name}", noun="images") as advance:
                written = write_corpus(Path(corpus.files[0]).parent, settings, advance)
            log.info("corpus %s: %d pairs%s", name, corpus.phantom.rows, "" if written else " exist already")


@app.command(epilog="Example: python -m extract index --pipeline demo --report")
def index(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    report: ReportOption = False,
    workers: WorkersOption = None,
) -> None:
    """Make the store's pair table from the corpus. Kill it at any moment and run it again.

    If the corpus has other rules than the store, --report says which rows they would add or drop; the store stays.
    """
    from store.corpus.corpus_files import corpus_files
    from store.format.pairs import PairTable, only_caption
    from store.index.create import index_corpus, settings_changed
    from store.index.curation_report import read_report
    from store.io.location import locate

    loaded = read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or [])
    corpus = _corpus_of(loaded, pipeline)
    if report and settings_changed(loaded.store.path, corpus):
        _say_change(loaded, corpus, workers)
        return
    with progress(len(corpus_files(corpus.files)), label="index", noun="files") as advance:
        info, found = index_corpus(
            loaded.store.path,
            corpus,
            range_rows=loaded.store.range_rows,
            chunk_rows=loaded.store.chunk_rows,
            workers=workers,
            on_shard=advance,
        )
    if found is None:
        known = read_report(locate(loaded.store.path), info)
        if report and known is not None:
            _print_json(known)
        log.info("%s holds these %d pairs already: nothing to do", loaded.store.path, info.rows)
        return
    _say(found, as_json=report)
    caption = only_caption(PairTable(locate(loaded.store.path), info), info)
    if caption is not None:
        log.warning("all %d captions are the same, %r; is that the caption's field?", info.rows, caption[:80])
    log.info("%s: %d pairs in %d ranges of %d rows", loaded.store.path, info.rows, info.ranges, info.range_rows)
    options = options_of(pipeline, config)
    say_next(
        f"python -m extract plan {options}  # says what a run takes",
        f"python -m extract run {options}  # makes the features",
    )


@app.command(epilog="Example: python -m extract append --pipeline mmkd")
def append(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    report: ReportOption = False,
    workers: WorkersOption = None,
) -> None:
    """Add the pairs of corpus files that are new since the store was made, as rows after the old ones."""
    from store.index.append import append_corpus, new_files
    from store.io.location import locate

    loaded = read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or [])
    corpus, location = _corpus_of(loaded, pipeline), locate(loaded.store.path)
    before, plan = new_files(location, corpus)
    if not plan.files:
        append_corpus(location, corpus)  # clears away what a killed one has left
        log.info("%s holds all %d files of the corpus already: nothing to do", location, len(before.corpus["files"]))
        return
    with progress(len(plan.files), label="append", noun="files") as advance:
        info, found = append_corpus(location, corpus, workers=workers, on_file=advance)
    if found is not None:
        _say(found, as_json=report)
    log.info("%s: %d rows more, %d in all", location, info.rows - before.rows, info.rows)
    say_next(f"python -m extract run {options_of(pipeline, config)}  # makes their features")


def _corpus_of(loaded: ExtractPipeline, pipeline: str) -> Corpus:
    named = loaded.store.corpus
    lacks = [((pipeline, "corpora", named or NAME), example_of(Corpus))] if named or not loaded.corpora else []
    if named is None:
        lacks.append(((pipeline, "store", "corpus"), next(iter(loaded.corpora), NAME)))
        raise ConfigError("store.corpus: missing; it says which of corpora the store holds", hint=to_add(*lacks))
    if named not in loaded.corpora:
        raise ConfigError(
            f"store.corpus: the pipeline has no corpus {named!r}{it_has(named, loaded.corpora)}", hint=to_add(*lacks)
        )
    return loaded.corpora[named]


def _say(report: CurationReport, *, as_json: bool) -> None:
    """Print the account of an index: as JSON to standard output, or as text to standard error beside the messages."""
    from store.index.curation_report import render

    if as_json:
        _print_json(report)
    else:
        sys.stderr.write(render(report))


def _print_json(report: CurationReport) -> None:
    print_json(report.model_dump(mode="json", exclude={"before"}))


def _say_change(pipeline: ExtractPipeline, corpus: Corpus, workers: int | None) -> None:
    from store.corpus.corpus_files import corpus_files
    from store.index.rule_change import rule_change

    with progress(len(corpus_files(corpus.files)), label="compare", noun="files") as advance:
        change = rule_change(pipeline.store.path, corpus, workers=workers, on_file=advance)
    _print_json(change.report)
    for verb, count, keys in (
        ("add", change.added, change.first_added),
        ("drop", change.dropped, change.first_dropped),
    ):
        more = ", ..." if count > len(keys) else ""
        log.info(
            "the present settings would %s %d rows%s%s%s", verb, count, ": " if keys else "", ", ".join(keys), more
        )
    log.info("%s: left as it is; to have these rows, index into a new store", pipeline.store.path)


@app.command(epilog="Example: python -m extract pixels --pipeline mmkd --threads 16")
def pixels(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    local: LocalOption = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of a worker; with --local one per core, else extract.decode_threads."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Drop stored images of another spec.")] = False,
    corpus_root: RootOption = None,
) -> None:
    """Store small copies of the images, so that training needs no corpus. Kill it at any moment and run it again."""
    from extract.run.dispatch import execute_here
    from extract.run.pixels import make_pixels
    from store.format.pixels import PixelSpec

    loaded = read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or [])
    if loaded.pixels is None:
        raise ConfigError(
            f"{config}: pipeline {pipeline} does not say how the store keeps images (pixels:)",
            hint=f"{to_add(((pipeline, 'pixels'), {}))}\nor --set 'pixels={{}}': short side 256 px, JPEG of quality 90",
        )
    made = make_pixels(
        loaded.store.path,
        PixelSpec.of(loaded.pixels, window=loaded.image.bounds),
        settings=loaded.extract,
        execute=execute_here if local else on_ray,
        corpus_root=corpus_root,
        allow=loaded.readable(),
        threads=threads or (None if local else loaded.extract.decode_threads),
        max_pixels=loaded.max_pixels,
        replace=replace,
    )
    _say_pixels(made)
    end(made)


def _say_pixels(made: Outcome) -> None:
    for reason, count in made.bad_rows.most_common(10):
        log.warning("%d images are not kept: %s", count, reason.partition(": ")[2])
    if made.found < made.units:
        log.info("%d ranges of images made (%.1f s)", made.done, made.seconds)
    else:
        log.info("the store has the images of all %d ranges: nothing to do", made.units)


@app.command(name="import-mmkd", epilog="Example: python -m extract import-mmkd MMKDCLIP_DATA runs/mmkd_demo/store")
def import_mmkd(
    source: Annotated[Path, typer.Argument(help="The folder with meta.jsonl and features/.")],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
    *,
    range_rows: Annotated[int, typer.Option(help="Rows of a store shard.")] = 8192,
    chunk_rows: Annotated[int, typer.Option(help="Rows of a chunk.")] = 256,
    pixels: Annotated[bool, typer.Option(help="Keep the images in the store, which then needs no source.")] = True,
) -> None:
    """Import the feature cache that MMKD-CLIP's authors released."""
    from extract.corpora.import_mmkd import import_mmkd as import_cache
    from extract.run.pixels import make_pixels
    from store.format.pixels import Pixels, PixelSpec

    info = import_cache(source, store, range_rows=range_rows, chunk_rows=chunk_rows)
    log.info("%s: %d pairs imported", store, info.rows)
    if pixels:
        made = make_pixels(store, PixelSpec.of(Pixels()), corpus_root=source)
        _say_pixels(made)
        end(made)
