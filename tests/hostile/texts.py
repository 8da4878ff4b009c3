"""Texts that a stranger may write into a corpus, a store or a folder of results, and ways to see their effects."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from store.corpus.section import Corpus
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PairTable
from store.format.records import Spec, Status
from store.index.create import index_corpus
from store.io.location import locate

EVIL = (
    "=A1\x1b]8;;http://evil\x07link\x1b]52;c;aGk=\x07\x9b31m\u202eright\b\r\x00\x1b[2Jgone\x1b[8mhidden"
    "\n# heading|<script>alert(1)</script>[bold]x[/]"
)
"""OSC 8 and 52, CSI, C1, a bidi override, a backspace, NUL, concealed text, a line break, Markdown, HTML, markup."""

NAME = "be\x1b[2J\x9b\u202e\nta[red]"

OBEYED = re.compile(
    rb"\x1b(?!\[[\d;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\r(?!\n)|\x1b\[8m|\xc2[\x80-\x9f]"
    rb"|\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]|\xed[\xa0-\xbf]"
)
"""Bytes that a terminal obeys, beside the styles of a table."""


def effects(written: bytes) -> list[str]:
    """Return what a terminal would obey, and lines that a stranger's line break began."""
    broken = [line for line in written.splitlines() if line.lstrip(b" |-*>").startswith(b"# heading")]
    return [repr(found) for found in (*OBEYED.findall(written), *broken)]


def said(*command: str, folder=None) -> tuple[int, bytes, bytes]:
    """Run ``python -m`` and return its exit code, what it wrote to stdout, and to stderr."""
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "MMKD_LOG": "DEBUG"}
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, check=False, env=environment, cwd=folder
    )
    return done.returncode, done.stdout, done.stderr


def said_on_a_terminal(*command: str) -> bytes:
    """Run ``python -m`` with stdout on a terminal and return what it wrote there."""
    terminal, other_end = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-m", *command], stdout=other_end, stderr=other_end, env=environment) as run:
        os.close(other_end)
        written = b""
        while part := _part(terminal):
            written += part
        run.wait()
    os.close(terminal)
    return written.replace(b"\r\n", b"\n")


def _part(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def evil_store(folder):
    """Make a store of ten pairs and two teachers in which every text is a stranger's; return its folder."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    with (corpus / "pairs.jsonl").open("w") as file:
        for row in range(10):
            name = f"{row}\x1b[2J\u202e.png"
            Image.new("RGB", (8 + row, 8), (row, row, row)).save(corpus / name)
            texts = dict.fromkeys(("modality", "split", "source", "license"), EVIL)
            file.write(json.dumps({"key": f"{row}{EVIL}", "image": name, "caption": f"{EVIL} {row}", **texts}) + "\n")
    store = folder / "store"
    files = Corpus(files=[str(corpus / "pairs.jsonl")])
    info, _ = index_corpus(store, files, range_rows=4, chunk_rows=2, workers=1)
    for teacher, ranges in (("alpha", 3), ("beta", 1)):
        _extract(locate(store), info, teacher, ranges)
    # These programs write no such name, others may.
    spec = json.loads((store / "specs/beta.json").read_bytes()) | {"teacher": NAME}
    (store / f"specs/{NAME}.json").write_text(json.dumps(spec))
    return store


def _extract(location, info, teacher, ranges):
    spec = Spec(
        teacher=teacher,
        embed_dim=4,
        weights_sha256="ab" * 32,
        architecture={EVIL: EVIL},
        preprocessing={"size": 8},
        tokenizer={"n": EVIL},
        output=EVIL,
        compute_dtype="float32",
        notes={"licence": EVIL, "source": EVIL, EVIL: EVIL},
    )
    register_teacher(location, spec, info=info)
    pairs = PairTable(location, info)
    for number in range(ranges):
        start, stop = info.bounds(number)
        drawn = np.random.default_rng(number).normal(size=(2, stop - start, 4)).astype(np.float32)
        image, text = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
        status, reasons = np.full(stop - start, Status.OK, np.uint8), {}
        if number == 0:
            status[1], reasons[1] = Status.BAD_IMAGE, EVIL
        commit_unit(
            location,
            info=info,
            spec=spec,
            range_id=number,
            pairs=pairs.read(start, stop),
            features=UnitFeatures(image=image, text=text, status=status, reasons=reasons),
            circumstances=Circumstances(
                device=EVIL, batch_size=2, run_id=EVIL, attempt=1, timings_s={"decode": 0.5}, versions={EVIL: EVIL}
            ),
        )
