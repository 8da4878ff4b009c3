"""Says which images a corpus may name: the paths and URLs in a table come from whoever wrote it."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, ValidationInfo

from store.config.pipeline_file import resolve_path
from store.errors import PairDecodeError
from store.io.location import REMOTE_SCHEMES, is_url
from store.io.remote import HTTP
from store.io.web import addresses_of

ANY = "any"
"""In ``allow``: every public host, and every bucket."""


_PATHS = (".", "/", "~")


def _resolve(value: str, info: ValidationInfo) -> str:
    if not value.strip():
        raise ValueError("expected a host, a folder or a URL, got ''")
    if is_url(value):
        return resolve_path(value, info).rstrip("/")
    if not value.startswith(_PATHS):
        return value
    return posixpath.normpath(resolve_path(value, info))


AllowedPlace = Annotated[str, AfterValidator(_resolve)]
"""A host's name, ``any``, the beginning of a URL, or a folder, which begins with ``/``, ``.`` or ``~``."""


class Access:
    """Rules for the paths and URLs of single images.

    Args:
        root: folder or URL that all paths may lie below.
        allow: further places, see `AllowedPlace`.
    """

    def __init__(self, root: str, allow: Sequence[str] = ()) -> None:
        self._any = ANY in allow
        named = {place for place in allow if not is_url(place) and not place.startswith(_PATHS)}
        self._hosts = {place.lower() for place in named} - {ANY}
        self._folders = [_absolute(place).rstrip("/") for place in (root, *allow) if place not in named]

    def require(self, uri: str) -> None:
        """Refuse what may not be read.

        Args:
            uri: absolute path or URL.

        Raises:
            PairDecodeError: the message says which rule forbids it.
        """
        if any(_is_below(uri, folder) for folder in self._folders):
            return
        if not is_url(uri):
            raise _refused("it does not lie below the corpus' root")
        scheme = uri.partition("://")[0].lower()
        if scheme == "file":
            raise _refused("URLs of the scheme file are read from allowed folders only")
        if scheme not in REMOTE_SCHEMES:
            raise _refused(f"URLs of the scheme {scheme[:20]} are not read")
        if scheme in HTTP:
            self._require_host(uri)
        elif not self._any:
            raise _refused("the storage is not one that the corpus allows")

    def _require_host(self, uri: str) -> None:
        try:
            place = urlsplit(uri)
            host, port = (place.hostname or "").rstrip("."), place.port
        except ValueError:
            raise _refused("it is no URL") from None
        named = host in self._hosts or f"{host}:{port}" in self._hosts
        if not named and not self._any:
            raise _refused("its host is not one that the corpus allows")
        if named and (host == "localhost" or _is_address(host)):
            return
        # A name that anyone may register can lead to this machine, or to what only this network can reach.
        for found in addresses_of(host):
            address = getattr(found, "ipv4_mapped", None) or found
            here = address.is_loopback or address.is_link_local or address.is_unspecified
            if here or not (named or address.is_global):
                raise _refused("its host leads to this machine or a private network, and is not named in allow")


def _absolute(place: str) -> str:
    """Return a folder that a command line names relative to the current one as an absolute path."""
    return posixpath.normpath(Path(place).expanduser().absolute()) if place.startswith((".", "~")) else place


def _is_below(uri: str, folder: str) -> bool:
    if is_url(uri) != is_url(folder):
        return False
    if not is_url(uri):
        return posixpath.normpath(uri).startswith(folder + "/")
    steps = unquote(uri.partition("?")[0]).split("/")
    return uri.startswith(folder + "/") and not {".", ".."} & set(steps)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _refused(why: str) -> PairDecodeError:
    return PairDecodeError(
        f"the image may not be read: {why}",
        hint="corpora.NAME.allow in pipelines.yaml names more places",
        why=f"image not allowed: {why}",
    )
