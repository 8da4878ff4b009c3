"""Standard streams from which a terminal obeys the program alone, whatever strangers wrote into what it prints."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, TextIO, cast

from .errors import printable

_STYLES = re.compile(r"(\x1b\[[\d;]*m)")
_MOVES = re.compile(r"(\x1b\[[\d;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r)")
"""Escape sequences of styled text, and those of a progress bar: the cursor up, hidden and shown, a line erased."""


def guard_streams() -> None:
    """Let stdout and stderr write out control characters: other escape sequences, C1, bidi overrides, surrogates."""
    sys.stdout = cast("TextIO", _Guarded(sys.stdout, _STYLES))
    sys.stderr = cast("TextIO", _Guarded(sys.stderr, _MOVES))


def nothing_said() -> bool:
    """Return whether nothing was written to the guarded streams yet."""
    return not any(isinstance(stream, _Guarded) and stream.written for stream in (sys.stdout, sys.stderr))


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream behind a guarded one; any other stream as it is."""
    return stream.stream if isinstance(stream, _Guarded) else stream


class _Guarded:
    """A text stream. What is no terminal gets no escape sequence at all, unless the user forces colours."""

    def __init__(self, stream: TextIO, meant: re.Pattern[str]) -> None:
        self.stream, self.written = stream, False
        self._meant = meant if stream.isatty() or os.environ.get("FORCE_COLOR") else None

    def write(self, text: str) -> int:
        self.written = self.written or bool(text)
        if not text.replace("\n", "").isprintable():
            parts = self._meant.split(text) if self._meant else [text]
            # Every second part is what the pattern found.
            parts[::2] = [printable(part, keep="\n\t") for part in parts[::2]]
            self.stream.write("".join(parts))
        else:
            self.stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
