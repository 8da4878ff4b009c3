"""Joins the members of an archive or a folder into pairs by their names, in whatever order they come.

Only names, places and sizes are held for all members; contents are read pair by pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from store.corpus.account import Account
from store.corpus.fields import SourcePair
from store.corpus.folder_files import is_hidden
from store.corpus.image_source import IMAGE_FILE_BYTES
from store.corpus.section import Corpus, KeyEnds
from store.errors import PairDecodeError
from store.images.suffixes import image_suffixes

from .records.json_records import TOO_DEEP, NestedTooDeepError, parse_json

CAPTION_SUFFIXES = ("txt", "caption", "text")
"""Suffixes of captions where the fields name none, in the order of preference."""

TEXT_BYTES = 16 * 2**20
"""Largest member that is read as text or JSON; larger ones are passed over."""

SUFFIX_LETTERS, SUFFIXES_NAMED = 12, 40
"""Longest suffix that a reason names, and how many: names of files may hold anything behind a dot."""


class Member(NamedTuple):
    """One file in an archive or a folder.

    Attributes:
        place: where its bytes lie, as the reader of the archive needs it.
    """

    name: str
    nbytes: int
    place: Any


@dataclass(slots=True)
class Joined:
    """The members of one key; texts by suffix, and those whose names have more dots than the key's rule looks at."""

    key: str
    image: Member | None = None
    texts: dict[str, Member] = field(default_factory=dict)
    passed: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)
    dotted: list[Member] = field(default_factory=list)


@dataclass(kw_only=True, frozen=True, slots=True)
class NameRules:
    """A rule that tells a member's key and kind from its name.

    Attributes:
        images, texts: suffixes that are taken, without a dot.
        captions: those of the texts that are captions; of several under one key the first is taken.
        key_ends: None is ``first_dot``, but members with more dots that have an image are pairs of their own.
    """

    images: frozenset[str]
    texts: frozenset[str]
    captions: tuple[str, ...] = CAPTION_SUFFIXES
    key_ends: KeyEnds | None = None

    def split(self, name: str) -> tuple[str, str]:
        """Return key and suffix of a name; the key keeps the folder."""
        folder, slash, base = name.rpartition("/")
        if self.key_ends == "last_dot":
            return split_last(name)
        stem, _, suffix = base.partition(".")
        return folder + slash + stem, suffix.lower()


