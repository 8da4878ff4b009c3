"""Captions per CPU second of the tokenizers of open_clip and transformers beside ours, and whether the ids are equal.

python -m tests.benchmarks.extract.tokens [--captions 20000]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from transformers import AutoTokenizer

from store.texts.tokens import open_clip_tokenizer, transformers_tokenizer
from tests.benchmarks.tables import table
from tests.extract.authors_files import write_vocabulary
from tests.store.texts.test_tokens import drawn

NINE = {
    "CLIP's BPE (open_clip)": (4, 1),
    "WordPiece (open_clip, 256)": (3, 2),
    "WordPiece (transformers, 77)": (2, 2),
}
"""Number of times that the nine teachers of ``mmkd`` read a caption: once per teacher, and once per tokenizer."""


def per_cpu_second(tokenize, captions, *, repeats=3):
    """Return captions per CPU second, the best of some repeats; each has captions of its own."""
    size, best = len(captions) // repeats, 0.0
    for number in range(repeats):
        part = captions[number * size : (number + 1) * size]
        began = time.process_time()
        tokenize(part)
        best = max(best, size / (time.process_time() - began))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=20_000)
    count = parser.parse_args().captions
    captions = drawn(count, seed=7)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_vocabulary(folder, 300)
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))

        def own():
            return AutoTokenizer.from_pretrained(temporary)

        def padded(part):
            return own()(part, padding="max_length", truncation=True, max_length=77, return_tensors="np")

        kinds = {
            "CLIP's BPE (open_clip)": (SimpleTokenizer(), open_clip_tokenizer(SimpleTokenizer())),
            "WordPiece (open_clip, 256)": (
                HFTokenizer(temporary, context_length=256),
                open_clip_tokenizer(HFTokenizer(temporary, context_length=256)),
            ),
            "WordPiece (transformers, 77)": (padded, transformers_tokenizer(own(), 77)),
        }
        costs_s, rows = np.zeros(2), []
        for name, (before, now) in kinds.items():
            rates = np.array([per_cpu_second(before, captions), per_cpu_second(now, captions)])
            costs_s += np.array(NINE[name]) / rates
            expected_BL = np.asarray(getattr(before(captions), "input_ids", before(captions)))
            equal = int((now(captions).ids_BL == expected_BL).all(axis=1).sum())
            rows.append([name, *map(float, rates), float(rates[1] / rates[0]), f"{equal:,} of {count:,}"])
        table(("tokenizer", "before", "now", "ratio", "equal"), rows)
        before_ms, now_ms = 1e3 * costs_s
        print(f"\nNine teachers: {before_ms:.2f} and {now_ms:.3f} CPU ms per caption, {before_ms / now_ms:.0f} times.")
        word = ["pneumothorax" * 667]
        began = time.process_time()
        kinds["CLIP's BPE (open_clip)"][1](word)
        print(f"One word of {len(word[0]):,} letters: {1e3 * (time.process_time() - began):.1f} ms.")


if __name__ == "__main__":
    main()
