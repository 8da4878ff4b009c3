"""Reads the chunks of a PNG that Pillow does not: its significant bits; and leaves out those that no pixel needs."""

from __future__ import annotations

from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"

UNREAD = frozenset({b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf"})
"""Chunks that change no pixel here: profiles, texts, camera data. A small one may expand to gigabytes, and Pillow
refuses a whole image for a profile of more than 1 MiB."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Png:
    """A PNG for Pillow.

    Attributes:
        data: the file without the chunks of `UNREAD`.
        depth: bits of a sample, 1 to 16; 0 where the header is cut short.
        significant: bits of a sample that its ``sBIT`` chunk calls significant, the largest of its channels.
    """

    data: bytes
    depth: int
    significant: int | None


def read_png(data: bytes) -> Png:
    """Read a PNG's chunks up to its first pixels; what is cut short or damaged is left for Pillow to judge."""
    kept, begun, position, significant = [], 0, len(SIGNATURE), None
    while position + 8 <= len(data):
        name = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if name == b"IEND" or end > len(data):
            break
        if name == b"sBIT" and end > position + 12:
            stated = max(data[position + 8 : end - 4])
            significant = stated if stated <= 16 else None  # no sample has more
        if name in UNREAD:
            kept.append(data[begun:position])
            begun = end
        position = end
    kept.append(data[begun:])
    return Png(data=b"".join(kept) if begun else data, depth=data[24] if len(data) > 24 else 0, significant=significant)
