"""Words the ways in which a fetch fails: which teacher, which page, which next command."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from urllib.parse import urlsplit

from huggingface_hub import constants

from extract.teacher_files.entry import Wanted
from store.errors import TeacherError, WeightsNotFoundError

from .http import MAIN, PATIENCE_S, NotFetchedError, page_of

NETWORK = ("silent", "offline", "proxy", "page", "tls")
"""Failures of everything that lies before a server, in which files may have to be put in place by hand."""


def worded(
    error: NotFetchedError, teacher: str, file: Wanted, *, commit: str | None, command: str, missing: Sequence[Wanted]
) -> TeacherError:
    """Return the error for a file that could not be fetched.

    Args:
        commit: at which commit it was asked for; None for an item's own revision.
        command: fetches the teacher's files.
        missing: all files that the teacher lacks.
    """
    unknown = "the server refuses it", f"look at {page_of(file.item)}; then {command}"
    cases = _of_the_origin(teacher, file, commit, command) | _of_the_way(error, teacher, file, command)
    problem, cure = cases.get(error.kind, unknown)
    said = "" if error.kind == "offline" else f" ({error})"
    message = f"teacher {teacher}: {file.name} of {file.item.origin} cannot be fetched: {problem}{said}"
    if error.kind in NETWORK:
        return WeightsNotFoundError(f"{message}; put by hand\n" + _by_hand(missing), hint=cure)
    return TeacherError(message, hint=cure)


def _of_the_origin(teacher: str, file: Wanted, commit: str | None, command: str) -> dict[str, tuple[str, str]]:
    """Return problem and cure by kind where the repository or the account is not as it should be."""
    item, page = file.item, page_of(file.item)
    where = commit or item.revision or MAIN
    return {
        "gated": (
            "its authors want their terms to be accepted first",
            f"log in at {page} and accept the terms there; set HF_TOKEN to a token of that account; then {command}",
        ),
        "no_repo": (
            "there is no such repository, or it is private",
            f"look at {page}; if it is there, set HF_TOKEN to a token that may read it; else correct "
            f"teachers.{teacher}.download; then {command}",
        ),
        "no_revision": (
            f"the repository has no revision {where}",
            f"look at {page}/commits, state another revision in teachers.{teacher}.download; then {command}",
        ),
        "no_file": (
            f"there is no file {file.name}",
            f"look at {page}, and correct teachers.{teacher}.download or put the file at {file.path}; then {command}",
        ),
        "login": (
            "the login is refused",
            f"HF_TOKEN is wrong or has run out: make a new one at {constants.ENDPOINT}/settings/tokens; then {command}"
            if item.repo
            else f"{page} wants a login: put it into ~/.netrc; then {command}",
        ),
        "forbidden": (
            "the server forbids it",
            f"look at {page}: perhaps its terms are to be accepted, or HF_TOKEN may not read it; then {command}",
        ),
    }


def _of_the_way(error: NotFetchedError, teacher: str, file: Wanted, command: str) -> dict[str, tuple[str, str]]:
    """Return problem and cure by kind where the server, the network or the transfer is not as it should be."""
    item, page = file.item, page_of(file.item)
    host = error.host or urlsplit(page).netloc
    return {
        "busy": (
            f"{host} gets too many requests{_until(error)}",
            f"run {command} again {'later' if error.wait_s is None else 'then'}; what has come stays"
            f"{', and with HF_TOKEN set the hub allows more requests' if item.repo else ''} ({page})",
        ),
        "broken": (
            f"{host} is out of order",
            f"look whether {page} answers, and run {command} later; what has come stays",
        ),
        "cut": (
            "the download broke off",
            f"{command} goes on from there; if it breaks off again, look whether {page} answers",
        ),
        "wrong": (
            "another kind of content came, which was not kept",
            f"look at {page}; if it shows the file that you want, {command}; else correct teachers.{teacher}.download",
        ),
        "proxy": (
            "the proxy wants a login",
            f"set HTTPS_PROXY to http://USER:PASSWORD@PROXY:PORT, or NO_PROXY to {host} if {page} can be reached "
            f"without it; then {command}",
        ),
        "page": (
            f"not {host} answers, but a proxy or the login page of a network",
            f"open {page} in a browser on this network and do what it wants, or set HTTPS_PROXY; then {command}",
        ),
        "tls": (
            f"the certificate of {host} cannot be trusted",
            f"if a proxy of your organisation opens {page}, set SSL_CERT_FILE to its certificates; look at this "
            f"machine's clock; then {command}",
        ),
        "silent": (
            f"{host} does not answer",
            f"run {command} where {page} answers (HF_ENDPOINT names a mirror of the hub), or copy the files from there",
        ),
        "offline": (
            "HF_HUB_OFFLINE is set",
            f"unset it and run {command}, or copy the files from a machine that reaches {page}",
        ),
    }


def _until(error: NotFetchedError) -> str:
    if error.wait_s is None:
        return ""
    again = dt.datetime.now().astimezone() + dt.timedelta(seconds=error.wait_s)
    return (
        f" and asks to wait {error.wait_s:.0f} s, until {again:%Y-%m-%d %H:%M:%S}; this program waits "
        f"{PATIENCE_S:.0f} s at most"
    )


def _by_hand(missing: Sequence[Wanted]) -> str:
    return "\n".join(
        f"  {file.name} of {file.item.origin}{' (if it is there)' if file.optional else ''}\n    to {file.path}"
        for file in missing
    )
