"""Captions that a teacher reads in part are counted by row, in the receipt of each unit."""

from __future__ import annotations

import json
import tarfile

import numpy as np
from open_clip.tokenizer import SimpleTokenizer

from store.read.reader import FeatureStore
from store.texts.tokens import open_clip_tokenizer


def test_rows_whose_caption_is_cut_are_counted_in_the_receipt(
    tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here
):
    image, long = encoded(np.full((64, 64, 3), 90, np.uint8)), " ".join(["chest x-ray"] * 40)
    # The long caption is that of three rows, one of which has no image and so is not ok.
    pairs = [("k0", image, long), ("k1", image, "chest x-ray"), ("k2", image, long), ("k3", b"", long)]
    pairs += [(f"k{row}", image, "axial ct") for row in range(4, 8)]
    path = write_pipeline(
        tmp_path,
        files=[write_tar(tmp_path / "corpus", pairs) / "*.tar"],
        teachers=teachers,
        range_rows=4,
        chunk_rows=4,
        batch_size=3,
    )
    store = FeatureStore(extract_here(path)[0])
    for name in teachers:
        receipts = store.receipts(name)
        assert [receipts[number].truncated_captions for number in (0, 1)] == [2, 0]


def test_real_captions_have_the_originals_ids(shared_data):
    captions = [question["question"] for question in json.loads((shared_data("vqa_rad") / "qa.json").read_text())]
    for path in sorted(shared_data("vqa_rad").glob("*.tar")):
        with tarfile.open(path) as tar:
            captions += [tar.extractfile(one).read().decode() for one in tar if one.name.endswith(".txt")]
    captions += [json.loads(line)["txt"] for line in (shared_data("mmkd_demo") / "meta.jsonl").open()]
    assert len(captions) > 3_800
    np.testing.assert_array_equal(
        open_clip_tokenizer(SimpleTokenizer())(captions).ids_BL, SimpleTokenizer()(captions).numpy()
    )
