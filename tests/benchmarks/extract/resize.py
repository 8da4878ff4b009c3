"""Pillow's resize beside torch's on real images: time, grey levels that differ, and what that does to features.

    python -m tests.benchmarks.extract.resize --data ../shared/data [--trained runs/demo/teachers]

Images are of VQA-RAD (large, made smaller), LC25000 lung (224 px: nothing to resize for the nine) and Medical MNIST
(64 px, enlarged). The nine teachers of ``mmkd`` have their full size and random weights; ``--trained`` names a folder
of trained ones, such as the demo makes. Eighteen odd images (bitmaps, palettes, alpha, strips) go through tiny models.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from extract.config import ExtractPipeline
from extract.estimate.stand_in import stand_in
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Geometry, fit, fit_all
from extract.teacher_files.specs import teacher_spec
from extract.teachers.base import FrozenTeacher
from extract.teachers.loading import load_teacher
from store.cli.options import PIPELINES_FILE
from store.config.pipeline_file import read_pipeline
from store.images.decode import open_image
from tests.benchmarks.rounds import SEED, medians, single
from tests.extract import library_cases

CORPORA = ("vqa_rad", "lc25000_lung", "medical_mnist_64")
SUFFIXES = (".jpg", ".jpeg", ".png")
BOUND = 0.9999
"""The least cosine with which torch's resize may become the default: that of ``extract golden``."""

Images = dict[str, list[Image.Image]]


def images_of(data: Path, count: int) -> Images:
    """Return so many decoded images of each corpus, drawn by a seed."""
    found = {}
    for corpus in CORPORA:
        files = []
        for path in sorted((data / corpus).glob("*.tar")):
            with tarfile.open(path) as tar:
                members = [member for member in tar if member.name.lower().endswith(SUFFIXES)]
                files += [tar.extractfile(member).read() for member in members]
        chosen = np.random.default_rng(SEED).choice(len(files), count, replace=False)
        found[corpus] = [open_image(files[number]).image for number in sorted(chosen)]
    return found


def by_torch(geometry: Geometry) -> Geometry:
    """Return the geometry with the other resize."""
    return geometry.model_copy(update={"resize_by": "torch"})


def milliseconds(images: list[Image.Image], geometries: list[Geometry]) -> float:
    """Return this thread's CPU milliseconds for an image in every geometry."""
    began = time.thread_time()
    for image in images:
        fit_all(image, geometries)
    return (time.thread_time() - began) / len(images) * 1e3


def print_times(images: Images, geometries: dict[str, list[Geometry]], rounds: int) -> None:
    """Print CPU milliseconds per image of both, by corpus and geometries."""
    print("\n| corpus | geometries | Pillow ms | torch ms | times |\n|---|---|---|---|---|")
    for corpus, own in images.items():
        for name, wanted in geometries.items():
            ways = {("pillow",): wanted, ("torch",): [by_torch(one) for one in wanted]}
            # Thousandths, because `medians` rounds to tenths.
            measures = {
                key: partial(lambda way, own: 1e3 * milliseconds(own, way), way, own) for key, way in ways.items()
            }
            found = {key: value / 1e3 for key, value in single(medians(measures, rounds)).items()}
            ratio = found["pillow"] / found["torch"]
            print(f"| {corpus} | {name} | {found['pillow']:.2f} | {found['torch']:.2f} | {ratio:.1f} |")


def print_levels(images: Images, geometries: list[Geometry]) -> None:
    """Print the share of values that differ and by how many grey levels at most."""
    print("\n| corpus | geometry | values that differ | at most |\n|---|---|---|---|")
    for corpus, own in images.items():
        for geometry in geometries:
            gaps = np.stack([_levels(image, geometry) for image in own])
            print(f"| {corpus} | {geometry.resize_mode} | {(gaps > 0).mean():.3%} | {gaps.max()} |")


def _levels(image: Image.Image, geometry: Geometry) -> np.ndarray:
    return np.abs(fit(image, geometry).astype(int) - fit(image, by_torch(geometry)))


