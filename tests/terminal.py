"""Programs on a terminal, and what is to be seen there."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Sequence


def on_a_terminal(command: Sequence[str], **options) -> tuple[int, str, str]:
    """Run a program whose stderr is a terminal and return its exit code, stdout, and all that it wrote to stderr."""
    terminal, other_end = pty.openpty()
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=other_end, text=True, **options
    ) as program:
        os.close(other_end)
        written = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
        out = program.stdout.read()
    os.close(terminal)
    return program.returncode, out, written.decode()


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows after some bytes: returns, line feeds, cursor up, lines erased."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\??[\d;]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b"):
            count = int(re.sub(r"\D", "", part) or 1)
            row = max(0, row - count) if part.endswith("A") else row
            lines[row] = "" if part == "\x1b[2K" else lines[row]
        else:
            lines[row] = (lines[row].ljust(column) + part)[: column + len(part)] + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]
