"""Requests to the Hugging Face Hub and to other servers of files: what they answer, and the ways in which they fail."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from huggingface_hub import constants, get_token

from extract.teacher_files.entry import Download
from store.console import progress
from store.io.location import login_of

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20

SILENCE_S = 60.0
"""Longest silence of a server, in seconds."""

TRIES = 3
"""Requests in a row that bring no further byte, until a server counts as broken."""

PAUSE_S = 1.0
"""Pause before the second request, in seconds; it doubles with each further one."""

PATIENCE_S = 300.0
"""Longest time that is waited for a busy server, in seconds, all waits for one file together."""

LIBRARY = "extract-fetch"

MAIN = "main"
"""The branch that the hub shows."""


class NotFetchedError(Exception):
    """A request brought no file.

    Args:
        kind: one of the cases that `refusals.py` words.
        detail: what the server or the system said.
        wait_s: how long the server asks to wait, in seconds.
        commit: the commit at which the hub looked.
        host: who failed, if it is not the host of the address.
    """

    def __init__(
        self, kind: str, detail: str, *, wait_s: float | None = None, commit: str | None = None, host: str | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.wait_s = wait_s
        self.commit = commit
        self.host = host


@dataclass(kw_only=True, frozen=True, slots=True)
class Address:
    """The place of a file.

    Attributes:
        headers: say who asks; other hosts, to which a redirect leads, do not see the login among them.
        is_hub: whether the server speaks as the Hugging Face Hub does.
    """

    url: str
    headers: dict[str, str]
    is_hub: bool


@dataclass(kw_only=True, frozen=True, slots=True)
class Found:
    """A file as its server describes it.

    Attributes:
        commit: the commit to which the hub resolved a revision.
        etag: on the hub the SHA-256 of a large file, and git's SHA-1 of a small one.
        nbytes: None if the server does not say.
    """

    commit: str | None = None
    etag: str | None = None
    nbytes: int | None = None


def page_of(item: Download) -> str:
    """Return the address of a repository's page, or the URL of a file."""
    if item.url:
        return item.url
    return f"{constants.ENDPOINT}/{'' if item.kind == 'model' else 'datasets/'}{item.repo}"


def address(item: Download, name: str, commit: str | None) -> Address:
    """Return the place of a file of an item: on the hub at a commit, or at the item's revision if there is none."""
    agent = {"User-Agent": LIBRARY}
    if item.url:
        return Address(url=item.url, headers=agent | login_of(item.url), is_hub=False)
    url = f"{page_of(item)}/resolve/{quote(commit or item.revision or MAIN, safe='')}/{quote(name)}"
    token = get_token()
    return Address(url=url, headers=agent | ({"Authorization": f"Bearer {token}"} if token else {}), is_hub=True)


def look(place: Address) -> Found:
    """Ask for a file's size and digest without its content.

    Raises:
        NotFetchedError: there is none, or no server that says so.
    """
    patience = _Patience()
    while True:
        try:
            with _sent(place, "HEAD") as answer:
                return _found(place, answer.headers)
        except NotFetchedError as error:
            if not place.is_hub and error.kind in ("forbidden", "status"):
                return Found()  # some servers answer GET alone
            patience.wait(error)


def answers(url: str, *, timeout_s: float) -> None:
    """Ask a hub once whether it answers, for its front page, without a login.

    Raises:
        NotFetchedError: it does not, or says that it cannot serve.
    """
    place = Address(url=url, headers={"User-Agent": LIBRARY}, is_hub=False)
    try:
        with _sent(place, "HEAD", timeout_s=timeout_s):
            pass
    except NotFetchedError as error:
        if error.kind != "no_file":
            raise


def download(place: Address, partial: Path, *, nbytes: int | None, label: str) -> None:
    """Download a file, from the byte at which an earlier attempt was cut off.

    Args:
        partial: gets the content; what it holds is the beginning of the same file.
        nbytes: the file's size if it is known.
        label: names the file where progress is shown.

    Raises:
        NotFetchedError: it cannot be had; what came stays in ``partial``.
    """
    patience = _Patience()
    while (have := partial.stat().st_size if partial.is_file() else 0) != nbytes or nbytes == 0:
        try:
            _receive(place, partial, have, label)
        except NotFetchedError as error:
            # What is there is longer than the file, so that it is no beginning of it.
            if error.kind == "range" and have:
                partial.write_bytes(b"")
                continue
            if partial.is_file() and partial.stat().st_size > have:
                patience.tries = 0
            patience.wait(error)
        else:
            return


def _found(place: Address, headers: Message) -> Found:
    commit, etag = headers.get("X-Repo-Commit"), headers.get("X-Linked-Etag") or headers.get("ETag")
    if place.is_hub and not commit:
        raise NotFetchedError("page", f"{headers.get('Content-Type') or 'no type'}, without a commit")
    size = headers.get("X-Linked-Size") or (None if headers.get("Location") else headers.get("Content-Length"))
    etag = etag.removeprefix("W/").strip('"') if etag else headers.get("Last-Modified")
    return Found(commit=commit, etag=etag, nbytes=int(size) if size and size.isdigit() else None)


def _receive(place: Address, partial: Path, have: int, label: str) -> None:
    with _sent(place, "GET", {"Range": f"bytes={have}-"} if have else {}) as answer:
        begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
        goes_on = answer.status == 206 and begins is not None and int(begins[1]) == have
        length = answer.headers.get("Content-Length")
        size = int(length) + (have if goes_on else 0) if length else None
        total = max((size or 0) >> 20, 1)
        with partial.open("ab" if goes_on else "wb") as file, progress(total, label=label, noun="MB") as advance:
            for block in _blocks(answer):
                file.write(block)
                advance(1)
    nbytes = partial.stat().st_size
    if size is not None and nbytes != size:
        raise NotFetchedError("cut", f"cut off at {nbytes} of {size} bytes")


