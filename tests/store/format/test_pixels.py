"""The pixel cache: what is committed comes back by row, and what is not committed is not there."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from store.errors import CorruptChunkError, IncompleteStoreError, PairDecodeError, SpecMismatchError
from store.format.pair_writer import PairWriter
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.pixels import (
    PIXEL_RECEIPTS,
    Pixels,
    PixelSpec,
    SmallImage,
    commit_pixels,
    pixel_receipt_key,
    pixels_key,
    register_pixels,
)
from store.format.records import STORE_KEY, Status, StoreInfo, read_record, read_store_info, write_record
from store.io.location import locate
from store.read.pixel_cache import FILES_OPEN, PixelCache
from store.read.reader import FeatureStore
from tests.store import damage

SPEC = PixelSpec.of(Pixels())
BAD_ROW = 5


def image_of(row):
    if row == BAD_ROW:
        return SmallImage(reason="cut short")
    return SmallImage(data=f"image {row}".encode() * (row + 1), width=row + 1, height=7)


def commit(units, range_id, *, spec=SPEC, location=None, image=image_of):
    start, stop = units.info.bounds(range_id)
    return commit_pixels(
        location or units.location,
        info=units.info,
        spec=spec,
        range_id=range_id,
        pairs=units.pairs.read(start, stop),
        images=[image(row) for row in range(start, stop)],
        timings_s={"encode": 0.5},
        versions={"pillow": "1"},
    )


@pytest.fixture
def filled(units):
    """A store of ten rows in ranges of four whose images are all there, row 5's being bad."""
    register_pixels(units.location, SPEC)
    for range_id in range(units.info.ranges):
        commit(units, range_id)
    return units


def cache_of(units, **options):
    return PixelCache(units.location, info=units.info, **options)


def test_images_come_back_by_row(filled):
    cache = cache_of(filled, chunks_kept=1)
    for row in [9, 0, 3, 4, 8, 1]:
        assert cache.fetch(row) == image_of(row).data
    assert cache.is_complete()


def test_a_bad_image_says_why(filled):
    with pytest.raises(PairDecodeError, match="cut short"):
        cache_of(filled).fetch(BAD_ROW)


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (3, 9), (5, 6), (4, 4)])
def test_a_stretch_of_rows_is_a_table(filled, start, stop):
    table = cache_of(filled).read(start, stop)
    expected = [image_of(row) for row in range(start, stop)]
    assert table["row"].to_pylist() == list(range(start, stop))
    assert table["image"].to_pylist() == [image.data for image in expected]
    assert table["width"].to_pylist() == [image.width for image in expected]
    assert table["status"].to_pylist() == [
        Status.BAD_IMAGE if row == BAD_ROW else Status.OK for row in range(start, stop)
    ]


def test_an_object_is_plain_parquet_whose_row_groups_are_chunks(filled):
    data = filled.location.read(pixels_key(1))
    file = pq.ParquetFile(pa.BufferReader(data))
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [2, 2]
    assert file.read()["image"].to_pylist()[1] is None
    assert data.count(image_of(4).data) == 1


