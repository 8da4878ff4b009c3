"""Reads zips: stored images are later read by their offset, deflated ones by offset too and then inflated."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.corpus.fields import SourcePair
from store.corpus.image_source import DEFLATE, inflated
from store.errors import CorpusError, PairDecodeError

from .members import PLAIN_RULES, Member, NameRules, join, source_pair
from .opened import Window, open_archive

LOCAL_HEADER_BYTES = 30
"""Bytes of a member's own header before its name; the lengths of name and extra field are its last four."""

ENCRYPTED = 0x1


def read_zip(source: CorpusFile, account: Account, rules: NameRules = PLAIN_RULES) -> Iterator[SourcePair]:
    """Yield the pairs of a zip in the order of its directory.

    Raises:
        CorpusError: the file is missing, no zip, or cut short.
    """
    with open_archive(source, _mean_bytes) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise CorpusError(
                f"{source.uri}: cannot be read as a zip: {error}",
                hint="if the download was cut short fetch the file again",
            ) from error
        for found in join(_members(infos, source, account), rules, account, source.uri):
            pair = source_pair(found, lambda member: _content(file, member.place[2]))
            if found.image is not None and pair.image is not None:
                info = found.image.place[2]
                pair.uri = source.uri
                pair.member = {"offset": _data_offset(file, info), "nbytes": info.compress_size}
                if info.compress_type == zipfile.ZIP_DEFLATED:
                    pair.member["column"] = DEFLATE
            yield pair


def _mean_bytes(file: Window) -> float:
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = [info.compress_size for info in archive.infolist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return 0.0
    return sum(sizes) / max(len(sizes), 1)


def _members(infos: list[zipfile.ZipInfo], source: CorpusFile, account: Account) -> Iterator[Member]:
    for number, info in enumerate(infos):
        if info.filename.endswith("/"):  # is_dir() fails where a name is empty
            continue
        reason = _unreadable(info)
        if reason is None:
            yield Member(info.filename, info.file_size, (info.header_offset, number, info))
        else:
            account.members += 1
            account.pass_over(reason, f"{source.uri}: {info.filename}")


def _unreadable(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & ENCRYPTED:
        return "encrypted member of a zip"
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return "member of a zip that is neither stored nor deflated"
    # The upper half of the attributes is a Unix mode, 0 where another system made the zip; the kind is its first digit.
    kind = info.external_attr >> 28
    return "no regular file: link" if kind == 0o12 else None


def _data_offset(file: Window, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
        raise PairDecodeError(f"at byte {info.header_offset} stands no header of a member")
    return info.header_offset + LOCAL_HEADER_BYTES + sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28))


def _content(file: Window, info: zipfile.ZipInfo) -> bytes:
    file.seek(_data_offset(file, info))
    content = file.read(info.compress_size)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        content = inflated(content, info.filename, nbytes=info.file_size)
    if zlib.crc32(content) != info.CRC:
        raise PairDecodeError("its checksum is another than the zip states, so it is damaged")
    return content
