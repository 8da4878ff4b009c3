"""Archives are read with few requests and in bounded memory, whatever the order of their members."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest

from store.corpus.account import Account
from store.corpus.corpus_files import corpus_files
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.io.location import locate
from store.io.remote import Remote
from store.layouts.source import Source


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An object storage that notes the bytes of every range that is read."""
    location, sizes = locate(f"memory://members{tmp_path}"), []
    read_part = Remote.read_part

    def noted(self, key, offset, nbytes, **options):
        data = read_part(self, key, offset, nbytes, **options)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(Remote, "read_part", noted)
    return location, sizes


def pairs_of(uri):
    corpus = Corpus(files=[uri])
    (file,) = corpus_files(corpus.files)
    return Source(file, corpus, Account(), ImageSource("/")).pairs()


def keys_of(location):
    return [pair.key for pair in pairs_of(f"{location.uri}/a.tar") if pair.image and pair.record["txt"]]


def test_a_remote_tar_of_small_members_is_fetched_once_whatever_their_order(bucket, write_tar):
    location, sizes = bucket
    texts = [(f"{n}.txt", b"t") for n in range(300)]
    path = write_tar("a.tar", [*texts, *((f"{n}.jpg", bytes([n % 256]) * 40_000) for n in range(300))])
    location.write("a.tar", path.read_bytes())
    assert len(keys_of(location)) == 300
    assert sum(sizes) == path.stat().st_size
    assert len(sizes) == 2


def test_large_members_of_a_remote_tar_that_are_not_taken_are_not_read(bucket, write_tar):
    location, sizes = bucket
    members = []
    for n in range(4):
        members += [(f"{n}.npy", bytes(6 * 2**20)), (f"{n}.jpg", b"j" * 50_000), (f"{n}.txt", b"t")]
    location.write("a.tar", write_tar("a.tar", members).read_bytes())
    assert keys_of(location) == ["0", "1", "2", "3"]
    assert sum(sizes) < 12 * 2**20


def test_a_tar_shows_its_pairs_in_the_order_of_their_first_members(bucket, write_tar):
    location, _ = bucket
    members = [(f"{n}.{suffix}", b"x") for n in (3, 1, 2) for suffix in ("txt", "jpg")]
    location.write("a.tar", write_tar("a.tar", members).read_bytes())
    assert keys_of(location) == ["3", "1", "2"]


@pytest.mark.parametrize("order", ["sorted", "apart"])
def test_memory_holds_names_and_one_pair_whatever_the_order(tmp_path, order):
    names = [f"{n}.{suffix}" for n in range(60) for suffix in ("jpg", "txt")]
    if order == "apart":
        names.sort(key=lambda name: name.rpartition(".")[2])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 10 if name.endswith("txt") else 2**20
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    tracemalloc.start()
    assert sum(len(pair.image) == 2**20 for pair in pairs_of(str(tmp_path / "a.tar"))) == 60
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20
