"""A store of the day the format was frozen still reads as it did, and is still written as it was.

The expected numbers are worked out by hand from the Pythagorean triples that make_fixture.py names, or sha256sum
says them of the files. If one of these tests fails, the format has changed: stores that users have would read wrongly.
"""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from store.check.verify import verify
from store.cli.program import app
from store.errors import PairDecodeError
from store.images.decode import decode_image
from store.io.location import locate
from store.read.reader import FeatureStore

from . import by_the_book as book
from .make_fixture import FIXTURE, FIXTURE_1, make

STORE, CORPUS = FIXTURE / "store", FIXTURE / "corpus"
ALPHA_HASH = "3958f30ed4a68a2e4bb8fcefcb9b9cbf9da6d8d977f4d4b65b01fd538a4e2f55"
BETA_HASH = "9262073fe611529a38ee7663fb5a7fed52df994e0cc74d1639fb88d5cdecf185"
PAIRS_DIGESTS = {
    0: "dcef99d9d19fa7c52d5c460941cd1fb7d3606a9cda6712cae5729138f7305c1b",
    1: "c0f599f590df9f642b894868ad5573028b9029442122a7e339a94fb69cfe5316",
    2: "72c12baa0658e17aa53916e91d343ba0bf93330245eb9b2af0ffdb783a0efc89",
}
OBJECTS = {
    "alpha/image/c/0/0": "b3537b0384be8aca91e529503a4c4bff30ba86d899123cff4a8731dd20141083",
    "alpha/text/c/1/0": "7629c3e1811858554c37fc38d41f50f1d711a1022843ab3b41851cca7beee9b9",
    "alpha/similarity/c/1": "8a2f71e63a05e553a411ef8dabda9e7847d2d39dfa5def2e251dab95a20c4fa6",
    "alpha/status/c/0": "ce5a65d00841d5c59c2296a288074e5523a631adfa1c34f52ff1707131947253",
    "beta/image/c/0/0": "f06c935b6b9e4beddb8c27f686aef47e5843c6b8f53ad1452eb2e8d1c834c856",
    "beta/image/c/2/0": "58ce83a69e79aed9e5d4c5f2e74de442f44b4e068767027c39c2433471f4bb0c",
}

# Image (a/c, b/c), text (b/c, a/c) of 3 4 5, 5 12 13 and 8 15 17: rows 0, 1 and 2 of every three.
FLOAT16 = ((0.60009765625, 0.7998046875), (0.384521484375, 0.9228515625), (0.470703125, 0.88232421875))
# 95, 53 and 68 beside 127, divided by their length.
INT8 = ((0.59899069, 0.80075598), (0.38513130, 0.92286179), (0.47202877, 0.88158314))
COSINE = (0.96, 0.71005917, 0.83044983)


@pytest.fixture(scope="module", params=[STORE, FIXTURE_1 / "store"], ids=["format 2", "format 1"])
def store(request):
    return FeatureStore(request.param, corpus_root=CORPUS)


def expected(values, *, width, rows):
    """Features by row; None stands for a row of zeros."""
    image, text = np.zeros((2, len(rows), width))
    for position, row in enumerate(rows):
        if row is not None:
            first, second = values[row % 3]
            start = row % (width - 1)
            image[position, start : start + 2] = first, second
            text[position, start : start + 2] = second, first
    return {"image": image, "text": text}


ROWS = [*range(5), None, *range(6, 20)]
BETA_ROWS = [0, 1, None, None, 4, None, 6, 7, *[None] * 8, 16, 17, 18, 19]


@pytest.mark.parametrize("side", ["image", "text"])
def test_float16_features_read_to_the_last_bit(store, side):
    read = store.read(slice(0, 20), teacher="alpha", side=side)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, expected(FLOAT16, width=4, rows=ROWS)[side])


@pytest.mark.parametrize("side", ["image", "text"])
def test_int8_features_read_as_known_with_zeros_in_the_hole(store, side):
    read = store.read(slice(0, 20), teacher="beta", side=side)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, expected(INT8, width=6, rows=BETA_ROWS)[side], rtol=0, atol=2e-7)


def test_single_numbers_are_these(store):
    """Spelled out, so that no mistake in this file's arithmetic hides one in the store's."""
    row_0 = store.read(np.array([0]), teacher="alpha", side="image")
    assert row_0.tolist() == [[0.60009765625, 0.7998046875, 0.0, 0.0]]
    row_19 = store.read(np.array([19]), teacher="alpha", side="text")
    assert row_19.tolist() == [[0.0, 0.9228515625, 0.384521484375, 0.0]]
    assert store.similarity("alpha")[19] == pytest.approx(0.7100592, abs=1e-7)


