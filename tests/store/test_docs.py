"""The examples of docs/api.md do what the document says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(document):
    """Return (line, code, expected output or None); a ``text`` block shows the output of the code before it."""
    found, text = [], (ROOT / document).read_text()
    for match in BLOCK.finditer(text):
        language, content = match.groups()
        if language == "python":
            found.append((text.count("\n", 0, match.start()) + 2, content, None))
        elif language == "text":
            line, code, shown = found[-1]
            assert shown is None, f"{document}:{line}: two outputs follow this example"
            found[-1] = (line, code, content)
    return found


def run(document, blocks):
    """Run examples in order in one namespace and return what each printed."""
    printed, namespace = [], {"__name__": "docs"}
    for line, code, _ in blocks:
        output = io.StringIO()
        # Padded, so that a traceback names the document's lines.
        program = compile("\n" * (line - 1) + code, document, "exec")
        with contextlib.redirect_stdout(output):
            exec(program, namespace)  # noqa: S102
        printed.append(output.getvalue())
    return printed


def test_the_examples_of_the_api_print_what_the_document_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = examples("docs/api.md")
    assert len(blocks) >= 10
    for (line, _, expected), printed in zip(blocks, run("docs/api.md", blocks), strict=True):
        assert printed == (expected or ""), f"docs/api.md:{line}"


def test_every_method_of_a_store_is_in_the_document():
    from store.read.reader import FeatureStore

    text = (ROOT / "docs/api.md").read_text()
    public = {name for name in vars(FeatureStore) if not name.startswith("_")}
    assert public
    assert {name for name in public if not re.search(rf"[.`]{name}\b", text)} == set()
