"""Embeddings of a dataset's classes: of all its prompts together, and of each template alone.

Axes: E embedding width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluate.datasets.entry import DatasetEntry
from evaluate.models.encoders import Embeddings
from evaluate.tasks.zero_shot import prompt_ensemble

PRESENT, ABSENT = "present", "absent"
"""Prompts that say that a class is there, and that it is not."""

Parts = Mapping[str, list[list[str]]]
"""The prompts of each class, by group of the dataset, else under PRESENT and ABSENT."""


@dataclass(kw_only=True, frozen=True, slots=True)
class ClassEmbeddings:
    """Class embeddings by part, see ``Parts``.

    Attributes:
        prompts: all prompts as JSON, in the form whose digest a record holds.
        whole: by part (K, E), of all prompts.
        single: by template and part, of that template alone.
    """

    prompts: Any
    whole: dict[str, Embeddings]
    single: dict[str, dict[str, Embeddings]]


def class_embeddings(
    entry: DatasetEntry, encode_text: Callable[[Sequence[str]], Embeddings], *, several: bool
) -> ClassEmbeddings:
    """Return the embeddings of a dataset's classes; each text is encoded once.

    Args:
        several: whether an image may have several classes, so that prompts that deny them are needed too.
    """
    whole: Parts
    single: dict[str, Parts]
    if entry.groups:
        whole = {group: entry.prompts(group=group) for group in entry.groups}
        by_group = {group: entry.single_prompts(group=group) for group in entry.groups}
        # A class's own prompts, numbered, may be more in one group than in another.
        shared = [
            template for template in by_group[next(iter(by_group))] if all(template in of for of in by_group.values())
        ]
        single = {template: {group: of[template] for group, of in by_group.items()} for template in shared}
        prompts: Any = whole
    elif several:
        whole = {PRESENT: entry.prompts(), ABSENT: entry.prompts(negative=True)}
        denied = list(entry.single_prompts(negative=True).values())
        # The n-th template goes with the n-th that denies; the shorter list begins again.
        single = {
            template: {PRESENT: own, ABSENT: denied[place % len(denied)]}
            for place, (template, own) in enumerate(entry.single_prompts().items())
        }
        prompts = list(whole.values())
    else:
        whole = {PRESENT: entry.prompts()}
        single = {template: {PRESENT: own} for template, own in entry.single_prompts().items()}
        prompts = whole[PRESENT]
    texts = list(dict.fromkeys(prompt for part in whole.values() for own in part for prompt in own))
    rows_PE = encode_text(texts)
    places = {text: place for place, text in enumerate(texts)}

    def known(asked: Sequence[str]) -> Embeddings:
        return rows_PE[[places[text] for text in asked]]

    return ClassEmbeddings(
        prompts=prompts,
        whole={part: prompt_ensemble(known, own) for part, own in whole.items()},
        single={
            template: {part: prompt_ensemble(known, own) for part, own in parts.items()}
            for template, parts in single.items()
        },
    )