def test_a_receipt_says_what_was_stored_and_what_was_not(filled):
    receipt = cache_of(filled).units.record(1)
    data = filled.location.read(pixels_key(1))
    stored = receipt.objects[pixels_key(1)]
    assert (stored.nbytes, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (receipt.start, receipt.stop, receipt.status_counts) == (4, 8, {"ok": 3, "bad_image": 1})
    assert [(bad.row, bad.key, bad.reason) for bad in receipt.bad_rows] == [(BAD_ROW, "p05", "cut short")]


def test_a_store_without_images_says_how_to_make_them(units):
    with pytest.raises(IncompleteStoreError, match="no images of its own") as caught:
        FeatureStore(units.path).pixels  # noqa: B018
    assert "extract pixels" in caught.value.hint


def test_the_cache_is_no_teacher(filled):
    store = FeatureStore(filled.path)
    assert store.teachers == []
    assert store.pixels.fetch(2) == image_of(2).data


def test_rows_without_receipt_are_not_there_whatever_is_stored(filled):
    filled.location.delete([pixel_receipt_key(1)])
    cache = cache_of(filled)
    assert cache.committed_rows().tolist() == [True] * 4 + [False] * 4 + [True] * 2
    assert not cache.is_complete()
    for use in (lambda: cache.fetch(4), lambda: cache.read(2, 6)):
        with pytest.raises(IncompleteStoreError, match="row 4 are not in the store yet"):
            use()


def test_a_damaged_receipt_counts_as_none_and_is_said(filled, caplog):
    filled.location.write(pixel_receipt_key(0), b"{")
    assert not cache_of(filled).committed_rows()[:4].any()
    assert "r000000.json" in caplog.text


def test_what_is_committed_is_left_alone(filled):
    before = {key: filled.location.read(key) for key, _ in filled.location.list("pixels")}
    commit(filled, 0, image=lambda row: SmallImage(data=b"another", width=1, height=1))
    assert {key: filled.location.read(key) for key, _ in filled.location.list("pixels")} == before


def test_the_same_images_give_the_same_bytes(filled):
    before = filled.location.read(pixels_key(2))
    filled.location.delete([pixel_receipt_key(2), pixels_key(2)])
    commit(filled, 2)
    assert filled.location.read(pixels_key(2)) == before


def test_other_pairs_of_a_range_make_its_receipt_stale(filled):
    damage.edit_pairs(filled.location, at=2, caption="another caption")
    assert not cache_of(filled).committed_rows()[:4].any()
    changed = PairTable(filled.location, filled.info).read(*filled.info.bounds(0))
    commit_pixels(
        filled.location,
        info=filled.info,
        spec=SPEC,
        range_id=0,
        pairs=changed,
        images=[SmallImage(data=b"new", width=1, height=1)] * 4,
        timings_s={},
        versions={},
    )
    assert cache_of(filled).fetch(0) == b"new"


def test_another_spec_is_refused_and_replaces_only_when_asked(filled):
    other = PixelSpec.of(Pixels(quality=80))
    with pytest.raises(SpecMismatchError, match=r"(?s)jpeg \(quality 80.*jpeg \(quality 90") as caught:
        register_pixels(filled.location, other)
    assert "--replace" in caught.value.hint
    assert cache_of(filled).is_complete()
    at = register_pixels(filled.location, other, replace=True)
    assert cache_of(filled).is_complete()
    assert cache_of(filled).spec == SPEC
    assert read_record(filled.location.below(at), "pixels/spec.json", PixelSpec) == other


def test_registering_the_same_spec_again_keeps_everything(filled):
    register_pixels(filled.location, SPEC)
    assert cache_of(filled).is_complete()


def test_a_receipt_of_another_spec_does_not_count(filled):
    write_record(filled.location, "pixels/spec.json", PixelSpec.of(Pixels(short_side_px=100)))
    assert not cache_of(filled).committed_rows().any()


@pytest.mark.parametrize("how", ["gone", "cut", "other rows", "flipped"])
def test_an_object_that_is_not_what_was_committed_is_an_error_that_names_it(filled, how):
    data = filled.location.read(pixels_key(0))
    place = data.index(image_of(1).data)
    others = {
        "cut": data[:-30],
        "other rows": filled.location.read(pixels_key(2)),
        "flipped": data[:place] + b"J" + data[place + 1 :],
    }
    filled.location.delete([pixels_key(0)])
    if how in others:
        filled.location.write(pixels_key(0), others[how])
    with pytest.raises(CorruptChunkError, match=r"pixels/r000000\.parquet") as caught:
        cache_of(filled).fetch(1)
    assert "restore it from a copy; without one move the folder pixels/ out of the store" in caught.value.hint


def test_a_failed_read_is_tried_again(filled):
    data = filled.location.read(pixels_key(0))
    filled.location.delete([pixels_key(0)])
    cache = cache_of(filled)
    with pytest.raises(CorruptChunkError):
        cache.fetch(1)
    filled.location.write(pixels_key(0), data)
    assert cache.fetch(1) == image_of(1).data


def test_after_an_append_the_old_rows_of_the_last_range_are_still_there(filled):
    damage.append_pairs(filled.location, 4)
    cache = PixelCache(filled.location, info=read_store_info(filled.location))
    assert cache.fetch(9) == image_of(9).data
    assert cache.committed_rows().tolist() == [True] * 10 + [False] * 4
    with pytest.raises(IncompleteStoreError, match="row 10"):
        cache.fetch(10)


def test_each_chunk_is_requested_once_where_enough_are_kept(units):
    remote = damage.copy(units.location, locate("memory://pixels-test/store"))
    register_pixels(remote, SPEC)
    for range_id in range(units.info.ranges):
        commit(units, range_id, location=remote)
    reader = locate("memory://pixels-test/store")
    cache = PixelCache(reader, info=units.info, chunks_kept=5)
    rows = [row for row in np.random.default_rng(0).permutation(10) if row != BAD_ROW]
    for row in rows:
        cache.fetch(int(row))
    requests = sum(reader.requests.values())
    for row in rows:
        cache.fetch(int(row))
    assert sum(reader.requests.values()) == requests


def test_threads_that_want_the_same_rows_all_get_them(filled):
    cache = cache_of(filled, chunks_kept=2)
    rows = [int(row) for row in np.random.default_rng(1).integers(10, size=300) if row != BAD_ROW]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(cache.fetch, rows)) == [image_of(row).data for row in rows]


