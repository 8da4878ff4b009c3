"""Candidates become rows by the rules, which are written out here with sets."""

from __future__ import annotations

import functools
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from store.corpus.account import Account
from store.corpus.curation import Keep
from store.errors import CorpusError
from store.index.index_file import ACCOUNT_KEY, CANDIDATE_SCHEMA
from store.index.merge import CANDIDATES, create_candidates, merge
from store.io.scratch import scratch_database


def drawn(seed, *, keys):
    """Draw candidates of several files: images with one to three captions, hashes from few so that many repeat."""
    rng, files = np.random.default_rng(seed), []
    for _ in range(4):
        rows = []
        for group in range(int(rng.integers(0, 30))):
            image = int(rng.integers(0, 60)) if rng.random() < 0.9 else None
            difference = int(rng.integers(0, 40)) if image is not None and rng.random() < 0.8 else None
            for _ in range(int(rng.integers(1, 4))):
                pair = None if image is None else image * 4 + int(rng.integers(0, 4))
                key = int(rng.integers(0, keys))
                rows.append({"group": group, "key": str(key), "key_hash": key, "image_hash": image})
                rows[-1] |= {"pair_hash": pair, "difference_hash": difference}
        files.append(rows)
    return files


def part(rows):
    buffer = io.BytesIO()
    columns = {name: [row.get(name) for row in rows] for name in CANDIDATE_SCHEMA.names}
    with pq.ParquetWriter(buffer, CANDIDATE_SCHEMA) as writer:
        writer.write_table(pa.table(columns, schema=CANDIDATE_SCHEMA), row_group_size=7)
        writer.add_key_value_metadata({ACCOUNT_KEY: Account(pairs=len(rows)).model_dump_json()})
    return functools.partial(pq.ParquetFile, pa.BufferReader(buffer.getvalue()))


def expected(files, older, duplicates, near):
    """Return what is kept, and how many rows have an image and a pair that occur before."""
    images, pairs = {row["image_hash"] for row in older}, {row["pair_hash"] for row in older}
    kept, same, differences = (
        [],
        [0, 0],
        [row["difference_hash"] for row in older if row["difference_hash"] is not None],
    )
    for rows in files:
        for group in sorted({row["group"] for row in rows}):
            captions = [row for row in rows if row["group"] == group]
            image, difference = captions[0]["image_hash"], captions[0]["difference_hash"]
            again = image is not None and image in images
            fates = []
            for row in captions:
                pair_again = image is not None and row["pair_hash"] in pairs
                pairs.add(row["pair_hash"])
                same[0], same[1] = same[0] + again, same[1] + pair_again
                fates.append(not {"image": again, "pair": pair_again, None: False}[duplicates])
            images.add(image)
            if near is not None and difference is not None and any(fates):
                if any((difference ^ other).bit_count() <= near for other in differences):
                    fates = [False] * len(fates)
                else:
                    differences.append(difference)
            kept += fates
    return kept, *same


@pytest.mark.parametrize("near", [None, 1])
@pytest.mark.parametrize("duplicates", [None, "image", "pair"])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_kept_by_the_rules_in_the_order_of_the_files(seed, duplicates, near):
    files = drawn(seed, keys=2**60)
    older = drawn(seed + 100, keys=2**60)[0] if seed else []
    with scratch_database() as database:
        create_candidates(database)
        names = ("key_hash", "image_hash", "pair_hash", "difference_hash")
        columns = [[row[name] for row in older] for name in names]
        positions = list(range(-len(older), 0))
        database.from_arrow(pa.table([positions, positions, *columns], schema=CANDIDATES)).insert_into("candidates")
        merged = merge(database, list(map(part, files)), Keep(duplicates=duplicates, near_duplicates=near))
    kept, same_image, same_pair = expected(files, older, duplicates, near)
    assert merged.keep_N.tolist() == kept
    assert (merged.same_image, merged.same_pair) == (same_image, same_pair)
    assert merged.part_rows == [len(rows) for rows in files]
    assert sum(merged.account.dropped.values()) == kept.count(False)


def test_keys_that_repeat_among_the_rows_are_refused_and_those_of_refused_candidates_are_not():
    rows = [
        {"group": n, "key": "k", "key_hash": 1, "image_hash": 5, "pair_hash": n, "difference_hash": None}
        for n in (0, 1)
    ]
    with (
        scratch_database() as database,
        pytest.raises(CorpusError, match="more than once in the corpus: 1, for instance 'k'"),
    ):
        merge(database, [part(rows[:1]), part(rows[:1])], Keep())
    with scratch_database() as database:
        assert merge(database, [part(rows)], Keep(duplicates="image")).keep_N.tolist() == [True, False]
