"""Reads tars: first every header, then the members that are taken, by the offsets by which they are read later too."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.corpus.fields import SourcePair
from store.errors import CorpusError, PairDecodeError
from store.io.object_file import BLOCK_BYTES

from .members import PLAIN_RULES, Joined, Member, NameRules, join, source_pair
from .opened import JUMP_BYTES, Window, open_archive

MAGICS = {
    b"\x1f\x8b": ("gzip", "gzip -dk"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -d"),
    b"BZh": ("bzip2", "bzip2 -dk"),
    b"\xfd7zXZ": ("xz", "xz -dk"),
}
"""First bytes of compressed files, by what they were compressed with and what unpacks them."""

ZEROS_BYTES = 2**20


def read_tar(source: CorpusFile, account: Account, rules: NameRules = PLAIN_RULES) -> Iterator[SourcePair]:
    """Yield the pairs of one tar in the order of their first members; members of a pair may lie anywhere.

    Raises:
        CorpusError: the file is missing, not an uncompressed tar, is cut short, or has bytes behind its end that are no
            further tar.
    """
    with open_archive(source, _mean_bytes) as file:
        _refuse_other_kinds(file, source)
        try:
            joined = join(_members(file, source, account), rules, account, source.uri)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise CorpusError(
                f"{source.uri}: cannot be read as an uncompressed tar: {error}",
                hint="if the download was cut short fetch the file again",
            ) from error

        def read(member: Member) -> bytes:
            file.seek(member.place)
            content = file.read(member.nbytes)
            if len(content) != member.nbytes:
                raise PairDecodeError(f"{len(content)} of {member.nbytes} bytes")
            return content

        for found in joined:
            _expect(file, found)
            pair = source_pair(found, read)
            if found.image is not None and pair.image is not None:
                pair.uri, pair.member = source.uri, {"offset": found.image.place, "nbytes": found.image.nbytes}
            yield pair


def _expect(file: Window, found: Joined) -> None:
    """Read the members of a pair at once where they lie side by side."""
    members = [*found.texts.values(), *([found.image] if found.image else [])]
    start = min((member.place for member in members), default=0)
    stop = max((member.place + member.nbytes for member in members), default=0)
    if stop - start <= sum(member.nbytes for member in members) + JUMP_BYTES:
        file.expect(start, stop)


def _mean_bytes(file: Window) -> float:
    """Return the mean size of the members whose headers lie in the first block."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            count = 0
            while tar.offset < BLOCK_BYTES and tar.next() is not None:
                count += 1
            return tar.offset / max(count, 1)
    except tarfile.TarError:
        return 0.0


def _refuse_other_kinds(file: Window, source: CorpusFile) -> None:
    file.seek(0)
    start = file.read(6)
    for magic, (name, command) in MAGICS.items():
        if start.startswith(magic):
            raise CorpusError(
                f"{source.uri}: cannot be read as an uncompressed tar: it is compressed with {name}, so that no image "
                "in it could be read without all before it",
                hint=f"it has to be unpacked to a .tar first: {command} {source.plain_name}",
            )
    if start.startswith(b"PK\x03\x04"):
        raise CorpusError(
            f"{source.uri}: it is a zip and no tar", hint="say format: zip in the corpus, or name it .zip"
        )
    file.seek(0)


def _members(file: Window, source: CorpusFile, account: Account) -> Iterator[Member]:
    """Yield the regular members of a tar, and of further ones behind its end mark, as ``cat`` puts them there."""
    begin = 0
    while begin < file.nbytes or begin == 0:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                # tarfile keeps every member for lookups that are not made here: 100 MB for 100,000 members.
                tar.members = []  # type: ignore[attr-defined]
                if member.isfile() and not member.issparse():
                    yield Member(member.name, member.size, member.offset_data)
                elif not member.isdir():
                    account.members += 1
                    account.pass_over(f"no regular file: {_kind(member)}", f"{source.uri}: {member.name}")
            end = tar.offset
        rest = _behind_zeros(file, end)
        if rest == end < file.nbytes:
            what = "neither zeros nor a further tar" if begin == end else "no member's header, so the file is damaged"
            raise tarfile.ReadError(f"what stands at byte {end} is {what}")
        if rest == end:
            raise tarfile.ReadError("it does not end with two empty blocks, so it is cut short or no tar")
        if rest < file.nbytes:
            account.change("tars behind the end mark of one are read too", f"{source.uri}: from byte {rest} on")
        begin = rest


def _kind(member: tarfile.TarInfo) -> str:
    if member.isfile():
        return "sparse"
    return "link" if member.islnk() or member.issym() else "device, pipe or other"


def _behind_zeros(file: Window, start: int) -> int:
    """Return where the first block begins that is not all zeros, or the end of the file."""
    file.seek(start)
    while block := file.read(ZEROS_BYTES):
        rest = block.lstrip(b"\0")
        if rest:
            found = file.tell() - len(rest)
            return found - (found - start) % tarfile.BLOCKSIZE
    return file.nbytes
