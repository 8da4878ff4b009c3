"""``python -m train export``, ``convert-released``: models as folders that plain open_clip loads."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Annotated

import typer

from store.console import say_next

log = logging.getLogger("train")
app = typer.Typer()

OutOption = Annotated[Path, typer.Option("--out", help="The folder to make.")]
TextOption = Annotated[
    Path | None, typer.Option("--text", help="Folder with config.json and tokenizer of the text tower; else the hub.")
]


@app.command(
    epilog="Example: python -m train export runs/demo/students/distilled --store runs/demo/store --out student"
)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    *,
    out: OutOption,
    store: Annotated[
        str | None, typer.Option(help="The store of a distilled student; it states the teachers' terms.")
    ] = None,
    text: TextOption = None,
    results: Annotated[Path | None, typer.Option(help="Markdown or JSON for the model card.")] = None,
) -> None:
    """Write a run's model as a folder that plain open_clip loads, with a model card."""
    from train.export.student_folder import export as write

    write(run, out, store=store, text=text, results=results)
    _say_written(out)


@app.command(
    name="convert-released", epilog="Example: python -m train convert-released MMKD_B16.pth --out weights/mmkd_b16"
)
def convert_released(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="The authors' MMKD_B16.pth.")],
    *,
    out: OutOption,
    text: TextOption = None,
) -> None:
    """Write the student that MMKD-CLIP's authors released as a folder that plain open_clip loads."""
    from train.export.released import convert_released as convert

    convert(checkpoint, out, text=text)
    _say_written(out)


def _say_written(out: Path) -> None:
    log.info("%s: open_clip loads it as local-dir:%s", out, out.absolute())
    say_next(
        f"cat {shlex.quote(str(out / 'README.md'))}  # is the model card, with the terms",
        f"python -m evaluate run --model {shlex.quote(f'local-dir:{out}')}  # on the datasets that are here",
    )
