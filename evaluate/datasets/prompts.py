"""Prompts of classes: the template sets that datasets share, and templates filled with names and synonyms."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field

from evaluate.config import fillable
from store.config.pipeline_file import Section
from store.config.problems import suggest

FILE = Path(__file__).parent / "templates.yaml"

Form = Annotated[list[str], Field(min_length=2, max_length=2)]
"""A template that says that a class is there, and the same that it is not."""


class ClassText(Section):
    """The words of a class in prompts: its own prompts take the place of the templates.

    A synonym is put into every template beside the name.
    """

    name: str
    synonyms: list[str] = []
    prompts: list[str] = []


class TemplateSet(Section):
    """A template set: ``image`` is the name of its images with an article, ``more`` the forms of its own literature."""

    image: str
    more: list[Form] = []


class TemplateFile(Section):
    """The file of template sets."""

    forms: list[Form]
    sets: dict[str, TemplateSet]


@functools.cache
def template_file() -> TemplateFile:
    """Return the sets that are shipped."""
    return TemplateFile.model_validate(yaml.safe_load(FILE.read_text()))


def known_set(name: str) -> str:
    """Return the name of a template set; raise ValueError if there is no such set."""
    sets = template_file().sets
    if name not in sets:
        raise ValueError(f"no template set {name!r}{suggest(name, sets)}; there are {', '.join(sets)}")
    return name


Template = Annotated[str, AfterValidator(fillable)]

SetName = Annotated[str, AfterValidator(known_set)]


def with_sets(own: Sequence[str], sets: Sequence[str], *, negative: bool = False) -> list[str]:
    """Return templates: a dataset's own first, then those of its sets, each once."""
    known = template_file()
    found = dict.fromkeys(own)
    for chosen in (known.sets[name] for name in sets):
        words = {"image": chosen.image, "bare": chosen.image.partition(" ")[2], "label": "{label}"}
        found |= dict.fromkeys(form[negative].format_map(words) for form in (*known.forms, *chosen.more))
    return list(found)


def filled(texts: Sequence[str | ClassText], templates: Sequence[str], *, group: str | None = None) -> list[list[str]]:
    """Return the prompts of each class: its own, else every template with its name and each of its synonyms."""
    found = []
    for text in texts:
        words = ClassText(name=text) if isinstance(text, str) else text
        names = (words.name, *words.synonyms)
        found.append(words.prompts or [each.format(label=name, group=group) for each in templates for name in names])
    return found


def one_by_one(
    texts: Sequence[str | ClassText], templates: Sequence[str], *, group: str | None = None
) -> dict[str, list[list[str]]]:
    """Return, by template, the prompts of each class if it were the only template.

    A class with prompts of its own has all of them each time. Where all classes have as many prompts of their own,
    the n-th of each stand for the n-th template.
    """
    own = [text.prompts if isinstance(text, ClassText) else [] for text in texts]
    if not all(own):
        return {template: filled(texts, [template], group=group) for template in templates}
    same = len({len(prompts) for prompts in own}) == 1
    return {f"prompt {place + 1}": [[prompts[place]] for prompts in own] for place in range(len(own[0]) if same else 0)}
