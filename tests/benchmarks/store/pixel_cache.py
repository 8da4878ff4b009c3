"""Measure the pixel cache: its bytes, its time, and its effect on features, by format and quality.

python -m tests.benchmarks.store.pixel_cache --data ../shared/data --teachers runs/demo/teachers
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image

from extract.corpora.small_image import encode, keep, shrink
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.format.pixels import PixelSpec
from store.images.decode import decode_image
from store.index.merge import read_corpus
from tests.benchmarks.tables import table

SEED = 20261123
FULL_SIZE = ("ViT-B-32", "RN50")
BATCH = 32

T = TypeVar("T")

Model = Callable[[Sequence[Image.Image]], npt.NDArray[np.float64]]
"""Images to features (N, D)."""


def variants() -> dict[str, PixelSpec]:
    """Return how an image may be kept, by name."""
    found: dict[str, PixelSpec] = {}

    def add(name: str, format_: str, *, side: int = 256, originals: bool = False, **options: int | bool | str) -> None:
        # Unchecked, because PNG is no format of the cache.
        fields: dict[str, Any] = {"format": format_, "options": options, "keeps_small_originals": originals}
        found[name] = PixelSpec.model_construct(short_side_px=side, **fields)

    for quality in (80, 90, 95):
        add(f"JPEG {quality}", "jpeg", quality=quality, subsampling="4:2:0")
    for quality in (80, 90):
        add(f"JPEG {quality}, 4:4:4", "jpeg", quality=quality, subsampling="4:4:4")
    add("JPEG 90, 4:4:4, small originals kept", "jpeg", originals=True, quality=90, subsampling="4:4:4")
    for quality in (80, 90, 95):
        add(f"WebP {quality}", "webp", quality=quality, method=4)
    add("WebP 90, small originals kept", "webp", originals=True, quality=90, method=4)
    add("WebP 90, 320 px", "webp", side=320, quality=90, method=4)
    add("WebP lossless", "webp", lossless=True, method=4)
    add("PNG", "png")
    return found


def read_images(data: Path, each: int) -> dict[str, list[bytes]]:
    """Return files of images by corpus: all of the released cache's, ``each`` of the other two, drawn by a seed."""
    rng = np.random.default_rng(SEED)
    found: dict[str, list[bytes]] = {}
    for name in ("vqa_rad", "lc25000_lung"):
        index = read_corpus(Corpus(files=[str(path) for path in sorted((data / name).glob("*.tar"))]))
        source, pairs = ImageSource(index.root), index.table.to_pylist()
        chosen = np.sort(rng.choice(len(pairs), min(each, len(pairs)), replace=False))
        found[name] = [source.fetch(pairs[row]["uri"], pairs[row]["member"]) for row in chosen]
    found["mmkd_demo"] = [path.read_bytes() for path in sorted((data / "mmkd_demo").rglob("*.jpg"))]
    return found


def demo_teachers(folder: Path) -> list[Model]:
    """Return the demo's teachers."""
    paths = sorted(path for path in folder.iterdir() if (path / "open_clip_config.json").exists())
    loaded = (open_clip.create_model_from_pretrained(f"local-dir:{path}") for path in paths)
    return [partial(features_of, model.eval(), prepare) for model, prepare in loaded]


def random_model(name: str) -> Model:
    """Return an open_clip architecture with random weights."""
    torch.manual_seed(SEED)
    model, _, prepare = open_clip.create_model_and_transforms(name, pretrained=None)
    return partial(features_of, model.eval(), prepare)


@torch.inference_mode()
def features_of(
    model: Any, prepare: Callable[[Image.Image], torch.Tensor], images: Sequence[Image.Image]
) -> npt.NDArray[np.float64]:
    """Return (N, D) features of images that open_clip prepares as the model states."""
    parts = [
        model.encode_image(torch.stack([prepare(image) for image in images[first : first + BATCH]]), normalize=True)
        for first in range(0, len(images), BATCH)
    ]
    return np.asarray(torch.cat(parts).double().numpy())


def cosines(
    original_ND: npt.NDArray[np.float64],
    kept_ND: npt.NDArray[np.float64],
    mean_D: npt.NDArray[np.float64] | float = 0.0,
) -> npt.NDArray[np.float64]:
    """Return (N,) the cosine of each feature with what became of it, after ``mean_D`` is taken off both.

    Features of a model, of one with random weights above all, share a large common part: plain cosines of any two
    images are then near 1 as well. Without the mean feature, different images have cosines around 0.
    """
    left_ND, right_ND = original_ND - mean_D, kept_ND - mean_D
    norms_N = np.linalg.norm(left_ND, axis=1) * np.linalg.norm(right_ND, axis=1)
    return np.asarray((left_ND * right_ND).sum(axis=1) / norms_N)


def found_again(original_ND: npt.NDArray[np.float64], kept_ND: npt.NDArray[np.float64]) -> float:
    """Return the share of kept images whose feature is nearest to that of their own original."""
    return float(np.mean(np.argmax(kept_ND @ original_ND.T, axis=1) == np.arange(len(kept_ND))))


