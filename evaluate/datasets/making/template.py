"""A commented YAML file from which a user's own dataset begins, for each format."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

FILE = Path(__file__).parent / "new.yaml"


def template(name: str, *, format_: str, path: str) -> str:
    """Return a commented dataset file that is valid as it is; ``path`` is for the command in its first line."""
    text = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701 - no HTML
    labelled = format_ not in ("vqa_json", "survival_table")
    return text.from_string(FILE.read_text()).render(name=name, format=format_, path=path, labelled=labelled)
