"""``python -m train curves``: the metrics of runs side by side."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from store.errors import ConfigError, plain
from store.files import write_atomic

log = logging.getLogger("train")
app = typer.Typer()


@app.command(
    epilog="Example: python -m train curves runs/demo/students/distilled runs/demo/students/task_only --out curves.html"
)
def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, also of unfinished ones.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .svg or .html.")],
) -> None:
    """Draw loss, learning rate, logit scale and validation of runs side by side as one file that needs no other."""
    from train.runtime.curves import drawn, page, runs_by_label

    if out.suffix not in (".svg", ".html"):
        raise ConfigError(f"--out {out}: a drawing is an .svg or an .html", hint=f"--out {out.with_suffix('.html')}")
    drawing = drawn(runs_by_label(runs))
    write_atomic(out, plain(drawing if out.suffix == ".svg" else page(drawing), keep="\n").encode())
    log.info("%s: %d runs", out, len(runs))
