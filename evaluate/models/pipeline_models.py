"""The models that a command line names: addresses, or a pipeline's teachers and students."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from evaluate.config import EvaluatePipeline
from store.config.problems import it_has
from store.errors import ConfigError, WeightsNotFoundError
from train.runtime.run_folder import RECORD

from .addresses import Address, parse_addresses

log = logging.getLogger(__name__)

MaybePipelineOption = Annotated[
    str | None, typer.Option("--pipeline", help="The pipeline with the teachers, students, datasets and folders.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="NAME of the pipeline, or checkpoint:RUN, local-dir:DIR, teacher:NAME, open_clip:MODEL/TAG, "
        "store:STORE#TEACHER; NAME= before an address names the results; may be repeated. "
        "All of the pipeline if left out.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="Run the models on this device: cpu or cuda.")]


def addresses_of(texts: list[str] | None, loaded: EvaluatePipeline | None) -> list[Address]:
    """Return addresses; a name without a kind is one of the pipeline's teachers or students.

    Without names these are all teachers, and all students that are trained.

    Raises:
        ConfigError: an address is wrong, or the pipeline has no such model.
        WeightsNotFoundError: a student that is named is not trained yet.
    """
    if loaded is None:
        if not texts:
            raise ConfigError("no model is named", hint="--model ADDRESS, or --pipeline NAME for all of a pipeline")
        return parse_addresses(texts)
    known = {name: f"{name}=teacher:{name}" for name in loaded.teachers}
    for name, student in loaded.train.students.items():
        if name in known:
            raise ConfigError(f"train.students.{name}: a teacher has that name already")
        known[name] = f"{name}=checkpoint:{student.out}"
    unknown = [text for text in texts or [] if ":" not in text and text not in known]
    if unknown:
        raise ConfigError(f"the pipeline has no model {unknown[0]!r}{it_has(unknown[0], known)}")
    students = {name: Path(student.out) / RECORD for name, student in loaded.train.students.items()}
    untrained = [name for name in texts or known if name in students and not students[name].is_file()]
    command = f"python -m train distill --pipeline NAME {' '.join(f'--student {name}' for name in untrained)}"
    if untrained and texts:
        missing = "\n".join(f"{name}: not trained yet: there is no {students[name]}" for name in untrained)
        raise WeightsNotFoundError(missing, hint=command)
    if untrained:
        log.warning("not trained yet, so left out: %s; %s trains what is missing", ", ".join(untrained), command)
    return parse_addresses([known.get(text, text) for text in texts or known if text not in untrained])
