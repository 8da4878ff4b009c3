"""Judges what a run reads: weights of teachers, the hub that they come from, the files of the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from extract.fetching.http import NotFetchedError, answers
from extract.teacher_files.digests import unread_bytes
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.weights import find_sources, find_weights, weight_names
from store.corpus.corpus_files import corpus_files
from store.corpus.section import Corpus
from store.errors import MMKDError, WeightsNotFoundError

from .finding import Finding, State, gb, within

ANSWER_S = 5.0
"""Seconds that a hub has for its answer."""

QUICK_BYTES = 1 << 28
"""Bytes of a teacher's files that are read for their digests, a second's work."""

FILES_S = 30.0
"""Seconds that the listing of a corpus may take."""


def weights(name: str, entry: TeacherEntry, *, next_: str) -> tuple[Finding, int | None]:
    """Look for a teacher's files; return the bytes of its weights too, None without any.

    Large files whose digest is not kept are not read.

    Args:
        next_: the command that makes or fetches them, empty where there is none.
    """
    check = f"teacher {name}"
    try:
        if is_quick(entry):
            teacher_spec(name, entry)
            found = find_weights(name, entry)
        else:
            found = find_sources(name, entry)
    except MMKDError as error:
        hint = next_ if next_ and isinstance(error, WeightsNotFoundError) else error.hint or next_
        return Finding(check, "fail", str(error).removeprefix(f"teacher {name}: "), hint), None
    forms = {file for names in weight_names(entry) for file in names}
    others = (file for file in entry.wanted() if not file.optional and file.name not in forms)
    lacking = [file.name for file in others if not file.path.is_file()]
    if lacking:
        return Finding(check, "fail", f"{entry.folder}: {', '.join(lacking)} missing", next_), found.nbytes
    return Finding(check, "ok", f"{gb(found.nbytes)} of weights in {entry.folder}"), found.nbytes


def is_quick(entry: TeacherEntry) -> bool:
    """Return whether the digests of a teacher's files are kept or take little time."""
    return unread_bytes(Path(entry.folder)) <= QUICK_BYTES


def hub(endpoint: str, *, offline: bool, entries: Mapping[str, TeacherEntry], missing: Sequence[str]) -> Finding:
    """Ask the hub once whether it answers.

    Args:
        entries: the pipeline's teachers.
        missing: those of them that lack files.
    """
    wanting = [name for name in missing if any(item.repo for item in entries[name].download)]
    lacking = f"files of {', '.join(wanting)} are missing" if wanting else "it is not needed, all its files are here"
    state: State = "fail" if wanting else "ok"
    by_hand = "fetch on a machine with a network, and copy the folders of the weights"
    if not any(item.repo for entry in entries.values() for item in entry.download):
        return Finding("hub", "ok", "no teacher of the pipeline comes from a hub; none is asked")
    if offline:
        hint = f"unset it, or {by_hand}" if wanting else ""
        return Finding("hub", state, f"HF_HUB_OFFLINE is set, so the hub is not asked; {lacking}", hint)
    try:
        answers(endpoint, timeout_s=ANSWER_S)
    except NotFetchedError as error:
        hint = f"HF_ENDPOINT names another hub, HTTPS_PROXY a proxy; or {by_hand}" if wanting else ""
        return Finding("hub", state, f"{endpoint} does not serve: {error}; {lacking}", hint)
    return Finding("hub", "ok", f"{endpoint} answers")


def corpus(name: str | None, section: Corpus | None) -> Finding:
    """Look whether the files of the store's corpus are there; opens none."""
    if name is None or section is None:
        text = "the pipeline names no corpus" if name is None else f"store.corpus is {name}, which corpora lacks"
        return Finding("corpus", "warn" if name is None else "fail", text, "see docs/corpora.md")
    try:
        found = within(FILES_S, lambda: corpus_files(section.files))
    except (TimeoutError, MMKDError) as error:
        hint = getattr(error, "hint", None) or f"correct corpora.{name}.files"
        return Finding("corpus", "fail", f"{name}: {error}", hint)
    return Finding("corpus", "ok", f"{name}: {len(found):,} files or folders are there")
