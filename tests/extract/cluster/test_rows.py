"""Rows that harm the process that works on them, on Ray: left out with their reason, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from store.faults import KILL_AT, MISBEHAVE_AT
from store.format.records import Status
from store.read.reader import FeatureStore
from tests.extract.cluster_cases import Run, progress, receipts

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.end_to_end, pytest.mark.timeout(900)]

UNITS, R = 50, 16


def keys_of(store, rows):
    pairs = FeatureStore(store).pairs
    return [pairs.read(row, row + 1, ["key"])["key"][0].as_py() for row in rows]


def test_rows_that_end_or_hang_their_process_are_found_and_the_rest_is_as_ever(
    tmp_path, long_pipeline, prepare, extract_here, stored_digests, undisturbed
):
    config = long_pipeline(tmp_path, workers=2, attempts=2, stall_timeout_s=6, progress_interval_s=0.5)
    prepare(config)
    store = tmp_path / "store"
    ends, hangs = 3 * R + 5, 20 * R + 9
    of_ends, of_hangs = keys_of(store, [ends, hangs])
    with Run(config, **{MISBEHAVE_AT: f"exit:{of_ends},hang:{of_hangs}"}) as run:
        code, said = run.end()
    assert code == 0, said
    assert len(receipts(store)) == UNITS
    opened = FeatureStore(store)
    for name in ("small", "wide"):
        status = opened.status(name)
        assert {*np.flatnonzero(status != Status.OK)} == {ends, hangs}
        assert {*status[[ends, hangs]]} == {Status.KILLER_ROW}
        reasons = {bad.row: bad.reason for receipt in opened.receipts(name).values() for bad in receipt.bad_rows}
        assert "its process died" in reasons[ends]
        assert "no sign of progress for 6 s" in reasons[hangs]
        for side in ("image", "text"):
            assert not opened.read(slice(None), teacher=name, side=side)[[ends, hangs]].any()
    now = stored_digests(store)
    changed = {key for key in undisturbed if now[key] != undisturbed[key]}
    assert {key.split("/c/")[1].split("/")[0] for key in changed} == {"3", "20"}
    plain = FeatureStore(extract_here(long_pipeline(tmp_path / "reference"))[0])
    others = np.setdiff1d(np.arange(400), [ends, hangs])
    for name in ("small", "wide"):
        image, text = (opened.read(slice(None), teacher=name, side=side)[others] for side in ("image", "text"))
        assert np.array_equal(image, plain.read(slice(None), teacher=name, side="image")[others])
        np.testing.assert_allclose(text, plain.read(slice(None), teacher=name, side="text")[others], atol=2e-3)
    said = progress(store)
    assert (said["state"], said["done"], said["failed_ranges"]) == ("finished", UNITS, {})
    _, outcome = extract_here(config)
    assert (outcome.found, outcome.done) == (UNITS, 0)


def test_a_row_that_kills_ends_a_run_in_one_process_and_the_ranges_behind_it_are_missing(
    tmp_path, long_pipeline, prepare, extract_here, stored_digests, undisturbed
):
    config = long_pipeline(tmp_path)
    prepare(config)
    store = tmp_path / "store"
    with Run(config, "--local", **{MISBEHAVE_AT: f"exit:{keys_of(store, [3 * R])[0]}"}) as run:
        code, _ = run.end()
    assert code == 1
    # Of the ranges before it, those that it overtook are missing: a process has three at a time.
    assert {"r000000"} <= {path.stem for path in receipts(store)} <= {"r000000", "r000001", "r000002"}
    assert extract_here(config)[1].failed == {}
    assert stored_digests(store) == undisturbed


def test_an_image_of_400_million_pixels_and_broken_ones_are_bad_rows_and_nothing_more(
    tmp_path, teachers, write_pipeline, write_tar, encoded, prepare
):
    rng = np.random.default_rng(4)
    small = [encoded(pixels) for pixels in rng.integers(0, 255, (20, 64, 64, 3), np.uint8)]
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    broken = {17: b"", 63: small[3][: len(small[3]) // 2]}
    images = [bomb if row == 40 else broken.get(row, small[row % 20]) for row in range(200)]
    pairs = [(f"k{row:03d}", image, f"finding {row % 30}") for row, image in enumerate(images)]
    folder = write_tar(tmp_path / "corpus", pairs)
    config = write_pipeline(
        tmp_path, files=[folder / "*.tar"], teachers=teachers, range_rows=32, chunk_rows=32, workers=2
    )
    prepare(config)
    with Run(config) as run:
        code, said = run.end()
    assert code == 0, said
    store = FeatureStore(tmp_path / "store")
    for name in teachers:
        assert {*np.flatnonzero(store.status(name) == Status.BAD_IMAGE)} == {17, 40, 63}
        assert (store.status(name) == Status.OK).sum() == 197
        reasons = {bad.row: bad.reason for receipt in store.receipts(name).values() for bad in receipt.bad_rows}
        assert "20000 x 20000 pixels, more than the bound" in reasons[40]
    assert set(progress(tmp_path / "store")["bad_rows"].values()) == {2}


def test_a_corpus_of_broken_images_ends_the_run_early_with_the_commonest_reasons(
    tmp_path, teachers, write_pipeline, write_tar, prepare
):
    pairs = [(f"k{row:04d}", b"" if row % 3 else b"GIF?", "a caption") for row in range(3200)]
    folder = write_tar(tmp_path / "corpus", pairs)
    config = write_pipeline(
        tmp_path,
        files=[folder / "*.tar"],
        teachers={"small": teachers["small"]},
        range_rows=32,
        chunk_rows=32,
        max_bad_fraction=0.25,
    )
    prepare(config)
    with Run(config) as run:
        code, said = run.end()
    assert code == 1
    assert "more than extract.max_bad_fraction = 0.25 allows; most often:" in said
    assert "x bad_image: the image file is empty (0 bytes)" in said
    assert "x bad_image: not an image" in said
    assert "Traceback" not in said
    assert 4 <= len(receipts(tmp_path / "store")) < 20  # of 100
    assert progress(tmp_path / "store")["state"] == "failed"


@pytest.fixture
def short(tmp_path, corpus, teachers, write_pipeline, prepare):
    """A pipeline of four ranges for one worker and one attempt, whose store is indexed and empty."""
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, attempts=1)
    prepare(path)
    return path


def test_a_range_whose_worker_dies_between_its_last_commit_and_its_answer_is_done(
    tmp_path, short, corpus, teachers, write_pipeline, extract_here, stored_digests
):
    with Run(short, **{KILL_AT: "commit.done:2"}) as run:  # of two teachers, in each worker
        code, said = run.end()
    assert code == 0, said
    assert said.count("all of it was committed, then: its process died") == 4
    assert (progress(tmp_path / "store")["done"], progress(tmp_path / "store")["failed_ranges"]) == (8, {})
    plain, _ = extract_here(write_pipeline(tmp_path / "plain", files=[corpus / "*.tar"], teachers=teachers))
    assert extract_here(short)[1].done == 0  # and removes what a worker was writing when it died
    assert stored_digests(tmp_path / "store") == stored_digests(plain)


def test_a_row_that_breaks_its_workers_device_is_found_and_no_other_range_suffers(tmp_path, short):
    store = tmp_path / "store"
    key = FeatureStore(store).pairs.read(21, 22, ["key"])["key"][0].as_py()
    with Run(short, **{MISBEHAVE_AT: f"device:{key}"}) as run:
        code, said = run.end()
    assert code == 0, said
    for name in ("small", "wide"):
        assert {*np.flatnonzero(FeatureStore(store).status(name) != Status.OK)} == {21}
        [bad] = FeatureStore(store).receipts(name)[1].bad_rows
        assert bad.status == Status.KILLER_ROW
        assert "CUDA error: device-side assert triggered" in bad.reason
