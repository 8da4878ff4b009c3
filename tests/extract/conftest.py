"""Tiny teachers, tiny corpora and pipelines over them, made once and shared by the tests of extraction."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract.config import ExtractPipeline
from extract.corpora.phantom.catalog import FINDINGS, caption
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from extract.run.dispatch import execute_here
from extract.run.run import run as run_extraction
from store.config.pipeline_file import read_pipeline
from store.index.create import index_corpus
from train.config import ModelSection
from train.models.model_folder import begin_model, save_weights

REPOSITORY = Path(__file__).resolve().parents[2]

WIDTHS = {"small": 32, "wide": 48}
PREPROCESS = {
    "small": {},
    "wide": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear", "resize_mode": "squash"},
}


def make_teacher(folder, *, embed_dim, captions, preprocess=None, seed=0, image_size=64):
    """Write a loadable open_clip model with random weights."""
    section = ModelSection(
        config={
            "embed_dim": embed_dim,
            "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": image_size, "head_width": 32},
            "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
        },
        preprocess=preprocess or {},
        vocabulary=300,
    )
    save_weights(begin_model(folder, section, captions, seed=seed), folder)
    return folder


@pytest.fixture
def ticking(monkeypatch):
    """Every look at a clock takes a millisecond: times are numbers of looks, whatever else the machine does."""
    ticks = itertools.count()
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: next(ticks) / 1000)


@pytest.fixture(scope="session")
def captions():
    """Captions in the words of the phantom corpora."""
    rng = np.random.default_rng(0)
    return [
        caption(modality, finding.name, rng)
        for modality, findings in FINDINGS.items()
        for finding in findings
        for _ in range(3)
    ]


@pytest.fixture(scope="session")
def teachers(tmp_path_factory, captions):
    """Two teachers of different width, image size and preprocessing: their folders by name."""
    root = tmp_path_factory.mktemp("teachers")
    return {
        name: make_teacher(
            root / name,
            embed_dim=width,
            captions=captions,
            preprocess=PREPROCESS[name],
            seed=seed,
            image_size=64 + 32 * seed,
        )
        for seed, (name, width) in enumerate(WIDTHS.items())
    }


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A phantom corpus of 60 pairs: its folder."""
    folder = tmp_path_factory.mktemp("corpora") / "sixty"
    write_corpus(folder, PhantomSettings(rows=60, seed=5))
    return folder


@pytest.fixture(scope="session")
def write_tar():
    """Return a function that writes (key, image bytes or None, caption or None) triples as one tar in a folder."""

    def write(folder, pairs):
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "pairs-000000.tar", "w") as tar:
            for key, image, text in pairs:
                for suffix, content in (("png", image), ("txt", None if text is None else text.encode())):
                    if content is not None:
                        member = tarfile.TarInfo(f"{key}.{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        return folder

    return write


@pytest.fixture(scope="session")
def encoded():
    """Return a function that encodes an image file from an array or a Pillow image."""

    def encode(image, file_format="png"):
        buffer = io.BytesIO()
        (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def write_pipeline():
    """Return a function that writes a pipelines.yaml whose pipeline is called ``tiny``, and returns its path."""

    def write(folder, *, files, teachers, widths=None, range_rows=16, chunk_rows=16, max_pixels=64_000_000, **extract):
        folder.mkdir(parents=True, exist_ok=True)
        widths = WIDTHS | (widths or {})
        pipeline = {
            "corpora": {"pairs": {"files": [str(pattern) for pattern in files]}},
            "teachers": {name: {"folder": str(path), "embed_dim": widths[name]} for name, path in teachers.items()},
            "store": {"path": "store", "corpus": "pairs", "range_rows": range_rows, "chunk_rows": chunk_rows},
            "max_pixels": max_pixels,
            "extract": {"batch_size": 16, **extract},
        }
        path = folder / "pipelines.yaml"
        path.write_text(json.dumps({"tiny": pipeline}, indent=1))  # JSON is YAML
        return path

    return write


@pytest.fixture(scope="session")
def prepare():
    """Return a function that reads a pipelines.yaml, indexes its corpus and returns the pipeline."""

    def prepare(path):
        pipeline = read_pipeline(path, "tiny", ExtractPipeline)
        index_corpus(
            Path(pipeline.store.path),
            pipeline.corpora["pairs"],
            range_rows=pipeline.store.range_rows,
            chunk_rows=pipeline.store.chunk_rows,
        )
        return pipeline

    return prepare


@pytest.fixture(scope="session")
def extract_here(prepare):
    """Return a function that indexes and extracts in this process and returns (store folder, outcome)."""

    def extract(path, **options):
        pipeline = prepare(path)
        return Path(pipeline.store.path), run_extraction(pipeline, execute=execute_here, **options)

    return extract


@pytest.fixture(scope="session")
def start():
    """Return a function that starts ``python -m extract`` with some arguments and returns the process."""
    # One thread, as the workers have: the tests' own process may share the machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def begin(*arguments):
        command = [sys.executable, "-m", "extract", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


@pytest.fixture(scope="session")
def cli(start):
    """Return a function that runs ``python -m extract`` to its end: (exit code, stdout, stderr)."""

    def run(*arguments):
        with start(*arguments) as process:
            try:
                stdout, stderr = process.communicate(timeout=220)
            finally:
                process.kill()
        return process.returncode, stdout, stderr

    return run


@pytest.fixture(scope="session")
def stored_digests():
    """Return a function that maps every file under features.zarr, or one teacher's, to its digest.

    A difference of digests can be read in a test's output; one of bytes fills it.
    """

    def read(store, teacher=""):
        root = store / "features.zarr"
        paths = sorted(path for path in (root / teacher).rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    return read


@pytest.fixture(scope="session")
def long_pipeline(tmp_path_factory, teachers, write_pipeline):
    """Return a function that writes a pipeline long enough to be interrupted: 400 rows in 25 ranges."""
    folder = tmp_path_factory.mktemp("long") / "corpus"
    write_corpus(folder, PhantomSettings(rows=400, seed=6))

    def write(where, **extract):
        return write_pipeline(where, files=[folder / "*.tar"], teachers=teachers, **extract)

    return write


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, long_pipeline, extract_here, stored_digests):
    """Return what an undisturbed run of ``long_pipeline`` stores, by key."""
    store, outcome = extract_here(long_pipeline(tmp_path_factory.mktemp("undisturbed")))
    assert (outcome.done, outcome.failed) == (50, {})
    return stored_digests(store)


@pytest.fixture(scope="session")
def shared_data():
    """Return a function that finds real data beside the repository, or skips the test."""

    def find(name):
        folder = REPOSITORY.parent / "shared" / "data" / name
        if not folder.is_dir():
            pytest.skip(f"real data is not here: {folder.name} lies beside the repository only where it was fetched")
        return folder

    return find


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 160 KiB at the place of the store: (its folder, a function that makes it larger)."""
    folder = tmp_path / "store"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system does not let us mount a small disk")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def repository():
    """The folder that the programs are run from."""
    return REPOSITORY
