"""Reads a folder of images with captions beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.corpus.fields import SourcePair
from store.corpus.folder_files import depth_of, files_below, is_hidden, matcher, suffix_blind
from store.errors import CorpusError, LocationError, PairDecodeError
from store.io.fetching import fetch_ahead
from store.io.folder import Folder

from .members import Joined, Member, NameRules, join, source_pair, split_last

OTHER_KINDS = (".tar", ".zip", ".parquet", ".pq", ".jsonl", ".ndjson", ".csv", ".tsv")


def read_folder(source: CorpusFile, account: Account, rules: NameRules) -> Iterator[SourcePair]:
    """Yield the pairs of a folder, folder by folder in the order of the names.

    Raises:
        CorpusError: there is no such folder, or no image in it.
    """
    joined = join(_members(source, account, rules), rules, account, source.uri)
    if source.pattern:
        joined = _with_image(joined, account, source)
    if not any(pair.image for pair in joined):
        raise _no_image(source)
    location = source.content

    def read(member: Member) -> bytes:
        try:
            return location.read(member.place)
        except FileNotFoundError as error:
            raise CorpusError(f"{location.show(member.place)}: is gone since the folder was listed") from error
        except LocationError as error:
            if isinstance(error.__cause__, PermissionError):
                raise PairDecodeError("Permission denied") from error
            raise

    def pair_of(found: Joined) -> SourcePair:
        pair = source_pair(found, read)
        if found.image is not None and pair.image is not None:
            pair.uri = location.show(found.image.place)
        return pair

    near = isinstance(location, Folder)
    yield from fetch_ahead(pair_of, joined, is_near=lambda _: near)


def _members(source: CorpusFile, account: Account, rules: NameRules) -> Iterator[Member]:
    pattern = matcher(suffix_blind(source.pattern)) if source.pattern else None
    for file in files_below(source.content, depth=depth_of(source.pattern or "")):
        reason = None
        if is_hidden(file.name):
            pass
        elif file.nbytes is None:
            reason = "link to a folder that is read already" if file.name.endswith("/") else "no regular file"
        elif not file.name.isascii() and file.name != _as_utf8(file.name):
            reason = "name of a file that is not UTF-8"
        elif pattern and split_last(file.name)[1] in rules.images and not pattern.fullmatch(file.name):
            reason = "image that the pattern does not match"
        if reason is None:
            yield Member(file.name, file.nbytes or 0, file.name)
        else:
            account.members += 1
            account.pass_over(reason, f"{source.uri}: {_as_utf8(file.name)}")


def _as_utf8(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _with_image(joined: list[Joined], account: Account, source: CorpusFile) -> list[Joined]:
    """Return the pairs that have an image; texts of images that the pattern does not match are no rows."""
    for pair in joined:
        if not pair.image:
            for member in pair.texts.values():
                account.pass_over("text without an image that the pattern matches", f"{source.uri}: {member.name}")
    return [pair for pair in joined if pair.image]


def _no_image(source: CorpusFile) -> CorpusError:
    names = [file.name for file in files_below(source.content, depth=depth_of(source.pattern or ""))]
    counts = Counter(split_last(name)[1] for name in names if not is_hidden(name))
    shown = ", ".join(
        f"{count} .{suffix}" if suffix else f"{count} without suffix" for suffix, count in counts.most_common(5)
    )
    suffix = next((suffix for suffix, _ in counts.most_common() if f".{suffix}" in OTHER_KINDS), None)
    return CorpusError(
        f"{source.uri}: no image is in this folder; it holds {shown or 'no file'}",
        hint=f"to read its .{suffix} files, name them: {source.content.uri}/*.{suffix}" if suffix else None,
    )
