"""The account of an index tells what became of captions."""

from __future__ import annotations

import json

from PIL import Image

from store.corpus.section import Corpus
from store.index.merge import read_corpus
from store.texts.captions import CONTROLS, MISSING_VALUE, SURROGATES, WITHOUT_WORD


def test_captions_without_a_word_and_altered_ones_are_counted(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    captions = [
        "\u200b",
        "...",
        "chest\u0007 x-ray",
        "nan",
        float("nan"),
        None,
        "ct",
        ["mri", "?!", "\ufeffmri"],
        "\ud83d ct",
    ]
    lines = [json.dumps({"id": str(n), "image": "a.png", "caption": text}) for n, text in enumerate(captions)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    index = read_corpus(Corpus(files=[str(tmp_path / "pairs.jsonl")]))
    found = index.table["caption"].to_pylist()
    assert found == [None, None, "chest x-ray", None, None, None, "ct", "mri", "ct"]
    account = index.account
    assert account.passed[WITHOUT_WORD].count == 3
    assert account.passed[MISSING_VALUE].count == 1
    assert account.changed[CONTROLS].count == 2
    assert account.changed[SURROGATES].count == 1
    assert account.passed[WITHOUT_WORD].first == "pairs.jsonl: 0"
