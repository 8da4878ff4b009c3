"""Images and tokens per CPU second of the trainer beside torchvision's transforms, webdataset and open_clip.

`tests.benchmarks.train.waiting` runs it on its own corpus. Each way begins with image files and ends with bytes of 224
px, random resized crops of at least 0.9 of the area; one thread, the best of some rounds.
"""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import open_clip
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from store.read.pixel_cache import PixelCache
from store.read.reader import FeatureStore
from store.texts.tokens import open_clip_tokenizer
from tests.benchmarks.tables import table
from train.data.captions import Tokens
from train.data.image_loader import CorpusImages, ImageLoader, RowImages, View
from train.models.vocabulary import save_vocabulary

ROUNDS, IMAGES, BATCH = 3, 768, 128
VIEW = View(size_px=224, crop_scale=0.9, seed=1, max_pixels=64_000_000)


def per_cpu_second(act: Callable[[], int]) -> float:
    """Return things per CPU second of this process, the best of some rounds; ``act`` returns how many it did."""
    best = 0.0
    for _ in range(ROUNDS):
        began = time.process_time()
        best = max(best, act() / (time.process_time() - began))
    return round(best, 1)


def ours(loader: ImageLoader) -> int:
    """Load images as the trainer does."""
    for begin in range(0, IMAGES, BATCH):
        with loader.begin(np.arange(begin, begin + BATCH), epoch=begin) as images:
            images.result()
    return IMAGES


def crop() -> v2.RandomResizedCrop:
    """Return torchvision's random resized crop, as the released training has it."""
    return v2.RandomResizedCrop(224, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True)


def by_pillow(source: RowImages) -> int:
    """Decode and crop by torchvision's transforms of Pillow's images."""
    transform, to_tensor = crop(), v2.PILToTensor()
    for row in range(IMAGES):
        to_tensor(transform(Image.open(io.BytesIO(source.fetch(row))).convert("RGB")))
    return IMAGES


def by_tensors(source: RowImages) -> int:
    """Decode and crop by torchvision without Pillow."""
    transform = crop()
    for row in range(IMAGES):
        data = torch.frombuffer(bytearray(source.fetch(row)), dtype=torch.uint8)
        transform(torchvision.io.decode_image(data, torchvision.io.ImageReadMode.RGB))
    return IMAGES


def by_webdataset(tars: list[str]) -> int:
    """Read tars by webdataset, decode and crop by Pillow."""
    import webdataset

    transform, to_tensor = crop(), v2.PILToTensor()
    pairs = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
    for number, (image, _) in enumerate(pairs):
        to_tensor(transform(image))
        if number + 1 == IMAGES:
            break
    return IMAGES


def measured(work: Path) -> dict[str, dict[str, float]]:
    """Return images and tokens per CPU second by way; ``work`` is the folder of the corpus and the store."""
    torch.set_num_threads(1)
    store = FeatureStore(work / "store")
    table = store.pairs.read(0, store.info.rows, ["uri", "member", "image_sha256", "caption"])
    sources: dict[str, RowImages] = {
        "pixels": PixelCache(store.location, info=store.info, chunks_kept=16),
        "corpus": CorpusImages(store.images, table),
    }
    found: dict[str, dict[str, float]] = {}
    for name, source in sources.items():
        with ImageLoader(source, view=VIEW, batch_rows=BATCH, threads=1, keep_bytes=0) as loader:
            found[f"images, {name}"] = {
                "ours": per_cpu_second(partial(ours, loader)),
                "torchvision, Pillow's images": per_cpu_second(partial(by_pillow, source)),
                "torchvision, tensors": per_cpu_second(partial(by_tensors, source)),
            }
    if importlib.util.find_spec("webdataset"):
        tars = sorted(map(str, (work / "pairs").glob("*.tar")))
        found["images, corpus"]["webdataset"] = per_cpu_second(partial(by_webdataset, tars))
    else:
        print("webdataset is left out: `--peers` names an environment that has it.")
    return found | {"tokens": tokens(table["caption"].to_pylist())}


def tokens(captions: list[str]) -> dict[str, float]:
    """Return tokens per CPU second of a WordPiece of 256 columns, padding not counted."""
    with TemporaryDirectory() as folder:
        save_vocabulary(captions, Path(folder), size=8192)
        theirs = open_clip.tokenizer.HFTokenizer(folder, context_length=256)
        own = open_clip_tokenizer(open_clip.tokenizer.HFTokenizer(folder, context_length=256))
        count = int(Tokens.of(captions, own).lengths_B.sum())

        def counted(tokenize: Callable[[list[str]], object]) -> int:
            tokenize(captions)
            return count

        return {
            "ours": per_cpu_second(partial(counted, partial(Tokens.of, tokenizer=own))),
            "open_clip": per_cpu_second(partial(counted, theirs)),
        }


def show(found: dict[str, dict[str, float]]) -> None:
    """Print a table of what `measured` returns."""
    rows = ([what, way, rate, rate / ways["ours"]] for what, ways in found.items() for way, rate in ways.items())
    table(("per CPU second", "by", "rate", "of ours"), rows, title="One thread, the best of three rounds")
