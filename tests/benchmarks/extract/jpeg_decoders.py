"""Faster JPEG decoders beside ours: torchvision's, and simplejpeg where it is installed. Are the pixels equal?

    python -m tests.benchmarks.extract.jpeg_decoders --data ../shared/data

Files are those of VQA-RAD and LC25000 lung as they are, and VQA-RAD's images written anew in the kinds that exist.
Timed is the way to an image of Pillow, which resizing takes.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, features

from store.errors import PairDecodeError
from store.images.decode import open_image

Decode = Callable[[bytes], np.ndarray]

ODD = ((1, 1), (7, 5), (17, 33), (301, 203))


def ours(data: bytes) -> np.ndarray:
    """Decode as extraction does."""
    return np.asarray(open_image(data).image)


def image_of(decode: Decode, data: bytes) -> Image.Image:
    """Decode to an image of Pillow."""
    return open_image(data).image if decode is ours else Image.fromarray(np.ascontiguousarray(decode(data)))


def by_torchvision(data: bytes) -> np.ndarray:
    """Decode to the channels that the file has."""
    pixels = torchvision.io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return pixels.permute(1, 2, 0).numpy().squeeze()


def decoders() -> dict[str, Decode]:
    """Return those that are here, by name."""
    found: dict[str, Decode] = {f"torchvision {torchvision.__version__}": by_torchvision}
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        def by_simplejpeg(data: bytes) -> np.ndarray:
            colour = {"Gray": "GRAY", "CMYK": "CMYK"}.get(simplejpeg.decode_jpeg_header(data)[2], "RGB")
            return simplejpeg.decode_jpeg(data, colorspace=colour).squeeze()

        found["simplejpeg"] = by_simplejpeg
    return found


def files(data: Path, corpus: str, count: int) -> list[bytes]:
    """Return the first JPEGs of a corpus."""
    with tarfile.open(next(iter(sorted((data / corpus).glob("*.tar"))))) as tar:
        names = [member for member in tar if member.name.lower().endswith((".jpg", ".jpeg"))][:count]
        return [tar.extractfile(member).read() for member in names]


def written(image: Image.Image, **options: object) -> bytes:
    """Return an image as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def kinds(data: Path, count: int) -> dict[str, list[bytes]]:
    """Return JPEGs of every kind."""
    real = files(data, "vqa_rad", count)
    images = [open_image(one).image.convert("RGB") for one in real[: max(4, count // 4)]]
    damaged = [bytes([*one[: len(one) // 2], 0x55, 0xAA, *one[len(one) // 2 + 2 :]]) for one in real[:6]]
    return {
        "VQA-RAD": real,
        "LC25000 lung": files(data, "lc25000_lung", count),
        "4:2:0": [written(image, subsampling="4:2:0") for image in images],
        "4:2:2": [written(image, subsampling="4:2:2") for image in images],
        "4:1:1": [written(image, subsampling="4:1:1") for image in images],
        "4:4:4": [written(image, subsampling="4:4:4") for image in images],
        "RGB without YCbCr": [written(image, keep_rgb=True) for image in images],
        "grey": [written(image.convert("L")) for image in images],
        "CMYK": [written(image.convert("CMYK")) for image in images],
        "progressive": [written(image, progressive=True) for image in images],
        "odd sizes": [written(image.crop((0, 0, *size))) for image in images for size in ODD],
        "two bytes damaged": damaged,
        "cut short": [one[: len(one) * 2 // 3] for one in real[:6]],
    }


def outcome(decode: Callable[[bytes], Any], data: bytes) -> Any | None:
    """Return pixels or an image, or None where the decoder refuses the file."""
    try:
        return decode(data)
    except (PairDecodeError, RuntimeError, ValueError):
        return None


def equal(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    """Return whether both refuse, or have the same pixels."""
    return left is right if left is None or right is None else np.array_equal(left.squeeze(), right)


def milliseconds(decode: Decode, own: list[bytes], repeats: int = 3) -> float:
    """Return this thread's CPU milliseconds per file, the least of some repeats."""
    best = float("inf")
    for _ in range(repeats):
        began = time.thread_time()
        for data in own:
            outcome(partial(image_of, decode), data)
        best = min(best, (time.thread_time() - began) / len(own) * 1e3)
    return best


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    others = decoders()
    print(f"Pillow's libjpeg-turbo {features.version('libjpeg_turbo')}; {os.cpu_count()} cores, load {os.getloadavg()}")
    print(f"\n| kind | files | ours ms |{''.join(f' {name}: equal | ms |' for name in others)}")
    print(f"|---|---|---|{'---|---|' * len(others)}")
    for kind, own in kinds(arguments.data, arguments.files).items():
        cells = []
        for decode in others.values():
            same = sum(equal(outcome(ours, data), outcome(decode, data)) for data in own)
            cells.append(f"{same} | {milliseconds(decode, own):.2f}")
        print(f"| {kind} | {len(own)} | {milliseconds(ours, own):.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