def test_status_and_similarity_are_as_known(store):
    assert store.status("alpha").tolist() == [1] * 5 + [2] + [1] * 14
    assert store.status("beta").tolist() == [1, 1, 6, 6, 1, 2, 1, 1] + [0] * 8 + [1] * 4
    for teacher, rows in (("alpha", ROWS), ("beta", BETA_ROWS)):
        cosines = [0 if row is None else COSINE[row % 3] for row in rows]
        np.testing.assert_allclose(store.similarity(teacher), cosines, rtol=0, atol=1e-7)
    assert (store.is_complete("alpha"), store.is_complete("beta")) == (True, False)


def test_hashes_and_digests_are_as_known(store):
    assert (store.spec("alpha").hash, store.spec("beta").hash) == (ALPHA_HASH, BETA_HASH)
    for teacher, ranges in (("alpha", [0, 1, 2]), ("beta", [0, 2])):
        receipts = store.receipts(teacher)
        assert sorted(receipts) == ranges
        assert {number: receipts[number].pairs_digest for number in ranges}.items() <= PAIRS_DIGESTS.items()
    for key, digest in OBJECTS.items():
        assert hashlib.sha256((STORE / "features.zarr" / key).read_bytes()).hexdigest() == digest


def test_the_bad_row_says_what_is_wrong_and_its_image_cannot_be_decoded(store):
    (bad,) = store.receipts("alpha")[0].bad_rows
    assert (bad.row, bad.key, bad.status) == (5, "pair05", 2)
    pair = store.pairs.read(5, 6).to_pylist()[0]
    data = store.images.fetch(pair["uri"], pair["member"], sha256=pair["image_sha256"])
    assert data == b"no image"
    with pytest.raises(PairDecodeError, match="not an image"):
        decode_image(data)


def test_pairs_and_images_are_as_known(store):
    pairs = store.pairs.read(0, 20)
    assert pairs["key"].to_pylist() == [f"pair{row:02d}" for row in range(20)]
    assert pairs["caption"].to_pylist() == ["Größe 3 µm, grade Ⅱ 🩻", *(f"finding {row}" for row in range(1, 20))]
    assert pairs["modality"].to_pylist() == (["xray", "ct", None] * 7)[:20]
    assert pairs["split"].to_pylist() == ["train"] * 16 + ["test"] * 4
    assert store.pairs.row_of("pair13") == 13
    pair = pairs.slice(13, 1).to_pylist()[0]
    image = decode_image(store.images.fetch(pair["uri"], pair["member"], sha256=pair["image_sha256"]))
    assert (image.size, image.getpixel((3, 3))) == ((21, 8), (130, 65, 242))


def test_it_is_valid_to_the_last_byte_by_the_program_and_by_the_document():
    report = verify(locate(STORE), deep=True)
    assert report.problems == []
    assert report.counts() == {
        "alpha": {"verified": 3, "outgrown": 0, "missing": 0, "damaged": 0},
        "beta": {"verified": 2, "outgrown": 0, "missing": 1, "damaged": 0},
    }
    assert book.damage(STORE, "alpha") == book.damage(STORE, "beta") == []


@pytest.mark.parametrize("arguments", [["info", str(STORE)], ["row", str(STORE), "pair05"]])
def test_the_command_line_reads_it(arguments):
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    if arguments[0] == "row":
        assert (shown["row"], shown["teachers"]["beta"]["status"]) == (5, "bad_image")
    else:
        assert (shown["rows"], shown["feature_pairs"], shown["teachers"]["beta"]["rows_missing"]) == (20, 28, 8)


def test_a_copy_elsewhere_reads_the_same(store, tmp_path):
    copy = FeatureStore(shutil.copytree(STORE, tmp_path / "moved"))
    np.testing.assert_array_equal(
        copy.read(slice(3, 9), teacher="beta", side="text"), store.read(slice(3, 9), teacher="beta", side="text")
    )


@pytest.fixture(scope="module")
def made_today(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixture") / "small"
    make(folder)
    return folder


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_todays_programs_write_the_same_objects_to_the_byte(made_today):
    """All but Parquet, whose bytes are pyarrow's business, and the name of the program."""
    assert files_of(made_today) == files_of(FIXTURE)
    for name in files_of(FIXTURE):
        if not name.endswith((".parquet", "store.json")):
            assert (made_today / name).read_bytes() == (FIXTURE / name).read_bytes(), name
    today, then = (json.loads((folder / "store/store.json").read_bytes()) for folder in (made_today, FIXTURE))
    assert {**today, "created_by": ""} == {**then, "created_by": ""}


@pytest.mark.parametrize("name", ["pairs/part-00000", "keys"])
def test_todays_programs_write_the_same_tables(made_today, name):
    today = pq.ParquetFile(made_today / f"store/{name}.parquet")
    then = pq.ParquetFile(FIXTURE / f"store/{name}.parquet")
    assert today.schema_arrow.equals(then.schema_arrow)
    assert today.read().equals(then.read())
    groups = [[file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] for file in (today, then)]
    assert groups[0] == groups[1]


def test_it_is_small():
    assert sum((FIXTURE / name).stat().st_size for name in files_of(FIXTURE)) < 200_000
