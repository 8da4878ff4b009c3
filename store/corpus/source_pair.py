"""One image of a corpus file with its record; every kind of corpus file yields these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True, slots=True)
class SourcePair:
    """One image of a corpus and its record, before fields are mapped.

    Attributes:
        record: what the corpus says of it: a tar's ``txt`` and ``json``, or the columns of a table.
        uri: path or URL of the file that holds the image; None where it has none.
        member: where in that file: ``offset`` and ``nbytes`` in a tar, ``column`` and ``row`` in a Parquet file; None
            where the file is the image.
    """

    key: str
    record: dict[str, Any]
    image: bytes | None = None
    uri: str | None = None
    member: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """A tar's ``.json``, a table's columns."""
        found = self.record.get("json", self.record)
        return found if isinstance(found, Mapping) else {}
