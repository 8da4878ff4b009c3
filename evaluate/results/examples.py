"""Example test items that a result keeps in its details and the report shows.

``details["examples"]`` is a list of Example as JSON. Thumbnails are optional, small and inside the record, so that a
report needs no other file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from store.errors import EvaluationError

MOST_THUMBNAIL_BYTES = 32 * 1024
"""A thumbnail of that side has 3 to 6 KiB; larger ones are refused."""


def _small_jpeg(text: str) -> str:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
    if not data.startswith(b"\xff\xd8\xff"):
        raise ValueError("not a JPEG")
    if len(data) > MOST_THUMBNAIL_BYTES:
        raise ValueError(f"{len(data)} bytes are too many for a thumbnail; at most {MOST_THUMBNAIL_BYTES}")
    return text


Thumbnail = Annotated[str, AfterValidator(_small_jpeg)]
"""A small JPEG in base64."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Candidate(_Part):
    """One candidate that was found for a query.

    Attributes:
        text: a caption or answer; the image's id where an image was found.
        label: class of the item that it belongs to, in a dataset with classes.
        thumbnail_jpeg_base64: set if an image was found.
    """

    text: str
    correct: bool
    score: float | None = None
    label: str | None = None
    thumbnail_jpeg_base64: Thumbnail | None = None


class Example(_Part):
    """One test item.

    Attributes:
        kind: ``failure`` for a wrong answer, ``retrieval`` for a query with its candidates, ``sample`` for an item that
            was chosen without looking at any answer, so that all models have the same ones.
        target: the right class, answer or caption.
        predicted: the model's class or answer, or the first candidate.
        question: question about the image; for a search by text the text.
        label: class of the item of a search, in a dataset with classes.
        candidates: what was found, best first.
        thumbnail_jpeg_base64: the item's image; None if the item is a text.
    """

    id: str
    kind: Literal["failure", "retrieval", "sample"] = "failure"
    target: str
    predicted: str
    correct: bool = False
    question: str | None = None
    label: str | None = None
    candidates: list[Candidate] = []
    thumbnail_jpeg_base64: Thumbnail | None = None


def examples_in(details: Mapping[str, Any]) -> list[Example]:
    """Return the examples in a result's details; raise EvaluationError if they are not a list of examples."""
    found = details.get("examples", [])
    if not isinstance(found, list):
        raise EvaluationError(f"details.examples must be a list, not {type(found).__name__}")
    examples = []
    for number, example in enumerate(found):
        try:
            examples.append(Example.model_validate(example))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (number, *first["loc"])))
            raise EvaluationError(f"details.examples.{place}: {first['msg']}") from None
    return examples
