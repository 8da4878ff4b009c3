"""From image files to a batch of pixels: images per second and core, and the cores that a real step needs.

python -m tests.benchmarks.train.pixel_path --out DIR [--workers 2] [--share 0.4] [--peak 989e12]

Seconds are CPU seconds of all processes, so that other work on the machine disturbs them little.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tarfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from PIL import Image

from extract.run.pixels import make_pixels
from store.corpus.section import Corpus
from store.format.pixels import Pixels, PixelSpec
from store.index.create import index_corpus
from store.read.pixel_cache import PixelCache
from store.read.reader import FeatureStore
from tests.benchmarks.tables import table
from train.data.batches import BATCHES
from train.data.image_loader import CorpusImages, ImageLoader, Loading, RowImages, View

SEED = 20261123
WIDTH, HEIGHT = 1024, 768
BATCH = 64
ROUNDS = 5
VIEW = View(size_px=224, crop_scale=0.9, seed=SEED, max_pixels=64_000_000)

VISION_FLOP = 2 * (196 * 768 * 768 + 12 * (197 * 12 * 768**2 + 2 * 197**2 * 768))
"""Operations of a forward pass of ViT-B/16 at 224 px, two per multiplication: patches, weights and attention."""

TEXT_FLOP = 2 * 12 * (256 * 12 * 768**2 + 2 * 256**2 * 768)
"""Operations of a forward pass of BERT-base over 256 tokens."""

STEP_FLOP = 3 * (VISION_FLOP + TEXT_FLOP)
"""Operations of a training step per pair; the backward pass takes twice what the forward pass takes."""


def drawn_jpeg(rng: np.random.Generator, quality: int = 90) -> bytes:
    """Return a picture with structure at every scale and some noise, as a JPEG."""
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for side in (4, 16, 64, 256):
        small = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32) / side
    total += rng.normal(scale=2, size=total.shape) / 4
    total = (total - total.min()) * (255 / (total.max() - total.min()))
    buffer = io.BytesIO()
    Image.fromarray(total.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_corpus(folder: Path, rows: int) -> float:
    """Write a tar of pairs and return the mean size of an image in kB."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, sizes = np.random.default_rng(SEED), []
    with tarfile.open(folder / "000.tar", "w") as tar:
        for row in range(rows):
            data = drawn_jpeg(rng)
            sizes.append(len(data))
            for name, content in ((f"{row:05d}.jpg", data), (f"{row:05d}.txt", b"a drawn picture")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return float(np.mean(sizes)) / 1000


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its children so far."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))


def measured(source: RowImages, rows: int, *, workers: int) -> tuple[float, float]:
    """Return images per CPU second and per second, the best of some rounds over all rows."""
    best_cpu = best_wall = 0.0
    order = np.random.default_rng(SEED).permutation(rows)
    with ImageLoader(
        source, view=VIEW, batch_rows=BATCH, threads=1, workers=workers, keep_bytes=0, batches=BATCHES
    ) as loader:
        for epoch in range(ROUNDS):
            began, cpu = time.perf_counter(), cpu_seconds()
            _load_all(loader, order, epoch)
            count = len(order) - len(order) % BATCH
            # The first round opens files and starts workers.
            if epoch:
                best_cpu = max(best_cpu, count / (cpu_seconds() - cpu))
                best_wall = max(best_wall, count / (time.perf_counter() - began))
    return best_cpu, best_wall


def _load_all(loader: ImageLoader, order: npt.NDArray[np.int64], epoch: int) -> None:
    begun: deque[Loading] = deque()
    for begin in range(0, len(order) - BATCH + 1, BATCH):
        if len(begun) == BATCHES:
            _finish(begun.popleft())
        begun.append(loader.begin(order[begin : begin + BATCH], epoch=epoch))
    for images in begun:
        _finish(images)


def _finish(images: Loading) -> None:
    with images:
        images.result()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the corpus and the store; reused")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of the GPU (H100 SXM, bf16, dense)")
    parser.add_argument("--share", type=float, default=0.4, help="of the peak that a training reaches; an assumption")
    options = parser.parse_args(arguments)
    corpus = options.out / "corpus"
    size_kb = write_corpus(corpus, options.rows)
    info, _ = index_corpus(options.out / "store", Corpus(files=[str(corpus / "*.tar")]), range_rows=256, chunk_rows=64)
    make_pixels(options.out / "store", PixelSpec.of(Pixels(short_side_px=256)))
    store = FeatureStore(options.out / "store")
    pairs = store.pairs.read(0, info.rows, ["uri", "member", "image_sha256"])
    sources: dict[str, RowImages] = {
        f"corpus, {WIDTH} x {HEIGHT}, {size_kb:.0f} kB": CorpusImages(store.images, pairs),
        "pixel cache, 256 px": PixelCache(store.location, info=store.info, chunks_kept=info.rows // 64 + 1),
    }
    rate = options.share * options.peak / STEP_FLOP
    print(f"GFLOP per pair and step: {STEP_FLOP / 1e9:.0f}")
    print(f"pairs/s of a GPU: {options.share} * {options.peak:.4g} / {STEP_FLOP:.4g} = {rate:.0f}")

    def rows() -> Iterator[list[object]]:
        for (name, source), workers in itertools.product(sources.items(), (0, options.workers)):
            per_core, wall = measured(source, info.rows, workers=workers)
            yield [name, f"{workers} workers" if workers else "a thread", per_core, wall, rate / per_core]

    table(("images", "decoded by", "images per CPU second", "images/s", "cores for that GPU"), rows())


if __name__ == "__main__":
    main()
