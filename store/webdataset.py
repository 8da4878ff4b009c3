"""WebDataset tars read once to learn where each pair's members lie; afterwards bytes are read by offset."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CorpusError

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})


END_BYTES = 1024
"""Zeros that end every tar (two blocks of 512 bytes)."""


@dataclass(kw_only=True, slots=True)
class TarPair:
    """What one key of a WebDataset tar holds.

    Attributes:
        key: the members' common name without suffix.
        offset, nbytes: where the image's bytes lie in the tar; None where it has no image.
        image: those bytes; empty where it has no image.
        caption: the ``.txt`` member; None where it has none.
        metadata: the ``.json`` member; empty where it has none or it is no JSON object.
        problems: what is wrong with the members, in words.
    """

    key: str
    offset: int | None = None
    nbytes: int | None = None
    image: bytes = b""
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_tar(path: Path) -> Iterator[TarPair]:
    """Yield the pairs of one tar in the order of their first members.

    Raises:
        CorpusError: the file is missing, not an uncompressed tar, or is cut short.
    """
    try:
        _require_end(path)
        with tarfile.open(path, "r:") as tar:
            pair: TarPair | None = None
            for member in tar:
                if not member.isfile():
                    continue
                key, suffix = _split(member.name)
                if pair is None or key != pair.key:
                    if pair is not None:
                        yield pair
                    pair = TarPair(key=key)
                _add_member(pair, suffix, member, _content(tar, member, path))
            _require_end_at(path, tar.offset)
            if pair is not None:
                yield pair
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: no such corpus shard") from error
    except (tarfile.TarError, EOFError) as error:
        raise CorpusError(
            f"{path}: cannot be read as an uncompressed tar: {error}",
            hint="if the download was cut short fetch the file again; a .tar.gz has to be unpacked to .tar first",
        ) from error


def _require_end(path: Path) -> None:
    """Refuse a tar cut at the border of a member, which tarfile would read to there without a word."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - END_BYTES))
        if file.read() != bytes(END_BYTES):
            raise tarfile.ReadError("it does not end with two empty blocks, so it is cut short or no tar")


def _require_end_at(path: Path, offset: int) -> None:
    """Refuse a damaged header, which tarfile takes for the archive's end without a word."""
    with path.open("rb") as file:
        file.seek(offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"what stands at byte {offset} is no member's header, so the file is damaged")


def _split(name: str) -> tuple[str, str]:
    # WebDataset's rule: the key ends at the first dot of the base name, the rest is the suffix.
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    file = tar.extractfile(member)
    content = file.read() if file else b""
    if len(content) != member.size:
        raise CorpusError(
            f"{path}: member {member.name!r} is cut short: {len(content)} of {member.size} bytes",
            hint="fetch the file again",
        )
    return content


def _add_member(pair: TarPair, suffix: str, member: tarfile.TarInfo, content: bytes) -> None:
    if suffix in IMAGE_SUFFIXES:
        if pair.offset is not None:
            pair.problems.append(f"a second image, {member.name!r}, was passed over")
            return
        pair.offset, pair.nbytes, pair.image = member.offset_data, member.size, content
    elif suffix == "txt":
        if pair.caption is not None:
            pair.problems.append(f"a second caption, {member.name!r}, was passed over")
            return
        pair.caption = content.decode("utf-8", errors="replace")
    elif suffix == "json":
        try:
            metadata = json.loads(content)
        except ValueError as error:
            pair.problems.append(f"{member.name!r} is not JSON: {error}")
            return
        if isinstance(metadata, dict):
            pair.metadata = metadata
        else:
            pair.problems.append(f"{member.name!r} holds no JSON object")
