"""Rules that choose pairs while a corpus is indexed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from pydantic import Field

from store.config.pipeline_file import Section
from store.texts.language import is_english

from .near_duplicates import MAX_DISTANCE

MAPPED = ("key", "caption", "modality", "split", "source", "license")
"""Columns that a label rule may name instead of a path."""


class Bounds(Section):
    """A range of numbers, both ends included."""

    at_least: int | None = Field(default=None, ge=0)
    at_most: int | None = Field(default=None, ge=0)

    def hold(self, value: int) -> bool:
        """Return whether a number lies between them."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


class LabelRule(Section):
    """Values that a field must have or must not have, whatever their case."""

    field: str = Field(min_length=1)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class ImageRule(Section):
    """Bounds of an image's size; an image whose size cannot be read is refused."""

    side_px: Bounds = Bounds()
    max_aspect: float | None = Field(default=None, ge=1)


class Keep(Section):
    """Rules that a pair must pass, in this order; the first rule that refuses a pair counts it."""

    labels: tuple[LabelRule, ...] = ()
    known_modality: bool = False
    caption_words: Bounds | None = None
    caption_characters: Bounds | None = None
    language: Literal["en"] | None = None
    image: ImageRule | None = None
    licenses: tuple[str, ...] | None = None
    duplicates: Literal["image", "pair"] | None = None
    near_duplicates: int | None = Field(default=None, ge=0, le=MAX_DISTANCE)

    def raw_paths(self) -> list[str]:
        """Return the dotted paths that label rules need."""
        return list(dict.fromkeys(rule.field for rule in self.labels if rule.field not in MAPPED))

    def names(self) -> list[str]:
        """Return the rules in use by name, in the order in which they are applied."""
        rules = [name for name, _ in pair_rules(self)]
        rules += [f"duplicates: {self.duplicates}"] if self.duplicates else []
        return rules + ([f"near_duplicates: {self.near_duplicates}"] if self.near_duplicates is not None else [])


Row: TypeAlias = Mapping[str, Any]
"""A pair's columns of the pair table."""

Raw: TypeAlias = Mapping[str, Sequence[str]]
"""A pair's texts at the paths of label rules."""

PairRule: TypeAlias = tuple[str, Callable[[Row, Raw], bool]]
"""The name of a rule that looks at one pair alone, and whether it keeps a pair."""


def pair_rules(keep: Keep) -> list[PairRule]:
    """Return the rules that look at one pair alone, in the order in which they are applied."""
    rules: list[PairRule] = [(f"labels: {rule.field}", _label(rule)) for rule in keep.labels]
    if keep.known_modality:
        rules.append(("known_modality", lambda row, _: row["modality"] is not None))
    if keep.caption_words:
        words = keep.caption_words
        rules.append(("caption_words", lambda row, _: words.hold(len((row["caption"] or "").split()))))
    if keep.caption_characters:
        length = keep.caption_characters
        rules.append(("caption_characters", lambda row, _: length.hold(len(row["caption"] or ""))))
    if keep.language:
        rules.append((f"language: {keep.language}", lambda row, _: is_english(row["caption"] or "")))
    if keep.image:
        rules.append(("image", _size(keep.image)))
    if keep.licenses is not None:
        allowed = {_fold(name) for name in keep.licenses}
        rules.append(("licenses", lambda row, _: _fold(row["license"] or "") in allowed))
    return rules


def first_refusal(rules: Sequence[PairRule], row: Row, raw: Raw) -> str | None:
    """Return the name of the first rule that refuses a pair, None if all keep it."""
    return next((name for name, keeps in rules if not keeps(row, raw)), None)


def _fold(text: str) -> str:
    return text.strip().casefold()


def _label(rule: LabelRule) -> Callable[[Row, Raw], bool]:
    include, exclude = ({_fold(name) for name in names} for names in (rule.include, rule.exclude))

    def keeps(row: Row, raw: Raw) -> bool:
        if rule.field in MAPPED:
            value = row[rule.field]
            found = {_fold(value)} if value is not None else set()
        else:
            found = {_fold(value) for value in raw[rule.field]}
        return (not include or bool(found & include)) and not found & exclude

    return keeps


def _size(rule: ImageRule) -> Callable[[Row, Raw], bool]:
    def keeps(row: Row, _: Raw) -> bool:
        width, height = row["width"], row["height"]
        if not width or not height:
            return False
        shorter, longer = sorted((width, height))
        return rule.side_px.hold(shorter) and (rule.max_aspect is None or longer <= rule.max_aspect * shorter)

    return keeps
