"""The examples of docs/api.md do what the document says, and links of all documents lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))
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


def headings_of(document):
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", *DOCUMENTS])
def test_links_lead_somewhere(document):
    here = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", here.read_text(), flags=re.DOTALL)):
        path, _, anchor = target.partition("#")
        if not path.startswith(("http:", "https:")):
            there = here.parent.joinpath(path) if path else here
            assert there.exists(), target
            assert not anchor or anchor in headings_of(there), target
