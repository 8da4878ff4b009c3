"""Measure what sharing saves before the nine teachers: one decoding and one resize for all, beside each teacher's own.

python -m tests.benchmarks.extract.preprocessing

Images are drawn, seeded JPEGs of 1024 x 768; geometries, means and stds are those of the nine teachers of the ``mmkd``
pipeline, whose weights are not needed. Everything is on one thread and in CPU seconds, so that a busy machine changes
the ratio little. Ends with 1 where a shared pixel differs from a teacher's own.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from extract.config import ExtractPipeline
from extract.estimate.stand_in import write_files
from extract.teacher_files.geometry import Geometry, Preprocessing, fit, fit_all
from extract.teacher_files.specs import teacher_spec
from store.cli.options import PIPELINES_FILE
from store.config.pipeline_file import read_pipeline
from store.images.decode import decode_image
from tests.benchmarks.rounds import SEED, medians, single
from tests.benchmarks.tables import table

WIDTH, HEIGHT, QUALITY = 1024, 768, 90
WANTED = 6.0
"""The speed that the shared way must reach, in multiples of the naive one."""


def drawn_jpegs(count: int) -> list[bytes]:
    """Return JPEGs of soft shapes under fine grain, about as many bytes as photographs of the size have."""
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(count):
        shapes = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
        grain = Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).filter(ImageFilter.GaussianBlur(1))
        buffer = io.BytesIO()
        Image.blend(shapes, grain, 0.65).save(buffer, "JPEG", quality=QUALITY)
        found.append(buffer.getvalue())
    return found


def preprocessings() -> dict[str, Preprocessing]:
    """Return how each of the nine teachers wants its images, from its entry; its weights may be missing."""
    found = {}
    for name, entry in read_pipeline(PIPELINES_FILE, "mmkd", ExtractPipeline).teachers.items():
        with tempfile.TemporaryDirectory() as folder:
            here = write_files(name, entry, Path(folder))
            found[name] = Preprocessing.model_validate(teacher_spec(name, here).preprocessing)
    return found


def normalized(pixels_HWC: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> torch.Tensor:
    """Return what a teacher's image tower is given, (3, H, W) float32."""
    pixels_CHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1).float().div(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels_CHW - mean) / std


def naive(data: bytes, teachers: dict[str, Preprocessing]) -> None:
    """Do what nine independent extractions do: each decodes, resizes, crops and normalises."""
    for preprocessing in teachers.values():
        normalized(fit(decode_image(data), preprocessing.geometry), preprocessing)


def decoded_once(data: bytes, teachers: dict[str, Preprocessing]) -> None:
    """Decode once; each teacher resizes, crops and normalises."""
    image = decode_image(data)
    for preprocessing in teachers.values():
        normalized(fit(image, preprocessing.geometry), preprocessing)


def per_geometry(data: bytes, geometries: set[Geometry]) -> None:
    """Decode once, and fit to each distinct geometry by itself."""
    image = decode_image(data)
    for geometry in geometries:
        fit(image, geometry)


def shared(data: bytes, geometries: set[Geometry]) -> None:
    """Do what a worker's decoding threads do; the device normalises what they make."""
    fit_all(decode_image(data), geometries)


def shared_and_normalized(data: bytes, teachers: dict[str, Preprocessing]) -> None:
    """Do the same and normalise for each teacher here, as a worker without a GPU does."""
    fitted = fit_all(decode_image(data), {preprocessing.geometry for preprocessing in teachers.values()})
    for preprocessing in teachers.values():
        normalized(fitted[preprocessing.geometry], preprocessing)


def milliseconds(work: Callable[[bytes], None], images: list[bytes]) -> float:
    """Return CPU milliseconds per image."""
    began = time.process_time()
    for data in images:
        work(data)
    return (time.process_time() - began) / len(images) * 1e3


def differing(images: list[bytes], teachers: dict[str, Preprocessing]) -> list[str]:
    """Return the teachers of whose own pixels a shared one differs."""
    geometries = {preprocessing.geometry for preprocessing in teachers.values()}
    found = set()
    for data in images:
        fitted = fit_all(decode_image(data), geometries)
        for name, preprocessing in teachers.items():
            own = fit(decode_image(data), preprocessing.geometry)
            if not np.array_equal(own, fitted[preprocessing.geometry]):
                found.add(name)
    return sorted(found)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    teachers, images = preprocessings(), drawn_jpegs(arguments.images)
    geometries = {preprocessing.geometry for preprocessing in teachers.values()}
    unequal = differing(images, teachers)
    ways: dict[str, Callable[[bytes], None]] = {
        "each teacher decodes": partial(naive, teachers=teachers),
        "decoded once": partial(decoded_once, teachers=teachers),
        "decoded once, fitted once per geometry": partial(per_geometry, geometries=geometries),
        "shared, normalised here": partial(shared_and_normalized, teachers=teachers),
        "shared": partial(shared, geometries=geometries),
        "decoding alone": lambda data: decode_image(data) and None,
    }
    for work in ways.values():
        work(images[0])
    measures = {(name,): partial(milliseconds, work, images) for name, work in ways.items()}
    found = single(medians(measures, arguments.rounds))
    slowest = found["each teacher decodes"]
    kb = np.mean([len(data) for data in images]) / 1e3
    print(f"{len(images)} JPEGs of {WIDTH} x {HEIGHT} and {kb:.0f} kB, {len(teachers)} teachers.")
    rows = ([name, value, 1000 / value, slowest / value] for name, value in found.items())
    table(("way", "CPU ms per image", "images/s per core", "times the first"), rows)
    if unequal:
        print(f"\nShared pixels differ from the own ones of {', '.join(unequal)}.")
    sys.exit(1 if unequal or slowest / found["shared"] < WANTED else 0)


if __name__ == "__main__":
    main()