def split_last(name: str) -> tuple[str, str]:
    """Return a name up to the last dot of its base name, and the suffix behind it."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    return (folder + slash + stem, suffix.lower()) if dot else (name, "")


def name_rules(corpus: Corpus, names: Iterable[str], *, default: KeyEnds | None, all_texts: bool = False) -> NameRules:
    """Return the rules of a corpus.

    Args:
        names: the outermost names of the record that its fields read.
        default: where keys end if the corpus does not say.
        all_texts: take captions too that no field names.
    """
    more = {suffix.lower().removeprefix(".") for suffix in corpus.image_suffixes}
    named = {name.lower() for name in names if name != "json" and not name.startswith("json.")}
    return NameRules(
        images=image_suffixes() | more,
        texts=frozenset({*named, *(CAPTION_SUFFIXES if all_texts else ())}) - more,
        captions=CAPTION_SUFFIXES if corpus.fields.caption is None else (),
        key_ends=corpus.key_ends or default,
    )


PLAIN_RULES = NameRules(images=image_suffixes(), texts=frozenset(CAPTION_SUFFIXES))
"""Rules where no corpus says more."""


def join(members: Iterable[Member], rules: NameRules, account: Account, where: str) -> list[Joined]:
    """Return what belongs together, in the order of the first members.

    Args:
        where: path or URL of the archive or folder, for the account.
    """
    found: dict[str, Joined] = {}
    suffixes: set[str] = set()
    for member in members:
        account.members += 1
        if is_hidden(member.name):
            account.pass_over("hidden file, or one of the operating system", f"{where}: {member.name}")
            continue
        key, suffix = rules.split(member.name)
        joined = found.get(key)
        if joined is None:
            joined = found[key] = Joined(key)
        if not _take(joined, suffix, member, rules):
            if "." in suffix and _is_known(split_last(member.name)[1], rules):
                joined.dotted.append(member)
            else:
                account.pass_over(_unknown(suffix, suffixes), f"{where}: {member.name}")
    pairs: list[Joined] = []
    for joined in found.values():
        if not _given_to_image(joined, [found.get(rules.split(joined.key)[0])], rules):
            pairs += _several_dots(joined, rules, found) if joined.dotted else [joined]
    return [pair for pair in pairs if pair.image or pair.texts or pair.passed]


def _take(joined: Joined, suffix: str, member: Member, rules: NameRules) -> bool:
    """Add a member to its key if its suffix is known."""
    if suffix in rules.images:
        if joined.image is not None:
            joined.passed.append(("second image of a key", member.name))
        elif member.nbytes > IMAGE_FILE_BYTES:
            joined.passed.append(("image file larger than 1 GiB", member.name))
        else:
            joined.image = member
        return True
    if suffix != "json" and suffix not in rules.texts:
        return False
    kind = "JSON" if suffix == "json" else "caption" if suffix in CAPTION_SUFFIXES else f".{suffix}"
    first = next((s for s in rules.captions if s in joined.texts), None) if suffix in rules.captions else None
    if suffix in joined.texts:
        joined.passed.append((f"second {kind} of a key", member.name))
    elif member.nbytes > TEXT_BYTES:
        joined.passed.append(("text larger than 16 MiB", member.name))
    elif first is not None:
        kept = suffix if _before(suffix, first, rules) else first
        both = {suffix: member, first: joined.texts.pop(first)}
        joined.texts[kept] = both.pop(kept)
        joined.passed += [("second caption of a key", other.name) for other in both.values()]
    else:
        joined.texts[suffix] = member
    return True


def _given_to_image(texts: Joined, candidates: Sequence[Joined | None], rules: NameRules) -> bool:
    """Give texts that are named after a whole image file, as ``x.jpg.txt``, to that image."""
    if texts.image is not None or not texts.texts:
        return False
    for other in candidates:
        if other is not None and other.image is not None and other.image.name == texts.key:
            for suffix, member in texts.texts.items():
                _take(other, suffix, member, rules)
            other.passed += texts.passed
            return True
    return False


def _before(suffix: str, other: str, rules: NameRules) -> bool:
    return rules.captions.index(suffix) < rules.captions.index(other)


def _is_known(suffix: str, rules: NameRules) -> bool:
    return suffix in rules.images or suffix in rules.texts or suffix == "json"


def _unknown(suffix: str, named: set[str]) -> str:
    last = suffix.rpartition(".")[2]
    if not last:
        return "no suffix"
    if last not in named and (len(named) >= SUFFIXES_NAMED or len(last) > SUFFIX_LETTERS or last.isdecimal()):
        return "another suffix"
    named.add(last)
    return f"suffix .{last} is not taken"


def _several_dots(joined: Joined, rules: NameRules, found: dict[str, Joined]) -> list[Joined]:
    """Return a key's pair, and the pairs among its members with more dots than one.

    WebDataset ends a key at the first dot. ``x.seg.png`` beside ``x.png`` is something else of the same pair; but
    ``1.2.840.1.png`` with ``1.2.840.1.txt`` is a pair, and so is an image whose first-dot key has no other image.
    """
    own: dict[str, Joined] = {}
    for member in joined.dotted:
        key, suffix = split_last(member.name)
        _take(own.setdefault(key, Joined(key)), suffix, member, rules)
    pairs = [joined]
    for key, other in own.items():
        if _given_to_image(other, [joined, own.get(split_last(key)[0])], rules):
            continue
        is_pair = other.image is not None and (joined.image is None or bool(other.texts.keys() - {"json"}))
        if rules.key_ends is None and is_pair and key not in found:
            other.changed.append(("a name with several dots: its key ends at the last (key_ends)", ""))
            pairs.append(other)
            continue
        reason = "behind a second dot of a name, whose key ends at the first dot (key_ends)"
        left_out = [*([other.image] if other.image else []), *other.texts.values()]
        joined.passed += [*((reason, each.name) for each in left_out), *other.passed]
    return pairs


def source_pair(joined: Joined, read: Callable[[Member], bytes]) -> SourcePair:
    """Return a pair with the contents of its members; uri and member are left to the reader of the archive.

    Args:
        read: returns a member's bytes; raises PairDecodeError where this one member cannot be read.
    """
    pair = SourcePair(key=joined.key, record={"json": {}}, passed=joined.passed, changed=joined.changed)
    wanted = [*joined.texts.items(), *([(None, joined.image)] if joined.image else [])]
    for suffix, member in sorted(wanted, key=lambda item: item[1].place):  # forward through the archive
        try:
            content = read(member)
        except PairDecodeError as error:
            what = "an image" if suffix is None else "a member"
            pair.passed.append((f"{what} that cannot be read", f"{member.name}: {error}"))
            continue
        if suffix is None:
            pair.image = content
        elif suffix == "json":
            _add_json(pair, member, content)
        else:
            pair.record[suffix] = _text(pair, member, content)
    _readable_key(pair)
    return pair


def _add_json(pair: SourcePair, member: Member, content: bytes) -> None:
    try:
        metadata = parse_json(content.decode(json.detect_encoding(content)))
    except NestedTooDeepError as error:
        pair.passed.append((TOO_DEEP, f"{member.name}: {error}"))
        return
    except ValueError as error:
        pair.passed.append(("not JSON", f"{member.name}: {error}"))
        return
    if isinstance(metadata, dict):
        pair.record["json"] = metadata
    else:
        pair.passed.append(("not JSON", f"{member.name} holds no JSON object"))


def _text(pair: SourcePair, member: Member, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        pair.changed.append(("not UTF-8, kept as \ufffd", f"{member.name}: from byte {error.start} on"))
        return content.decode("utf-8", errors="replace")


def _readable_key(pair: SourcePair) -> None:
    if not pair.key.isascii():
        # Names of files are bytes; what is not UTF-8 in them Python keeps as surrogates, which Arrow refuses.
        key = pair.key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if key != pair.key:
            pair.changed.append((r"a name that is not UTF-8, written with \x", ""))
            pair.key = key
