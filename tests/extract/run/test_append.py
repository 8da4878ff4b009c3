"""A corpus that grows: new rows are appended, and only the range that was cut short is made again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from typer.main import get_command

from extract.cli.program import app
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from extract.run.dispatch import execute_here
from extract.run.run import run as run_extraction
from store.format.records import receipt_key
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore

pytestmark = pytest.mark.end_to_end


def test_after_an_append_only_the_partial_range_and_the_new_ones_are_extracted(
    tmp_path, teachers, write_pipeline, extract_here, cli
):
    folder = tmp_path / "corpus"
    write_corpus(folder / "a", PhantomSettings(rows=40, seed=1, key_prefix="a"))
    config = write_pipeline(tmp_path, files=[folder / "*/*.tar"], teachers={"small": teachers["small"]})
    path, _ = extract_here(config)
    before = FeatureStore(path)
    features = before.read(slice(None), teacher="small", side="image")
    kept = {unit: (path / receipt_key("small", unit)).read_bytes() for unit in range(3)}

    write_corpus(folder / "b", PhantomSettings(rows=30, seed=2, key_prefix="b"))
    code, _, stderr = cli("append", "--pipeline", "tiny", "--config", config)
    assert code == 0, stderr
    grown = FeatureStore(path)
    assert (grown.info.rows, grown.is_complete("small")) == (70, False)
    assert np.array_equal(grown.read(slice(0, 40), teacher="small", side="image"), features)

    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", config)
    assert code == 0, stderr
    assert "3 units committed, 2 were there before" in stderr
    after = {unit: (path / receipt_key("small", unit)).read_bytes() for unit in range(3)}
    assert {unit for unit in kept if kept[unit] != after[unit]} == {2}
    whole = FeatureStore(path)
    assert whole.is_complete("small")
    assert np.array_equal(whole.read(slice(0, 32), teacher="small", side="image"), features[:32])
    # The last eight were in a batch of their own before, which may change a float16's last bit.
    both = whole.read(slice(32, 40), teacher="small", side="image").astype(np.float32), features[32:].astype(np.float32)
    np.testing.assert_allclose((both[0] * both[1]).sum(axis=1), 1, atol=1e-3)
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", config)
    assert "nothing to do" in stderr


class Trainer(threading.Thread):
    """Reads a store over and over as a trainer does, opened once, and keeps what it read and what failed."""

    def __init__(self, path):
        super().__init__()
        self.store = FeatureStore(path)
        self.chunks = ChunkReader(self.store)  # what the trainer reads features with
        self.passes, self.error = [], None
        self.over, self.read_once = threading.Event(), threading.Event()
        self.rows = np.arange(self.store.info.rows)

    def one_pass(self):
        features = {side: self.chunks.read(self.rows, teacher="small", side=side).copy() for side in ("image", "text")}
        pairs = self.store.pairs.read(0, len(self.rows)).to_pylist()
        images = [self.store.images.fetch(pair["uri"], pair["member"], sha256=pair["image_sha256"]) for pair in pairs]
        status, similarity = self.store.status("small"), self.store.similarity("small")
        self.passes.append((features, [pair["caption"] for pair in pairs], images, status, similarity))

    def run(self):
        try:
            while not self.over.is_set():
                self.one_pass()
                self.read_once.set()
            self.one_pass()
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = error
            self.read_once.set()


def test_a_trainer_goes_on_reading_its_rows_while_others_are_appended_and_extracted(
    tmp_path, teachers, write_pipeline, extract_here, prepare
):
    folder = tmp_path / "corpus"
    write_corpus(folder / "a", PhantomSettings(rows=40, seed=1, key_prefix="a"))
    config = write_pipeline(tmp_path, files=[folder / "*/*.tar"], teachers={"small": teachers["small"]})
    path, _ = extract_here(config)
    old_units = {unit: (path / receipt_key("small", unit)).read_bytes() for unit in range(2)}
    trainer = Trainer(path)
    trainer.start()
    try:
        assert trainer.read_once.wait(60)
        write_corpus(folder / "b", PhantomSettings(rows=30, seed=2, key_prefix="b"))
        arguments = ["append", "--pipeline", "tiny", "--config", str(config), "--workers", "1"]
        get_command(app)(arguments, prog_name="extract", standalone_mode=False)
        outcome = run_extraction(prepare(config), execute=execute_here)
    finally:
        trainer.over.set()
        trainer.join()
    assert trainer.error is None
    assert (outcome.found, outcome.done) == (2, 3)
    assert {unit: (path / receipt_key("small", unit)).read_bytes() for unit in range(2)} == old_units
    (first, captions, images, status, similarity), *later = trainer.passes
    assert len(later) >= 2
    for features, their_captions, their_images, their_status, their_similarity in later:
        assert (their_captions, their_images) == (captions, images)
        assert np.array_equal(their_status, status)
        np.testing.assert_allclose(their_similarity, similarity, atol=1e-5)
        for side in ("image", "text"):
            assert np.array_equal(features[side][:32], first[side][:32])
            # The range that was short is made anew, with other batches; its rows are there at every moment.
            np.testing.assert_allclose(features[side].astype(float), first[side].astype(float), atol=1e-3)
    grown = FeatureStore(path)
    assert grown.info.rows == 70
    assert grown.is_complete("small")
