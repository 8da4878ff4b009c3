"""Which models a command line means: addresses, or names of a pipeline's teachers and students."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evaluate.config import EvaluatePipeline
from store.config.problems import suggest
from store.errors import ConfigError
from train.runtime.run_folder import RECORD

from .addresses import Address, parse_addresses

MaybePipelineOption = Annotated[
    str | None, typer.Option("--pipeline", help="Whose teachers, students, datasets and folders are meant.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="NAME of the pipeline, or checkpoint:RUN, local-dir:DIR, teacher:NAME, open_clip:MODEL/TAG, "
        "store:STORE#TEACHER, each with NAME= before it if results are to be called so; may be repeated. "
        "All of the pipeline if left out.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Where models run: cpu or cuda.")]


def addresses_of(texts: list[str] | None, loaded: EvaluatePipeline | None) -> list[Address]:
    """Return addresses; a name without a kind is one of the pipeline's teachers or students."""
    if loaded is None:
        if not texts:
            raise ConfigError("no model is named", hint="--model ADDRESS, or --pipeline NAME for all of a pipeline")
        return parse_addresses(texts)
    known = {name: f"{name}=teacher:{name}" for name in loaded.teachers}
    students = {name: f"{name}=checkpoint:{student.out}" for name, student in loaded.train.students.items()}
    known |= students
    if texts is None:
        there = {name for name, student in loaded.train.students.items() if (Path(student.out) / RECORD).is_file()}
        return parse_addresses([text for name, text in known.items() if name not in students or name in there])
    unknown = [text for text in texts if ":" not in text and text not in known]
    if unknown:
        raise ConfigError(f"the pipeline has no model {unknown[0]!r}{suggest(unknown[0], known)}")
    return parse_addresses([known.get(text, text) for text in texts])