def test_a_cache_can_be_sent_to_another_process(filled):
    cache = cache_of(filled, chunks_kept=3)
    cache.fetch(0)
    assert pickle.loads(pickle.dumps(cache)).fetch(9) == image_of(9).data  # noqa: S301


def test_the_spec_states_what_decides_the_bytes():
    assert SPEC.options == {"quality": 90, "subsampling": "4:4:4"}
    lossless, lossy = Pixels(format="webp", quality="lossless"), Pixels(format="webp", quality=80)
    assert PixelSpec.of(lossless).options == {"lossless": True, "method": 4}
    assert PixelSpec.of(lossy).options == {"quality": 80, "method": 4}
    others = [Pixels(short_side_px=224), Pixels(quality=91), Pixels(format="webp"), lossless, lossy]
    assert len({SPEC.hash, *(PixelSpec.of(section).hash for section in others)}) == 6


def test_a_spec_survives_its_file(units):
    register_pixels(units.location, SPEC)
    stored = json.loads(units.location.read("pixels/spec.json"))
    assert PixelSpec(**stored).hash == SPEC.hash


@pytest.mark.parametrize(
    "section", [{"format": "jpeg", "quality": "lossless"}, {"quality": 0}, {"format": "png"}, {"short_side_px": 0}]
)
def test_a_section_that_asks_for_what_there_is_not_is_refused(section):
    with pytest.raises(ValidationError):
        Pixels(**section)


def test_images_of_another_number_than_the_pairs_are_refused_before_anything_is_written(units):
    register_pixels(units.location, SPEC)
    with pytest.raises(ValueError, match="1 images were given for 4 pairs"):
        commit_pixels(
            units.location,
            info=units.info,
            spec=SPEC,
            range_id=0,
            pairs=units.pairs.read(0, 4),
            images=[SmallImage(data=b"x", width=1, height=1)],
            timings_s={},
            versions={},
        )
    assert list(units.location.list(PIXEL_RECEIPTS)) == []


@pytest.fixture
def of_many_ranges(tmp_path):
    """A pixel cache of 100 ranges of one row."""
    location = locate(tmp_path / "many")
    writer = PairWriter(location, range_rows=1)
    columns = {field.name: pa.nulls(100, field.type) for field in PAIR_SCHEMA if field.name != "row"}
    writer.add(pa.table(columns | {"key": pa.array([str(row) for row in range(100)])}))
    shape = {"rows": 100, "range_rows": 1, "chunk_rows": 1, "parts": writer.close()}
    info = StoreInfo(**shape, created_by="test", corpus_root="/nowhere", corpus={})
    write_record(location, STORE_KEY, info)
    register_pixels(location, SPEC)
    for row in range(100):
        commit_pixels(
            location,
            info=info,
            spec=SPEC,
            range_id=row,
            pairs=pa.table({"key": [str(row)], "caption": [None], "image_sha256": [None]}),
            images=[SmallImage(data=b"%d" % row, width=1, height=1)],
            timings_s={},
            versions={},
        )
    return PixelCache(location, info=info)


def test_no_more_files_are_open_than_the_bound_however_many_ranges_are_read(of_many_ranges):
    for row in (*range(100), *range(0, 100, 7)):
        assert of_many_ranges.fetch(row) == b"%d" % row
    assert sum("/many/pixels/" in file.path for file in psutil.Process().open_files()) == FILES_OPEN


def test_a_process_that_may_open_few_files_reads_many_ranges_and_is_not_told_that_they_are_damaged(of_many_ranges):
    code = (
        "import resource, sys\n"
        "from store.errors import LocationError\n"
        "from store.read.reader import FeatureStore\n"
        "cache = FeatureStore(sys.argv[1]).pixels\n"
        "cache.is_complete(), cache.fetch(0)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)\n"
        "try: print(sum(int(cache.fetch(row)) for row in range(100)))\n"
        "except LocationError as error: print(error)\n"
    )
    for limit, expected in ((64, "4950"), (12, "Too many open files")):
        arguments = [sys.executable, "-c", code, of_many_ranges.location.uri, str(limit)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert expected in done.stdout, done.stderr