@dataclass(kw_only=True, frozen=True, slots=True)
class Named:
    """A teacher, and with which weights it runs."""

    name: str
    weights: str
    teacher: FrozenTeacher


def teachers(trained: Path | None) -> Iterator[Named]:
    """Load one teacher after the other."""
    for name, entry in read_pipeline(PIPELINES_FILE, "mmkd", ExtractPipeline).teachers.items():
        with TemporaryDirectory() as folder:
            yield Named(name=name, weights="random", teacher=stand_in(name, entry, Path(folder), device="cpu"))
    for folder in sorted(trained.iterdir()) if trained else ():
        entry = TeacherEntry(folder=str(folder.absolute()))
        yield Named(name=folder.name, weights="trained", teacher=load_teacher(teacher_spec(folder.name, entry), entry))


def print_cosines(images: Images, trained: Path | None) -> bool:
    """Print each teacher's smallest cosine between its features of both resizes; return whether all exceed the bound.

    Beside it stands the mean cosine between different images, because a tower of random weights gives all images
    nearly the same feature.
    """
    print(f"\n| teacher | weights | {' | '.join(images)} | between images |\n|---|---|{'---|' * len(images)}---|")
    good = True
    for one in teachers(trained):
        geometry, cells, between = one.teacher.geometry, [], []
        for own in images.values():
            ways = [np.stack([fit(image, way) for image in own]) for way in (geometry, by_torch(geometry))]
            before = one.teacher.encode_image(ways[0])
            between.append((before @ before.T)[~np.eye(len(own), dtype=bool)].mean())
            if np.array_equal(*ways):
                cells.append("same pixels")
                continue
            worst = (before * one.teacher.encode_image(ways[1])).sum(1).min()
            good &= bool(worst > BOUND)
            cells.append(f"{worst:.7f}")
        print(f"| {one.name} | {one.weights} | {' | '.join(cells)} | {np.mean(between):.3f} |", flush=True)
    return good


def print_odd() -> bool:
    """Print the lowest cosine of odd images through each tiny model; return whether all exceed the bound."""
    print("\n| tiny model, random weights | lowest cosine | of the image |\n|---|---|---|")
    lowest = 1.0
    for name, make in library_cases.CASES.items():
        with TemporaryDirectory() as folder:
            entry = make(Path(folder)).entry
            teacher = load_teacher(teacher_spec("tiny", entry), entry)
        cosines = {}
        for kind, data in library_cases.files().items():
            image = open_image(data).image
            ways = (fit(image, way)[None].copy() for way in (teacher.geometry, by_torch(teacher.geometry)))
            before, after = (teacher.encode_image(pixels) for pixels in ways)
            cosines[kind] = float((before * after).sum())
        worst = min(cosines, key=cosines.__getitem__)
        lowest = min(lowest, cosines[worst])
        print(f"| {name} | {cosines[worst]:.7f} | {worst} |", flush=True)
    return lowest > BOUND


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--images", type=int, default=24, help="Images of each corpus; a sixth of them for features.")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    images = images_of(arguments.data, arguments.images)
    torch.set_num_threads(1)
    print(f"{arguments.images} images of each corpus, one thread; {os.cpu_count()} cores, load {os.getloadavg()}")
    nine = [Geometry(size_px=224, resize_mode=mode) for mode in ("shortest", "shortest_floor_crop", "pad_square_grey")]
    print_times(images, {"short side to 224": nine[:1], "the nine teachers' three": nine}, arguments.rounds)
    modes = ("shortest", "longest", "squash", "pad_square_grey")
    print_levels(images, [Geometry(size_px=224, resize_mode=mode) for mode in modes])
    torch.set_num_threads(os.cpu_count() or 1)
    good = print_cosines({name: own[::6] for name, own in images.items()}, arguments.trained)
    odd = print_odd()
    print(f"\nevery cosine of the real images is {'above' if good else 'not above'} {BOUND}")
    print(f"every cosine of the odd images is {'above' if odd else 'not above'} {BOUND}")


if __name__ == "__main__":
    main()