def timed(function: Callable[[T], object], items: Sequence[T], rounds: int = 3) -> float:
    """Return a function's seconds per item, the smallest of some rounds."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for item in items:
            function(item)
        times.append(time.perf_counter() - began)
    return min(times) / len(items)


def size_rows(corpora: dict[str, list[bytes]], specs: dict[str, PixelSpec]) -> Iterator[list[str]]:
    """Yield a line per variant: kB per image by corpus, share of the bytes, PSNR, ms to encode and to decode."""
    originals = {name: [decode_image(data) for data in files] for name, files in corpora.items()}
    total = sum(len(data) for files in corpora.values() for data in files)
    sample = [image for images in originals.values() for image in images[:40]]
    raw = [data for files in corpora.values() for data in files[:40]]
    decode = timed(decode_image, raw)
    yield ["original", *(_kb(files) for files in corpora.values()), "1.00", "", "", f"{decode * 1e3:.1f}"]
    for name, spec in specs.items():
        kept = {corpus: [_kept(data, spec) for data in files] for corpus, files in corpora.items()}
        small = [shrink(image, spec.short_side_px) for image in sample]
        files = [encode(image, spec) for image in small]
        make = timed(partial(encode, spec=spec), small)
        decode = timed(decode_image, files)
        share = sum(len(data) for kept_files in kept.values() for data in kept_files) / total
        quality = np.mean([_psnr(image, decode_image(data)) for image, data in zip(small, files, strict=True)])
        numbers = (f"{share:.2f}", f"{quality:.1f}", f"{make * 1e3:.1f}", f"{decode * 1e3:.1f}")
        yield [name, *(_kb(f) for f in kept.values()), *numbers]


def _kept(data: bytes, spec: PixelSpec) -> bytes:
    return keep(data, spec).data or b""


def _psnr(image: Image.Image, kept: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of what encoding did, in dB; infinite where it did nothing."""
    difference = np.asarray(image).astype(np.float64) - np.asarray(kept)
    error = float(np.mean(difference**2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


def _kb(files: Sequence[bytes]) -> str:
    return f"{np.mean([len(data) for data in files]) / 1e3:.1f}"


def feature_rows(files: Sequence[bytes], specs: dict[str, PixelSpec], models: Sequence[Model]) -> Iterator[list[str]]:
    """Yield a line per variant, of all models together.

    Cosine with the original's feature, mean and least; the same without the mean feature; 1 - cosine with the feature
    of the small image before it was encoded, without the mean feature, mean and largest; share found again.
    """
    originals = [decode_image(data) for data in files]
    original = [model(originals) for model in models]
    small: dict[int, list[npt.NDArray[np.float64]]] = {}
    for name, spec in specs.items():
        side = spec.short_side_px
        if side not in small:
            small[side] = [model([shrink(image, side) for image in originals]) for model in models]
        images = [decode_image(_kept(data, spec)) for data in files]
        kept = [model(images) for model in models]
        means = [features.mean(axis=0) for features in original]
        plain = np.concatenate([cosines(*pair) for pair in zip(original, kept, strict=True)])
        centred = np.concatenate([cosines(*three) for three in zip(original, kept, means, strict=True)])
        encoding = 1 - np.concatenate([cosines(*three) for three in zip(small[side], kept, means, strict=True)])
        again = np.mean([found_again(*pair) for pair in zip(original, kept, strict=True)])
        whole = [f"{value:.4f}" for value in (plain.mean(), plain.min(), centred.mean(), centred.min())]
        yield [name, *whole, *(f"{abs(value):.1e}" for value in (encoding.mean(), encoding.max())), f"{again:.3f}"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, required=True)
    parser.add_argument("--each", type=int, default=200, help="images of vqa_rad and of lc25000_lung")
    parser.add_argument("--each-full", type=int, default=48, help="the same for the full-size architectures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    corpora = read_images(arguments.data, arguments.each)
    for name, files in corpora.items():
        sides = [min(decode_image(data).size) for data in files]
        print(f"{name}: {len(files)} images, short side {min(sides)} to {max(sides)}, median {np.median(sides):.0f}")
    print()
    specs = variants()
    table(["kept as", *corpora, "of all bytes", "PSNR dB", "encode ms", "decode ms"], size_rows(corpora, specs))
    head = ["kept as", "cosine, mean", "min", "centred, mean", "min", "encoding, mean", "max", "found again"]
    files = [data for corpus in corpora.values() for data in corpus]
    print(f"the demo's teachers, {len(files)} images:\n")
    table(head, feature_rows(files, specs, demo_teachers(arguments.teachers)))
    files = [data for corpus in corpora.values() for data in corpus[: arguments.each_full]]
    for name in FULL_SIZE:
        print(f"{name}, random weights, {len(files)} images:\n")
        table(head, feature_rows(files, specs, [random_model(name)]))


if __name__ == "__main__":
    main()
