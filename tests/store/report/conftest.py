"""Stores for the page, and what a page says as a browser reads it."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from typer.main import get_command

from store.cli.program import app


class Page(HTMLParser):
    """A page as a browser reads it: its visible text, its elements, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.text, self.elements, self.sources = "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.elements.append((tag, found))
        self.sources += [found[name] for name in ("src", "href", "action", "srcset", "data") if found.get(name)]

    def handle_data(self, data):
        self.text += data

    def images(self):
        return [one for one in self.sources if one.startswith("data:image/jpeg;base64,")]


@pytest.fixture
def made(tmp_path, capsys):
    """Return a function that makes the page of a store, and returns it with the data that --json prints."""

    def make(store, *options):
        out = tmp_path / "report.html"
        get_command(app)(["report", str(store), "--out", str(out), "--json", *options], standalone_mode=False)
        return Page(out.read_text()), json.loads(capsys.readouterr().out), out

    return make
