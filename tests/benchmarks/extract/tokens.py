"""Captions per CPU second of open_clip's and transformers' tokenizers beside those of Rust in batches, in one run.

python -m tests.benchmarks.extract.tokens [--captions 20000]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from transformers import AutoTokenizer

from store.texts.tokens import open_clip_tokenizer, transformers_tokenizer
from tests.extract.authors_files import write_vocabulary
from tests.store.texts.test_tokens import drawn


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
        print(f"{count:,} drawn captions, one in twelve odd; {os.cpu_count()} cores, load {os.getloadavg()}")
        print("| tokenizer | before | now | ratio |\n|---|---|---|---|")
        for name, (before, now) in kinds.items():
            slow, fast = per_cpu_second(before, captions), per_cpu_second(now, captions)
            print(f"| {name} | {slow:,.0f} | {fast:,.0f} | {fast / slow:.1f} |")
        word = ["pneumothorax" * 667]
        began = time.process_time()
        kinds["CLIP's BPE (open_clip)"][1](word)
        print(f"one word of {len(word[0]):,} letters: {1e3 * (time.process_time() - began):.1f} ms")


if __name__ == "__main__":
    main()
