"""Every error that a user can cause or meet, as one tree.

    MMKDError                            base; the programs print it as one message and exit with 1
    ├── ConfigError (ValueError)         pipelines.yaml or a --set option is wrong; one line per problem
    ├── CorpusError                      a corpus cannot be read as image-text pairs
    │   └── PairDecodeError              one pair's image or caption cannot be used; ends no run
    ├── StoreError                       a feature store is not what it should be
    │   ├── StoreNotFoundError (FileNotFoundError)
    │   ├── FormatVersionError           written by a version this one does not read
    │   ├── SpecMismatchError            features of another teacher, corpus or projection
    │   ├── IncompleteStoreError         ranges lack receipts
    │   ├── CorruptChunkError            stored bytes are not those that were committed
    │   ├── LocationError                a disk or an object storage fails or refuses
    │   │   └── FetchError               a single file cannot be had from a host
    │   ├── LockLostError                another program took the lock of the store, or it ran out
    │   └── ObjectChangedError           an object was replaced since it was looked at
    ├── TeacherError                     a teacher cannot be used
    │   ├── WeightsNotFoundError (FileNotFoundError)
    │   └── ExtractionError              too many rows or workers failed
    ├── TrainingDivergedError            a loss is not finite
    └── EvaluationError                  a dataset, features or results cannot be evaluated

Errors cross process borders (Ray), so each survives pickling with its fields.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

TEXT_LETTERS = 300
"""Letters that are kept of a text from a corpus: names and values there may have any length."""


def shortened(text: str) -> str:
    """Return a text as one line of printable letters, of bounded length."""
    return printable(text if len(text) <= TEXT_LETTERS else text[: TEXT_LETTERS - 3] + "...")


def printable(text: str, *, keep: str = "") -> str:
    """Return a text in which control characters but those of ``keep`` are written out, for a terminal."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else repr(letter)[1:-1] for letter in text)


def plain(text: str, *, keep: str = "") -> str:
    """Return a text for a file, in which control characters, bidi overrides and lone surrogates are written out."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


def kind_of(reason: str) -> str:
    """Return a reason without the path or URL that it begins with, so that equal reasons can be counted."""
    return re.sub(r"^(?:/|\w+://).*?: (?=\D)", "", reason)


class MMKDError(Exception):
    """A problem that the user can act on.

    Args:
        message: what was wrong, where, and what was expected.
        hint: what to do next; printed on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(MMKDError, ValueError):
    """The configuration is wrong; the message holds one ``file:line: key: problem`` per line."""


class CorpusError(MMKDError):
    """A corpus cannot be read as image-text pairs."""


class PairDecodeError(CorpusError):
    """One pair's image or caption cannot be used; recorded in the receipt, never the end of a run.

    Args:
        message: is kept as one line of bounded length, since it may repeat what a stranger wrote.
        why: the message without names and numbers of the pair, by which such errors are counted.
    """

    def __init__(self, message: str, *, hint: str | None = None, why: str | None = None) -> None:
        super().__init__(shortened(message), hint=hint)
        self.why = why or "the image or caption cannot be used"


class StoreError(MMKDError):
    """A feature store is not what it should be."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no feature store at that place."""


class FormatVersionError(StoreError):
    """The store was written in a format version that this program does not read."""


class SpecMismatchError(StoreError):
    """The store holds features of another spec than the one in use."""


class IncompleteStoreError(StoreError):
    """Ranges that were asked for have no receipt yet."""


class CorruptChunkError(StoreError):
    """Stored bytes differ from what the receipt says was committed."""


class LocationError(StoreError):
    """A disk or an object storage fails, refuses, or is named in a way that cannot be opened."""


class FetchError(LocationError):
    """A single file cannot be had from a host.

    Args:
        why: the message without names and numbers, by which such errors are counted.
    """

    def __init__(self, message: str, *, hint: str | None = None, why: str = "") -> None:
        super().__init__(message, hint=hint)
        self.why = why


class LockLostError(StoreError):
    """The lock of a store is no longer held, so nothing more may be written."""


class ObjectChangedError(StoreError):
    """An object is another than when its stamp was taken; whoever knows why it was replaced may look again."""


class TeacherError(MMKDError):
    """A teacher cannot be used."""


class WeightsNotFoundError(TeacherError, FileNotFoundError):
    """A model folder lacks its weights or its configuration."""


class ExtractionError(TeacherError):
    """Extraction ended because too many rows or workers failed."""


class TrainingDivergedError(MMKDError):
    """A loss is not finite."""


class EvaluationError(MMKDError):
    """A dataset, features or results cannot be evaluated, or a number would have no meaning."""
