"""A folder or a prefix of an object storage, behind the few operations that stores and corpora need."""

from __future__ import annotations

import netrc
import os
import re
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from store.errors import LocationError

REMOTE_SCHEMES = ("s3", "gs", "az", "memory", "http", "https")
"""URL schemes that obstore opens; ``file`` is a folder, and http is for reading only."""


_SECRET = re.compile(r"token|signature|^sig$|secret|passw|api_?key|accesskey|credential")
"""In a parameter's name: its value lets whoever has the URL in."""

_NETRC_HINT = "take it out, and put the login into ~/.netrc (machine HOST login NAME password SECRET)"
_HINTS = {"http": _NETRC_HINT, "https": _NETRC_HINT}
_STORAGE_HINT = (
    "take it out, and set the storage's environment variables, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


@dataclass(frozen=True, slots=True)
class Stat:
    """A storage's description of an object.

    Attributes:
        stamp: changes when the object is replaced.
        modified: seconds since the epoch, by the storage's clock.
    """

    nbytes: int
    stamp: str
    modified: float


class Location(ABC):
    """A folder of objects named by keys: relative paths with ``/``.

    Safe for use from several threads. It can be sent to another process, which then uses its own credentials. Links are
    followed wherever they lie. Every method raises LocationError, which names the place, where the storage fails or
    refuses: that something is not there is said only where it was looked for and not found.

    Attributes:
        uri: absolute path or URL, without a ``/`` at its end.
    """

    uri: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Return an object.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def read_part(self, key: str, offset: int, nbytes: int, *, stamp: str | None = None) -> bytes:
        """Return ``nbytes`` bytes of an object from ``offset`` on, fewer where it ends before.

        Raises:
            FileNotFoundError: there is none.
            ObjectChangedError: it is another than the one with that stamp.
        """

    @abstractmethod
    def write(self, key: str, data: bytes | Path) -> None:
        """Replace an object whole, by bytes or a file: after a kill or a power cut it is the old one or the new one."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not be there yet, whole and to stay like `write`.

        On object storage the answer to a request may be lost. So one with the same bytes that is there already counts
        as the one that was to be created.

        Raises:
            FileExistsError: it is there.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes, *, stamp: str) -> None:
        """Replace an object on the condition that it is still the one with that stamp.

        A folder has no such step: the file may change in the moment between the look and the write.

        Raises:
            ObjectChangedError: it is another, or gone.
        """

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Let an object take the place of another, or a free one.

        In a folder this is one step. On object storage both are there for a moment, and after a kill; then the same
        call ends it.

        Raises:
            FileNotFoundError: the source is not there.
        """

    @abstractmethod
    def stat(self, key: str) -> Stat | None:
        """Return what the storage says of an object, None where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[tuple[str, int]]:
        """Return (key, bytes) of every object below a folder, sorted; unfinished local writes are left out."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; ignore those that do not exist."""

    @abstractmethod
    def below(self, prefix: str) -> Location:
        """Return a folder of this one as a location of its own."""

    def size(self, key: str) -> int | None:
        """Return an object's bytes, None where there is none."""
        found = self.stat(key)
        return found.nbytes if found else None

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return self.stat(key) is not None

    def delete_below(self, folder: str) -> None:
        """Delete every object below a folder."""
        self.delete([key for key, _ in self.list(folder)])

    def show(self, key: str) -> str:
        """Return an object's full name, for messages."""
        return f"{self.uri}/{key}"

    def __str__(self) -> str:
        return self.uri

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)


def locate(where: str | os.PathLike[str] | Location) -> Location:
    """Return the location of a path or URL.

    Raises:
        LocationError: a scheme that is not known, or a URL that cannot be one.
    """
    from .folder import Folder
    from .remote import Remote

    if isinstance(where, Location):
        return where
    if not isinstance(where, str | os.PathLike):
        raise LocationError(f"expected a path or URL, got {where!r}")
    text = os.fspath(where)
    if "\0" in text:
        raise LocationError(f"{text!r}: no path holds a NUL")
    scheme, found, rest = text.partition("://")
    if not found:
        return Folder(Path(text))
    if scheme == "file":
        if not rest.startswith("/"):
            raise LocationError(f"{text}: a URL of the scheme file has a whole path, as file:///data/store")
        return Folder(Path(rest))
    require_no_credentials(text)
    if scheme not in REMOTE_SCHEMES:
        known = ", ".join(f"{name}://" for name in ("file", *REMOTE_SCHEMES))
        raise LocationError(f"{text}: unknown scheme {scheme!r}; expected a path or one of {known}")
    return Remote(text)


def is_url(text: str) -> bool:
    """Return whether a text is a URL rather than a path."""
    return "://" in text


def split_query(text: str) -> tuple[str, str]:
    """Return a URL of HTTP, or a piece of one, up to its query, and the query with its ``?``."""
    path, mark, query = text.partition("?")
    return path, mark + query


def require_no_credentials(url: str) -> None:
    """Refuse a URL that holds a password or a token: it would stand in the store, in reports and in messages.

    Raises:
        LocationError: it does; the message does not repeat it.
    """
    scheme, found, rest = url.partition("://")
    if not found:
        return
    host, _, path = rest.partition("/")
    shown = f"{scheme}://{host.rpartition('@')[2]}/..."
    if "@" in host:
        raise LocationError(f"{shown}: the URL holds a user name or a password", hint=_HINTS.get(scheme, _STORAGE_HINT))
    names = {name.lower() for name, _ in parse_qsl(path.partition("?")[2], keep_blank_values=True)}
    secret = sorted(name for name in names if _SECRET.search(name))
    if secret:
        raise LocationError(
            f"{shown}: the URL's query holds a credential ({secret[0]})", hint=_HINTS.get(scheme, _STORAGE_HINT)
        )


def login_of(url: str) -> dict[str, str]:
    """Return the header with the user name and password that a host of HTTP has in the user's netrc file."""
    try:
        found = netrc.netrc(os.environ.get("NETRC") or None).authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return {}
    if found is None:
        return {}
    return {"Authorization": f"Basic {b64encode(f'{found[0]}:{found[2]}'.encode()).decode()}"}


def split_uri(uri: str) -> tuple[str, str]:
    """Return the folder of a path or URL, and the name in it; a query belongs to the name.

    Raises:
        LocationError: a URL that names a bucket or a host alone.
    """
    require_no_credentials(uri)
    path, query = split_query(uri) if uri.startswith(("http://", "https://")) else (uri, "")
    folder, _, name = path.rpartition("/")
    if is_url(uri) and folder.endswith(("/", ":")):
        raise LocationError(f"{uri}: the URL names no object")
    return folder or "/", name + query
