"""Rows are dealt evenly to the processes that decode, and each chunk of a pixel cache is read about once."""

from __future__ import annotations

import io
import queue
import tarfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from extract.run.pixels import make_pixels
from store.corpus.section import Corpus
from store.format.pixels import Pixels, PixelSpec
from store.index.create import index_corpus
from store.read.pixel_cache import PixelCache
from store.read.reader import FeatureStore
from tests.train.vit import tokenizer
from train.data.batch_order import BatchOrder, ShareOrder, lanes_of
from train.data.batches import AHEAD, BATCHES, Stream
from train.data.image_loader import CorpusImages, ImageLoader, View
from train.data.image_workers import ImageWorkers

ROWS, CHUNK_ROWS, BATCH, WINDOW = 4096, 16, 512, 32
STEPS = 8 * ROWS // BATCH
WORKERS = 12
VIEW = View(size_px=4, crop_scale=1, seed=0, max_pixels=10**6)


class Rounds:
    """Decoders that take equally long: a part is done when all of them have one, or when no more parts come."""

    def __init__(self, number):
        self.number, self.busy, self.done, self.changed = number, 0, 0, threading.Condition()

    def wait(self):
        with self.changed:
            self.busy, now = self.busy + 1, self.done
            if self.busy == self.number or not self.changed.wait_for(lambda: self.done > now, timeout=0.2):
                self.busy, self.done = 0, self.done + 1
                self.changed.notify_all()


class Pipe:
    """The trainer's end of a worker's pipe."""

    def __init__(self, rounds):
        self.rounds, self.rows = rounds, 0

    def send(self, request):
        _, _, places = request
        self.rows += len(places)

    def send_bytes(self, data):
        assert data

    def recv(self):
        time.sleep(0.002)
        self.rounds.wait()
        return {}


class Simulated(ImageWorkers):
    """Workers that decode nothing; so many processes would need as many cores."""

    def __init__(self, number, **_):
        self._processes, self._pipes, self._free = [], [], queue.SimpleQueue()
        self._askers, rounds = ThreadPoolExecutor(number), Rounds(number)
        self.number, self.all = number, [Pipe(rounds) for _ in range(number)]
        for pipe in self.all:
            self._free.put(pipe)

    def __len__(self):
        return self.number

    def close(self):
        self._askers.shutdown()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dealing")
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for row in range(ROWS):
            for suffix, content in (("png", data.getvalue()), ("txt", b"nodule")):
                member = tarfile.TarInfo(f"{row:05d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    index_corpus(folder / "store", Corpus(files=[str(folder / "*.tar")]), range_rows=512, chunk_rows=CHUNK_ROWS)
    make_pixels(folder / "store", PixelSpec.of(Pixels(short_side_px=8)))
    return FeatureStore(folder / "store")


def share_of(world_size):
    rows = np.arange(ROWS)
    lanes = lanes_of(rows, batch_size=BATCH, block_rows=CHUNK_ROWS, window_blocks=WINDOW)
    order = BatchOrder(
        rows, seed=1, batch_size=BATCH, block_rows=CHUNK_ROWS, window_blocks=WINDOW // lanes, lanes=lanes
    )
    return ShareOrder(order, rank=world_size - 1, world_size=world_size)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("images", ["pixels", "corpus"])
def test_all_workers_work_all_the_time_on_equally_many_rows(store, monkeypatch, images, world_size):
    source = CorpusImages(store.images, store.pairs.read(0, ROWS, ["uri", "member", "image_sha256"]))
    reads, read = Counter(), PixelCache._read

    def counted(cache, unit, chunk, columns):
        reads[unit.range, chunk] += 1
        return read(cache, unit, chunk, columns)

    monkeypatch.setattr(PixelCache, "_read", counted)
    monkeypatch.setattr("train.data.image_loader.ImageWorkers", Simulated)
    if images == "pixels":
        source = PixelCache(store.location, info=store.info, chunks_kept=2 * WINDOW)
    share, rows = share_of(world_size), BATCH // world_size
    with ImageLoader(source, view=VIEW, batch_rows=rows, threads=1, workers=WORKERS, batches=BATCHES) as loader:
        stream = Stream(share, loader, ["nodule"] * ROWS, tokenizer=tokenizer(), targets=None, span_steps=1)
        batches = stream.batches(0)
        # The stream is so many batches ahead, so that it ends with an epoch.
        done = sum(len(batch.rows_B) for batch in islice(batches, STEPS - AHEAD))
        shares = [pipe.rows for pipe in loader._workers.all]
        batches.close()
    assert done == rows * (STEPS - AHEAD)
    assert max(shares) <= 1.05 * np.mean(shares)
    chunks = {(share.epoch(step), row // CHUNK_ROWS) for step in range(STEPS) for row in share[step].tolist()}
    assert sum(reads.values()) <= (1.05 * len(chunks) if images == "pixels" else 0)
