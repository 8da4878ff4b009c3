"""``python -m store report``: one page about a store, or the same as data."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from store.console import say
from store.files import write_atomic
from store.read.reader import FeatureStore
from store.report.contents import SAMPLE, collect

from .options import AllowOption, CorpusRootOption, JsonOption, SeedOption, StoreArgument, print_json
from .tables import print_next

app = typer.Typer()

log = logging.getLogger(__name__)


@app.command(epilog="Example: python -m store report runs/demo/store --out report.html")
def report(
    store: StoreArgument,
    *,
    out: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    sample: Annotated[
        int, typer.Option("--sample", min=2, help="Read the features of at most this many rows.")
    ] = SAMPLE,
    seed: SeedOption = 0,
    teacher: Annotated[str | None, typer.Option(help="Teacher of the map; one with most rows if left out.")] = None,
    corpus_root: CorpusRootOption = None,
    allow: AllowOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one page about a store: coverage, agreement, a map, neighbours, what is bad, origin, timings."""
    if out is None and not as_json:
        raise typer.BadParameter("give --out FILE for the page, --json for the data, or both")
    began = time.monotonic()
    opened = FeatureStore(store, corpus_root=corpus_root, allow=allow or [])
    contents = collect(opened, sample=sample, seed=seed, teacher=teacher, images=out is not None)
    if out is not None:
        from store.report.page import render

        page = render(contents).encode()
        write_atomic(out, page)
        read = f"{contents.sample:,} of {contents.of_rows:,} rows, seed {contents.seed}"
        log.info("%s: %.1f MB about %s, %.0f s", out, len(page) / 1e6, read, time.monotonic() - began)
        if contents.pictures.missing:
            log.warning("%d images are not shown: %s", contents.pictures.missing, contents.pictures.why)
    if as_json:
        print_json(contents.as_json())
        return
    say(str(out))
    print_next(["open it in a browser"])
