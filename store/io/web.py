"""Gets single files by HTTP within bounds: whoever wrote a table may have named any host.

Stores and corpus files at HTTP are read through `remote.py`, which waits for a storage that is away. Here a host that
does not answer costs its time once.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from store.errors import FetchError

from .location import login_of

if TYPE_CHECKING:
    from urllib3 import HTTPResponse, PoolManager

CONNECT_S, READ_S, WHOLE_S = 5.0, 20.0, 120.0
"""Seconds that a connection, a silence and a whole file may take."""

REDIRECTS = 5
"""Redirects that are followed at most."""

TRIES = 3
"""Requests that are made where a host answers that it is busy or broken."""

FAILURES = 5
"""Failures of a host in a row, from which on each of its files is asked for once."""

AWAY_S = 300.0
"""Seconds for which a host that did not answer is not asked again."""

_away: dict[str, tuple[float, str]] = {}
_failures: Counter[str] = Counter()
_lock = threading.Lock()


@functools.cache
def _pool(_process: int) -> PoolManager:
    from urllib3 import PoolManager, Retry, Timeout

    busy = (408, 425, 429, 500, 502, 503, 504)
    tries = Retry(
        connect=1,
        read=1,
        status=TRIES - 1,
        redirect=False,
        status_forcelist=busy,
        backoff_factor=0.25,
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    return PoolManager(maxsize=16, retries=tries, timeout=Timeout(connect=CONNECT_S, read=READ_S))


def get(url: str, *, max_bytes: int, check: Callable[[str], None]) -> bytes:
    """Return the content of a URL of HTTP.

    Args:
        max_bytes: a larger file is refused.
        check: is called with the URL and with each one that a redirect leads to, before anything is sent; may refuse.

    Raises:
        FetchError: it cannot be had; the message says why, without its query.
    """
    for _ in range(REDIRECTS + 1):
        check(url)
        answer = _request(url)
        try:
            target = answer.get_redirect_location()
            if not target:
                return _content(answer, url, max_bytes)
        finally:
            answer.release_conn()
        url = urljoin(url, target)
    raise _error(url, f"more than {REDIRECTS} redirects")


def addresses_of(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses of a host; none where it is not known."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _request(url: str) -> HTTPResponse:
    from urllib3 import Retry
    from urllib3.exceptions import HTTPError, LocationValueError, ProtocolError

    place = urlsplit(url).netloc
    until, cause = _away.get(place, (0.0, ""))
    if time.monotonic() < until:
        raise _error(url, "the host does not answer", cause)
    pool, headers = _pool(os.getpid()), login_of(url)
    often, began = _failures[place] < FAILURES, time.monotonic()
    tries = pool.connection_pool_kw["retries"] if often else Retry(total=0, redirect=False, raise_on_status=False)
    try:
        answer = pool.request("GET", url, headers=headers, preload_content=False, redirect=False, retries=tries)
    except LocationValueError as error:
        raise _error(url, "not a URL") from error
    except HTTPError as error:
        at_once = time.monotonic() < began + CONNECT_S
        if at_once and isinstance(getattr(error, "reason", None), ProtocolError):  # it is there, and hung up
            raise _error(url, "the answer breaks off", _cause(error)) from error
        with _lock:
            _away[place] = time.monotonic() + AWAY_S, _cause(error)
        raise _error(url, "the host does not answer", _cause(error)) from error
    with _lock:
        _failures[place] = _failures[place] + 1 if answer.status >= 429 else 0
    return answer  # type: ignore[return-value]


def _content(answer: HTTPResponse, url: str, max_bytes: int) -> bytes:
    from urllib3.exceptions import HTTPError

    if answer.status != 200:
        raise _error(url, f"the host answers with status {answer.status}")
    began, blocks, nbytes = time.monotonic(), [], 0
    try:
        # Not stream(), which waits for whole blocks: of a host that sends single bytes each would take days.
        while block := answer.read1(2**16, decode_content=True):
            nbytes += len(block)
            blocks.append(block)
            if nbytes > max_bytes:
                raise _error(url, f"more than {max_bytes} bytes")
            if time.monotonic() > began + WHOLE_S:
                raise _error(url, f"not there after {WHOLE_S:.0f} s")
    except HTTPError as error:
        raise _error(url, "the answer breaks off", _cause(error)) from error
    return b"".join(blocks)


def _error(url: str, why: str, cause: str = "") -> FetchError:
    return FetchError(f"{url.partition('?')[0]}: {why}{f' ({cause})' if cause else ''}", why=why)


def _cause(error: BaseException) -> str:
    """Return the kind of an error; urllib3's texts hold addresses of objects and whole URLs."""
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, Exception) else error).__name__
