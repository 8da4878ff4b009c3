"""Counts what a corpus holds, what became of it, and why, so that nothing is left out in silence."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from store.errors import shortened


class Example(BaseModel):
    """A count of something, and the place of its first occurrence."""

    count: int = 0
    first: str = ""


class Account(BaseModel):
    """Counts of what a reader met in corpus files, and of what became of it.

    Attributes:
        members: entries of archives and folders, rows of tables and items of lists.
        keys: pairs or halves of pairs that these were joined to.
        pairs: images with a caption each, before any rule.
        usable: of those, how many have both.
        passed: by reason, what is in no row, or is half a pair.
        changed: by reason, what was altered before it was taken, such as captions with control characters.
        dropped: pairs by the rule of ``keep`` that was the first to refuse them.
        unmapped: labels that the modality map lacks, by how many images have no other.
    """

    files: int = 0
    members: int = 0
    keys: int = 0
    pairs: int = 0
    usable: int = 0
    passed: dict[str, Example] = {}
    changed: dict[str, Example] = {}
    dropped: Counter[str] = Counter()
    unmapped: Counter[str] = Counter()

    def pass_over(self, reason: str, what: str, *, count: int = 1) -> None:
        """Count what is passed over.

        Args:
            reason: one of few, without names or numbers of the corpus but for a suffix.
            what: where, and what was found there.
        """
        _count(self.passed, reason, Example(count=count, first=shortened(what)))

    def change(self, reason: str, what: str, *, count: int = 1) -> None:
        """Count what is altered; the arguments are those of `pass_over`."""
        _count(self.changed, reason, Example(count=count, first=shortened(what)))

    def add(self, other: Account) -> None:
        """Add what was met elsewhere, later."""
        for name in ("files", "members", "keys", "pairs", "usable", "dropped", "unmapped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, example in other.passed.items():
            _count(self.passed, reason, example)
        for reason, example in other.changed.items():
            _count(self.changed, reason, example)


def _count(counts: dict[str, Example], reason: str, example: Example) -> None:
    before = counts.get(reason)
    counts[reason] = Example(count=before.count + example.count, first=before.first) if before else example
