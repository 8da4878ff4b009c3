"""A model, a corpus and a store small enough to be made anew in each test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from store.corpus.section import Corpus
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PairTable
from store.format.records import Spec, Status
from store.index.create import index_corpus
from store.io.location import locate
from store.read.reader import FeatureStore

MODEL = {
    "vocabulary": 300,
    "config": {
        "embed_dim": 32,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 32},
        "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
    },
}

WIDTHS = {"alpha": 12, "beta": 20, "seer": 16}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny_model():
    """The ``model:`` section of a CLIP ResNet that trains in milliseconds."""
    return MODEL


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """The patterns of a corpus of 64 pairs of 64 px."""
    folder = tmp_path_factory.mktemp("phantom")
    write_corpus(folder, PhantomSettings(rows=64, seed=5, shard_rows=40))
    return [str(folder / "*.tar")]


def unit_rows(rng, rows, width):
    drawn = rng.normal(size=(rows, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def spec_of(teacher, *, weights="0" * 64, sides=("image", "text")):
    return Spec(
        teacher=teacher,
        embed_dim=WIDTHS[teacher],
        weights_sha256=weights,
        architecture={},
        preprocessing={},
        tokenizer={},
        output="random",
        compute_dtype="float32",
        sides=sides,
    )


def commit_random(path: Path, info, spec: Spec, *, seed: int, without=()) -> None:
    """Commit random unit features of one teacher to every range; it has none of the rows ``without``."""
    rng = np.random.default_rng(seed)
    image_ND, text_ND = unit_rows(rng, info.rows, spec.embed_dim), unit_rows(rng, info.rows, spec.embed_dim)
    text = text_ND if "text" in spec.sides else None
    status_N = np.full(info.rows, Status.OK, np.uint8)
    status_N[list(without)] = Status.NOT_APPLICABLE
    register_teacher(locate(path), spec, info=info)
    pairs = PairTable(locate(path), info)
    circumstances = Circumstances(device="cpu", batch_size=1, run_id="test", attempt=1, timings_s={}, versions={})
    for number in range(info.ranges):
        part = slice(*info.bounds(number))
        sides = {"image": image_ND[part], "text": None if text is None else text[part]}
        features = UnitFeatures(**sides, status=status_N[part], reasons={})
        commit_unit(
            locate(path),
            info=info,
            spec=spec,
            range_id=number,
            pairs=pairs.read(part.start, part.stop),
            features=features,
            circumstances=circumstances,
        )


@pytest.fixture
def make_store(tmp_path, phantom):
    """Make a store of the phantom corpus with two teachers of different widths and gaps, and open it.

    With ``seer`` it has a third one, which encodes images alone.
    """

    def make(name="store", *, weights="0" * 64, seer=False) -> FeatureStore:
        path = tmp_path / name
        info, _ = index_corpus(path, Corpus(files=phantom), range_rows=24, chunk_rows=8)
        commit_random(path, info, spec_of("alpha", weights=weights), seed=1, without=range(0, 64, 3))
        commit_random(path, info, spec_of("beta"), seed=2, without=[0, 1, 2, 9])
        if seer:
            commit_random(path, info, spec_of("seer", sides=("image",)), seed=3, without=[0, 4, 8])
        return FeatureStore(path)

    return make


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    """Return a function that runs a module of the tests in two processes, and returns what each saved, by rank."""

    def run(module):
        folder = tmp_path_factory.mktemp("ranks")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(rank), "2", str(folder)], env=environment, stderr=subprocess.PIPE
            )
            for rank in range(2)
        ]
        errors = [process.communicate(timeout=180)[1].decode() for process in started]
        assert [process.returncode for process in started] == [0, 0], errors
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    return run
