"""``python -m extract``: draw or index a corpus, run the teachers over it, import a released cache."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from store.config import read_pipeline
from store.console import ExitCode, main, progress
from store.errors import ConfigError
from store.pipeline import PIPELINES_FILE, ConfigOption, PipelineOption, SetOption

from .config import ExtractPipeline

log = logging.getLogger("extract")

app = typer.Typer(help="Turn a corpus into a store of teacher features.", no_args_is_help=True, add_completion=False)


@app.command(epilog="Example: python -m extract phantom --out runs/phantom --rows 900 --seed 1")
def phantom(
    *,
    out: Annotated[Path | None, typer.Option(help="Folder to write the tars to.")] = None,
    rows: Annotated[int, typer.Option(help="How many pairs.")] = 900,
    seed: Annotated[int, typer.Option(help="Decides every pixel and word.")] = 0,
    modality: Annotated[str | None, typer.Option(help="Draw this modality only.")] = None,
    others: Annotated[float, typer.Option(help="With --modality: share of rows from the other modalities.")] = 0.0,
    size_px: Annotated[int, typer.Option("--size", help="Side of the images in pixels.")] = 64,
    split: Annotated[str, typer.Option(help="Written into every pair.")] = "train",
    pipeline: Annotated[str | None, typer.Option(help="Draw this pipeline's phantom corpora instead.")] = None,
    config: ConfigOption = PIPELINES_FILE,
    corpus: Annotated[list[str] | None, typer.Option(help="With --pipeline: only these.")] = None,
) -> None:
    """Draw a phantom corpus: nine modalities, WebDataset tars, deterministic. It is not patient data."""
    from .phantom import write_corpus

    if pipeline is not None:
        _draw_corpora(read_pipeline(config, pipeline, ExtractPipeline), corpus)
        return
    if out is None:
        raise typer.BadParameter("give --out FOLDER, or --pipeline NAME")
    summary = write_corpus(
        out, rows=rows, seed=seed, modality=modality, others=others, size_px=size_px, split=split, key_prefix=out.name
    )
    log.info("%s: %d pairs%s", out, rows, " are there already" if summary.reused else "")


def _draw_corpora(pipeline: ExtractPipeline, names: list[str] | None) -> None:
    from .phantom import write_corpus

    drawn = {name: corpus for name, corpus in pipeline.corpora.items() if corpus.phantom}
    unknown = sorted(set(names or []) - set(drawn))
    if unknown:
        raise ConfigError(f"no phantom corpus {', '.join(unknown)} in the pipeline; it has {', '.join(drawn)}")
    for name, corpus in drawn.items():
        if corpus.phantom and (not names or name in names):
            summary = write_corpus(Path(corpus.files[0]).parent, key_prefix=name, **corpus.phantom.model_dump())
            log.info("corpus %s: %d pairs%s", name, corpus.phantom.rows, " are there already" if summary.reused else "")


@app.command(epilog="Example: python -m extract index --pipeline demo")
def index(*, pipeline: PipelineOption, config: ConfigOption = PIPELINES_FILE, set_: SetOption = None) -> None:
    """Make the store's pair table from the corpus's WebDataset tars."""
    from store.corpus import corpus_files
    from store.create import index_corpus

    loaded = read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or [])
    if loaded.store.corpus not in loaded.corpora:
        raise ConfigError(f"store.corpus: the pipeline has no corpus {loaded.store.corpus!r}")
    corpus = loaded.corpora[loaded.store.corpus]
    with progress(len(corpus_files(corpus.files)), label="index", noun="shards") as advance:
        info, problems = index_corpus(
            Path(loaded.store.path),
            corpus,
            range_rows=loaded.store.range_rows,
            chunk_rows=loaded.store.chunk_rows,
            on_shard=advance,
        )
    if problems is None:
        log.info("%s holds these %d pairs already: nothing to do", loaded.store.path, info.rows)
        return
    for problem in problems[:20]:
        log.warning("%s", problem)
    if len(problems) > 20:
        log.warning("... and %d more pairs with unusual members", len(problems) - 20)
    log.info("%s: %d pairs in %d ranges of %d rows", loaded.store.path, info.rows, info.ranges, info.range_rows)


@app.command(epilog="Example: python -m extract run --pipeline demo")
def run(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
    replace: Annotated[list[str] | None, typer.Option(help="Teacher whose stored features may be dropped.")] = None,
    corpus_root: Annotated[Path | None, typer.Option(help="Where the corpus lies now, if it moved.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run the teachers over every pair that lacks their features. Kill it at any moment and run it again."""
    from .driver import execute_here
    from .driver import run as run_extraction

    loaded = read_pipeline(config, pipeline, ExtractPipeline, overrides=set_ or [])
    unknown = sorted(set(replace or []) - set(loaded.teachers))
    if unknown:
        raise ConfigError(f"--replace: the pipeline has no teacher {', '.join(unknown)}")

    def on_ray(*arguments: object) -> None:
        # Ray is imported only once there is work for it: a run that finds nothing to do ends in a second.
        from .ray_driver import execute_on_ray

        execute_on_ray(*arguments)  # type: ignore[arg-type]

    outcome = run_extraction(
        loaded, execute=execute_here if local else on_ray, replace=replace or [], corpus_root=corpus_root
    )
    if as_json:
        fields = ("units", "found", "done", "failed", "seconds")
        sys.stdout.write(json.dumps({name: getattr(outcome, name) for name in fields}, indent=1) + "\n")
    _say(outcome.units, outcome.found, outcome.done, outcome.seconds)
    for reason, count in outcome.bad_rows.most_common(10):
        log.warning("%d rows without feature: %s", count, reason)
    if outcome.failed:
        for range_id, error in outcome.failed.items():
            log.error("range %d was given up: %s", range_id, error)
        raise typer.Exit(ExitCode.QUARANTINED)


def _say(units: int, found: int, done: int, seconds: float) -> None:
    if found == units:
        log.info("all %d units are committed: nothing to do (%.1f s)", units, seconds)
    else:
        log.info("%d units committed, %d were there before, %d in all (%.1f s)", done, found, units, seconds)


@app.command(name="import-mmkd", epilog="Example: python -m extract import-mmkd MMKDCLIP_DATA runs/mmkd_demo/store")
def import_mmkd(
    source: Annotated[Path, typer.Argument(help="The folder with meta.jsonl and features/.")],
    store: Annotated[Path, typer.Argument(help="The store to make.")],
    *,
    range_rows: Annotated[int, typer.Option(help="Rows of a store shard.")] = 8192,
    chunk_rows: Annotated[int, typer.Option(help="Rows of a chunk.")] = 256,
) -> None:
    """Import the feature cache that MMKD-CLIP's authors released."""
    from .import_mmkd import import_mmkd as import_cache

    info = import_cache(source, store, range_rows=range_rows, chunk_rows=chunk_rows)
    log.info("%s: %d pairs imported", store, info.rows)


if __name__ == "__main__":
    main(app, program="python -m extract")
