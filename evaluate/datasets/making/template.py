"""A commented YAML file from which a user's own dataset begins, for each format."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, StrictUndefined

FILE = Path(__file__).parent / "new.yaml"
SCHEMA = Path(__file__).parents[3] / "docs/schema/datasets.json"


def template(name: str, *, format_: str, path: str) -> str:
    """Return a commented dataset file that is valid as it is.

    Args:
        path: the file's place, for the command and the JSON schema that its first lines name.
    """
    schema = Path(os.path.relpath(SCHEMA, Path(path).absolute().parent)).as_posix()
    text = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    labelled = format_ not in ("vqa_json", "survival_table")
    return text.from_string(FILE.read_text()).render(
        name=name, format=format_, path=path, labelled=labelled, schema=schema
    )