def _blocks(answer: Any) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read(BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise NotFetchedError("cut", f"cut off: {_said(error)}") from error
        if not block:
            return
        yield block


@contextlib.contextmanager
def _sent(
    place: Address, method: str, headers: dict[str, str] | None = None, *, timeout_s: float = SILENCE_S
) -> Iterator[Any]:
    host = urlsplit(place.url).netloc
    if constants.HF_HUB_OFFLINE:
        raise NotFetchedError("offline", "HF_HUB_OFFLINE is set")
    if host in _silent:
        raise _silent[host]
    every = {"Accept-Encoding": "identity", **place.headers, **(headers or {})}
    request = urllib.request.Request(place.url, headers=every, method=method)  # noqa: S310 - http or https
    redirects = _Redirects(host, follow=method == "GET" or not place.is_hub)
    try:
        answer = urllib.request.build_opener(redirects).open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if method == "GET" or error.code not in (301, 302, 303, 307, 308):
            raise _refused(place, error) from error
        answer = error
    except (OSError, http.client.HTTPException) as error:
        failure = _failed(error, redirects.host)
        if failure.kind == "silent":
            _silent[redirects.host] = failure
        raise failure from error
    with contextlib.closing(answer):
        yield answer


_silent: dict[str, NotFetchedError] = {}
"""Hosts that did not answer; each costs its time once."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the login stays with its host, and with https.

    Attributes:
        host: the host that was asked last.
    """

    def __init__(self, host: str, *, follow: bool) -> None:
        self.host = host
        self.follow = follow

    def redirect_request(  # noqa: PLR0917 - urllib's signature
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the next request; None if another host is not to be asked."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        same_host = before.netloc == after.netloc
        new = super().redirect_request(req, fp, code, msg, headers, newurl) if same_host or self.follow else None
        if new is not None:
            new.method = req.get_method()
            self.host = after.netloc
            if not same_host or after.scheme not in (before.scheme, "https"):
                new.remove_header("Authorization")
        return new


def _refused(place: Address, error: urllib.error.HTTPError) -> NotFetchedError:
    """Return what a status means (huggingface_hub: hf_raise_for_status knows the hub's codes)."""
    code, said = error.headers.get("X-Error-Code"), error.headers.get("X-Error-Message")
    detail = f"status {error.code}{f', {said}' if said else f' {error.reason}'.rstrip()}"
    logins = [value for name, value in place.headers.items() if name.lower() == "authorization"]
    for login in logins:  # a server may repeat what it was sent
        for secret in (login, login.split()[-1]):
            detail = detail.replace(secret, "...")
    kinds = {"GatedRepo": "gated", "RepoNotFound": "no_repo", "RevisionNotFound": "no_revision"}
    if code in kinds:
        return NotFetchedError(kinds[code], detail)
    if error.code == 401:
        return NotFetchedError("login" if logins or not place.is_hub else "no_repo", detail)
    statuses = {403: "forbidden", 404: "no_file", 410: "no_file", 407: "proxy", 416: "range", 429: "busy", 511: "page"}
    kind = "broken" if error.code in (408, 500, 502, 503, 504) else statuses.get(error.code, "status")
    commit = error.headers.get("X-Repo-Commit")
    return NotFetchedError(kind, detail, wait_s=_wait_s(error.headers), commit=commit)


def _wait_s(headers: Message) -> float | None:
    """Return how long a server asks to wait, in seconds (RFC 9110, 10.2.3; the hub: ``RateLimit: "api";r=0;t=55``)."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isdigit():
        return float(text)
    with contextlib.suppress(TypeError, ValueError):
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    found = re.search(r"\bt=(\d+)", headers.get("RateLimit") or "")
    return float(found[1]) if found else None


def _failed(error: OSError | http.client.HTTPException, host: str) -> NotFetchedError:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLError):
        return NotFetchedError("tls", getattr(reason, "verify_message", "") or _said(reason), host=host)
    if "Tunnel connection failed: 407" in str(reason):
        return NotFetchedError("proxy", "status 407", host=host)
    if isinstance(error, urllib.error.URLError):
        return NotFetchedError("silent", f"{_said(reason)}{_proxy()}", host=host)
    return NotFetchedError("cut", f"no answer: {_said(error)}", host=host)


def _proxy() -> str:
    # Without the login that the URL of a proxy may hold.
    found = urllib.request.getproxies()
    hosts = {urlsplit(found[kind]).netloc.rpartition("@")[2] for kind in ("http", "https", "all") if kind in found}
    return f"; proxies are set: {', '.join(sorted(hosts))}" if hosts else ""


def _said(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error).strip()
    return str(text) or type(error).__name__


@dataclass(kw_only=True, slots=True)
class _Patience:
    """Decides whether a request is made again, and waits before it.

    Attributes:
        tries: requests in a row that brought nothing.
        waited_s: seconds spent on servers' wishes.
    """

    tries: int = 0
    waited_s: float = field(default=0.0)

    def wait(self, error: NotFetchedError) -> None:
        """Wait as the server asks, or as is usual; raise the error where another request is of no use."""
        self.tries += 1
        if error.kind not in ("busy", "broken", "cut"):
            raise error
        if error.wait_s is None and self.tries >= TRIES:
            raise error
        pause_s = PAUSE_S * 2 ** (self.tries - 1) if error.wait_s is None else max(error.wait_s, PAUSE_S)
        if self.waited_s + pause_s > PATIENCE_S:
            raise error
        log.info("%s; the next request is made in %.0f s", error, pause_s)
        time.sleep(pause_s)
        self.waited_s += pause_s
