"""Addresses of models on the command line: ``KIND:PLACE``, or ``NAME=KIND:PLACE``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, cast, get_args

from evaluate.results.record import ORACLE
from store.config.problems import suggest
from store.errors import ConfigError

OWN_FEATURES = "own-features"
"""Name of the model in results of datasets that bring their features."""

TAKEN = {ORACLE: "the best teachers of each group", OWN_FEATURES: "results of datasets that bring their features"}

Kind = Literal["checkpoint", "local-dir", "teacher", "open_clip", "store"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FORMS = {
    "checkpoint": "checkpoint:RUN, the folder of a training run",
    "local-dir": "local-dir:DIR, an open_clip model folder",
    "teacher": "teacher:NAME, a teacher of the pipeline",
    "open_clip": "open_clip:MODEL/TAG, weights that open_clip knows",
    "store": "store:STORE#TEACHER, features that were extracted",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """The address of a model.

    Attributes:
        name: name of its results; the last part of the place unless it is given.
        place: folder, id, ``MODEL/TAG`` or store.
        teacher: whose features, of ``store:`` only.
    """

    name: str
    kind: Kind
    place: str
    teacher: str | None = None

    @property
    def text(self) -> str:
        """Return the address without the name."""
        return f"{self.kind}:{self.place}" + (f"#{self.teacher}" if self.teacher else "")


def parse_address(text: str) -> Address:
    """Parse an address without a look at what it names; raise ConfigError if it is not an address."""
    given, sign, rest = text.partition("=")
    # A path may hold the sign; the kind stands before any path.
    name, address = (given, rest) if sign and ":" not in given else ("", text)
    kind, colon, place = address.partition(":")
    if not colon or kind not in KINDS:
        wrong = f"{kind!r} is no kind of model{suggest(kind, KINDS)}" if colon else f"{text!r} is no address of a model"
        raise ConfigError(wrong, hint="an address is one of\n  " + "\n  ".join(FORMS.values()))
    if kind == "store":
        place, _, teacher = place.rpartition("#")
        if not place or not teacher:
            raise ConfigError(f"{address!r} does not say which teacher's features", hint=FORMS["store"])
        return Address(name=name or teacher, kind="store", place=place, teacher=teacher)
    if not place.strip("/"):
        raise ConfigError(f"{address!r} names nothing", hint=FORMS[kind])
    if kind == "open_clip" and not all(place.partition("/")):
        raise ConfigError(f"{address!r} has no tag", hint=FORMS[kind])
    last = place.replace("/", "-") if kind == "open_clip" else PurePosixPath(place).name
    return Address(name=name or last, kind=cast("Kind", kind), place=place)


def parse_addresses(texts: list[str]) -> list[Address]:
    """Return several addresses.

    Raises:
        ConfigError: one is wrong, has a name that is taken, or two have the same name and would share results.
    """
    addresses = [parse_address(text) for text in texts]
    for place, address in enumerate(addresses):
        if address.name in TAKEN:
            raise ConfigError(f"no model may be called {address.name}: {TAKEN[address.name]} have that name")
        same = [other for other in addresses[:place] if other.name == address.name]
        if same:
            raise ConfigError(
                f"{same[0].text} and {address.text} are both called {address.name!r}",
                hint=f"give one another name: OTHER={address.text}",
            )
    return addresses
