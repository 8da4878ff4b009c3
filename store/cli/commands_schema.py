"""``python -m store schema``: the JSON schemas of pipelines.yaml and of dataset files, for editors."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from store.pipeline import Pipeline

app = typer.Typer()

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""The dialect in which pydantic writes schemas."""

ANCHORS = r"^(\.|x-)"
"""Names in a pipeline file that hold anchors: anything may stand there."""


class Kind(StrEnum):
    """A kind of file."""

    PIPELINES = "pipelines"
    DATASETS = "datasets"


@app.command(epilog="Example: python -m store schema pipelines > docs/schema/pipelines.json")
def schema(
    kind: Annotated[Kind, typer.Argument(help="The kind of file.")] = Kind.PIPELINES,
) -> None:
    """Print the JSON schema of pipelines.yaml, all programs' sections included, or of dataset files, for editors."""
    sys.stdout.write(json.dumps(schema_of(kind)) + "\n")


def schema_of(kind: Kind) -> dict[str, Any]:
    """Return the JSON schema of a kind of file."""
    # Evaluation alone reads the sections of all programs; pyproject.toml allows these two by name.
    from evaluate.config import EvaluatePipeline
    from evaluate.datasets.entry import DatasetEntry

    if kind is Kind.DATASETS:
        return {"$schema": DIALECT, **DatasetEntry.model_json_schema()}
    one = EvaluatePipeline.model_json_schema()
    definitions = one.pop("$defs")
    # A program reads a pipeline that lacks the sections of others.
    one["required"] = Pipeline.model_json_schema()["required"]
    return {
        "$schema": DIALECT,
        "title": "pipelines.yaml",
        "type": "object",
        "patternProperties": {ANCHORS: {}},
        "additionalProperties": {"$ref": "#/$defs/Pipeline"},
        "$defs": {**definitions, "Pipeline": one},
    }
