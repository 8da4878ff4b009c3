"""Reads WebDataset tars once and notes the offset of each member, by which images are read later."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.corpus.fields import SourcePair
from store.errors import CorpusError
from store.io.object_file import open_object

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})

END_BYTES = 1024
"""Zeros that end every tar (two blocks of 512 bytes)."""


def read_tar(source: CorpusFile, account: Account) -> Iterator[SourcePair]:
    """Yield the pairs of one tar in the order of their first members.

    Raises:
        CorpusError: the file is missing, not an uncompressed tar, or is cut short.
    """
    try:
        with open_object(source.folder, source.name) as file:
            nbytes = _require_end(file)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield from _members(tar, source, account)
                _require_end_at(file, tar.offset, nbytes)
    except FileNotFoundError as error:
        raise CorpusError(f"{source.uri}: no such corpus file") from error
    except (tarfile.TarError, EOFError) as error:
        raise CorpusError(
            f"{source.uri}: cannot be read as an uncompressed tar: {error}",
            hint="if the download was cut short fetch the file again; a .tar.gz has to be unpacked to .tar first",
        ) from error


def _members(tar: tarfile.TarFile, source: CorpusFile, account: Account) -> Iterator[SourcePair]:
    pair: SourcePair | None = None
    for member in tar:
        # tarfile keeps every member for lookups that are not made here: 100 MB for 100,000 members.
        tar.members = []  # type: ignore[attr-defined]
        if not member.isfile():
            if not member.isdir():
                account.pass_over("no regular file", f"{source.uri}: {member.name}")
            continue
        account.members += 1
        key, suffix = _split(member.name)
        if pair is None or key != pair.key:
            if pair is not None:
                yield pair
            pair = SourcePair(key=key, record={"json": {}})
        _add_member(pair, suffix, member, _content(tar, member, source.uri), source.uri)
    if pair is not None:
        yield pair


def _require_end(file: BinaryIO) -> int:
    """Refuse a tar that was cut between two members; tarfile would read it without an error."""
    nbytes = file.seek(0, 2)
    file.seek(max(0, nbytes - END_BYTES))
    if file.read() != bytes(END_BYTES):
        raise tarfile.ReadError("it does not end with two empty blocks, so it is cut short or no tar")
    file.seek(0)
    return nbytes


def _require_end_at(file: BinaryIO, offset: int, nbytes: int) -> None:
    """Refuse a damaged header; tarfile takes it for the end of the archive, without an error."""
    file.seek(min(offset, nbytes))
    if any(file.read(tarfile.BLOCKSIZE)):
        raise tarfile.ReadError(f"what stands at byte {offset} is no member's header, so the file is damaged")


def _split(name: str) -> tuple[str, str]:
    # WebDataset's rule: the key ends at the first dot of the base name, the rest is the suffix.
    folder, _, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), suffix.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, uri: str) -> bytes:
    file = tar.extractfile(member)
    content = file.read() if file else b""
    if len(content) != member.size:
        raise CorpusError(
            f"{uri}: member {member.name!r} is cut short: {len(content)} of {member.size} bytes",
            hint="fetch the file again",
        )
    return content


def _add_member(pair: SourcePair, suffix: str, member: tarfile.TarInfo, content: bytes, uri: str) -> None:
    if suffix in IMAGE_SUFFIXES:
        if pair.member is not None:
            pair.passed.append(("second image of a key", member.name))
            return
        pair.uri, pair.image = uri, content
        pair.member = {"offset": member.offset_data, "nbytes": member.size}
    elif suffix == "txt":
        if "txt" in pair.record:
            pair.passed.append(("second caption of a key", member.name))
            return
        try:
            pair.record["txt"] = content.decode("utf-8")
        except UnicodeDecodeError as error:
            pair.changed.append(("not UTF-8, kept as \ufffd", f"{member.name}: from byte {error.start} on"))
            pair.record["txt"] = content.decode("utf-8", errors="replace")
    elif suffix == "json":
        try:
            metadata = json.loads(content)
        except ValueError as error:
            pair.passed.append(("not JSON", f"{member.name}: {error}"))
            return
        if isinstance(metadata, dict):
            pair.record["json"] = metadata
        else:
            pair.passed.append(("not JSON", f"{member.name} holds no JSON object"))
    else:
        pair.passed.append((f"suffix .{suffix} is not known", member.name))
