"""From tars to a pair table and back to the image's bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pyarrow as pa
import pytest
from PIL import Image

from store.corpus.corpus_files import corpus_files
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.errors import ConfigError, CorpusError, PairDecodeError, StoreError
from store.format.pairs import PAIR_SCHEMA, PairTable, pairs_digest
from store.index.append import append_corpus
from store.index.create import index_corpus
from store.index.merge import read_corpus
from store.io.location import locate


def tars(*paths, **settings):
    return Corpus(files=[str(path) for path in paths], **settings)


@pytest.fixture
def png(as_bytes):
    return as_bytes(Image.new("RGB", (7, 5), (1, 2, 3)))


def test_rows_follow_the_tars_and_carry_what_the_members_say(corpus, units):
    table = units.pairs.read(0, 10)
    assert table.schema == PAIR_SCHEMA
    assert table["key"].to_pylist() == [f"p{number:02d}" for number in range(10)]
    row = table.to_pylist()[7]
    assert (row["row"], row["uri"], row["caption"], row["modality"]) == (7, "001.tar", "finding 7", "ct")
    assert (row["split"], row["source"], row["license"]) == ("train", "drawn", "CC0-1.0")
    assert (row["width"], row["height"]) == (15, 8)
    assert table["modality"].to_pylist()[2] is None


def test_the_image_is_fetched_by_offset_exactly_as_the_tar_holds_it(corpus, units):
    source = ImageSource(corpus_files(corpus.files)[0].folder)
    for row in units.pairs.read(0, 10).to_pylist():
        with tarfile.open(corpus_files(corpus.files)[0].folder.path / row["uri"]) as tar:
            expected = tar.extractfile(f"{row['key']}.png").read()
        assert source.fetch(row["uri"], row["member"]) == expected
        assert row["image_sha256"] == hashlib.sha256(expected).hexdigest()


def test_an_image_without_container_is_the_file_at_the_uri(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png)
    assert ImageSource(tmp_path).fetch("a.png", None) == png


def test_a_pair_without_image_keeps_its_row_with_a_null_uri(write_tar, png):
    table = read_corpus(tars(write_tar("a.tar", [("x.txt", b"no image"), ("y.png", png), ("y.txt", b"both")]))).table
    row = table.to_pylist()[0]
    assert (row["key"], row["uri"], row["member"], row["image_sha256"]) == ("x", None, None, None)
    assert row["caption"] == "no image"
    with pytest.raises(PairDecodeError, match="no image for this key"):
        ImageSource(write_tar("b.tar", []).parent).fetch(row["uri"], row["member"])


def test_an_empty_caption_is_empty_and_a_missing_one_is_null(write_tar, png):
    members = [
        ("x.png", png),
        ("x.txt", b" \n"),
        ("y.png", png),
        ("z.png", png),
        ("z.json", b'{"caption": " in json "}'),
    ]
    assert read_corpus(tars(write_tar("a.tar", members))).table["caption"].to_pylist() == ["", None, "in json"]


def test_an_unreadable_image_keeps_its_row_without_a_size(write_tar):
    row = read_corpus(tars(write_tar("a.tar", [("x.jpg", b""), ("x.txt", b"nothing")]))).table.to_pylist()[0]
    assert (row["uri"], row["member"]["nbytes"], row["width"], row["height"]) == ("a.tar", 0, None, None)


def test_members_that_are_not_as_they_should_be_are_named(write_tar, png):
    members = [("x.png", png), ("x.jpg", png), ("x.json", b"{"), ("y.txt", b"t"), ("y.json", b"[]"), ("y.txt", b"u")]
    members += [("z.png", png), ("z.txt", b"a pair")]
    index = read_corpus(tars(write_tar("a.tar", members)))
    passed = index.account.passed
    assert {reason: example.count for reason, example in passed.items()} == {
        "second image of a key": 1,
        "second caption of a key": 1,
        "not JSON": 2,
        "image without caption": 1,
        "caption without image": 1,
    }
    assert passed["second image of a key"].first == "a.tar: x: x.jpg"
    assert passed["not JSON"].first.startswith("a.tar: x: x.json: ")
    assert passed["second caption of a key"].first == "a.tar: y: y.txt"
    assert index.table["caption"].to_pylist() == [None, "t", "a pair"]


def test_a_key_ends_at_the_first_dot_and_keeps_its_folder(write_tar, png):
    index = read_corpus(tars(write_tar("a.tar", [("d.1/x.PNG", png), ("d.1/x.txt", b"t"), ("d.1/x.seg.png", png)])))
    assert index.table["key"].to_pylist() == ["d.1/x"]
    assert [example.first for example in index.account.passed.values()] == ["a.tar: d.1/x: d.1/x.seg.png"]


def test_a_key_that_occurs_twice_is_refused_and_qualifying_keys_helps(write_tar, png):
    files = [write_tar(name, [("x.png", png), ("x.txt", b"t"), ("z.txt", b"t")]) for name in ("a.tar", "b.tar")]
    with pytest.raises(CorpusError, match="more than once in the corpus: 2, for instance 'x', 'z'") as caught:
        read_corpus(tars(*files))
    assert "qualify_keys: true" in caught.value.hint
    assert read_corpus(tars(*files, qualify_keys=True)).table["key"].to_pylist() == ["a/x", "a/z", "b/x", "b/z"]


def test_shards_of_one_name_in_two_folders_have_their_folder_in_their_keys(tmp_path, write_tar, png):
    for folder in ("cc3m", "cc12m"):
        write_tar(f"c/{folder}/00000.tar", [("x.png", png), ("x.txt", folder.encode())])
    write_tar("c/cc3m/00001.tar", [("x.png", png), ("x.txt", b"t")])
    corpus = Corpus(files=[str(tmp_path / "c/**/*.tar")], qualify_keys=True)
    keys = ["cc12m/00000/x", "cc3m/00000/x", "00001/x"]
    assert read_corpus(corpus).table["key"].to_pylist() == keys
    info, _ = index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    write_tar("c/new/00001.tar", [("x.png", png), ("x.txt", b"t")])
    info, _ = append_corpus(tmp_path / "store", corpus)
    rows = PairTable(locate(tmp_path / "store"), info).read(0, info.rows, ["key"])
    assert rows["key"].to_pylist() == [*keys, "new/00001/x"]


@pytest.mark.parametrize(
    "members", [[], [("readme.md", b"hello"), ("x.cls", b"3")]], ids=["no member", "other members"]
)
def test_a_corpus_without_any_pair_is_refused(write_tar, members):
    with pytest.raises(CorpusError, match="the corpus holds no pair of an image and a caption: 1 files"):
        read_corpus(tars(write_tar("a.tar", members)))


def test_a_pattern_that_matches_nothing_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"no corpus file matches '.*/none-\*\.tar'"):
        corpus_files([str(tmp_path / "none-*.tar")])


def test_files_come_sorted_and_once(corpus):
    names = [path.name for path in corpus_files([*corpus.files, *corpus.files])]
    assert names == ["000.tar", "001.tar"]


@pytest.mark.parametrize("cut", [100, 512 + 20, 1024, 1024 + 200, 2048], ids=str)
def test_a_tar_cut_short_anywhere_is_refused(write_tar, cut):
    # Header, 20 bytes in one block; header, 20 bytes; then the end marker: blocks end at 512, 1024, 1536 and 2048.
    path = write_tar("a.tar", [("x.txt", b"x" * 20), ("y.txt", b"y" * 20)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CorpusError, match=r"a\.tar") as caught:
        read_corpus(tars(path))
    assert "fetch the file again" in caught.value.hint


def test_a_tar_with_a_damaged_header_is_refused_rather_than_read_to_there(write_tar):
    path = write_tar("a.tar", [("x.txt", b"x" * 20), ("y.txt", b"y" * 20)])
    data = bytearray(path.read_bytes())
    data[1024 + 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"a\.tar: .* byte 1024 is no member's header, so the file is damaged"):
        read_corpus(tars(path))


def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x.txt"), io.BytesIO(b""))
    with pytest.raises(CorpusError, match="cannot be read as an uncompressed tar") as caught:
        read_corpus(tars(path))
    assert "unpacked" in caught.value.hint


def test_an_image_whose_tar_was_cut_after_indexing_is_refused(corpus, units):
    row = units.pairs.read(9, 10).to_pylist()[0]
    path = corpus_files(corpus.files)[1].folder.path / "001.tar"
    path.write_bytes(path.read_bytes()[: row["member"]["offset"] + 4])
    with pytest.raises(CorpusError, match=r"001\.tar: an image is not the one that was indexed"):
        ImageSource(path.parent).fetch(row["uri"], row["member"], sha256=row["image_sha256"])


def test_a_corpus_that_moved_says_how_to_point_at_it(tmp_path):
    with pytest.raises(CorpusError, match="not where the store says") as caught:
        ImageSource(tmp_path / "gone").fetch("a.tar", {"offset": 0, "nbytes": 1})
    assert "--corpus-root" in caught.value.hint


def test_indexing_the_same_corpus_again_finds_it_there(corpus, units):
    before = (units.path / "store.json").read_bytes()
    assert index_corpus(units.path, corpus, range_rows=4, chunk_rows=2) == (units.info, None)
    assert (units.path / "store.json").read_bytes() == before


def test_indexing_other_files_or_another_shape_into_a_store_is_refused(corpus, units, write_tar, png):
    with pytest.raises(StoreError, match="made from other corpus files or with another shape"):
        index_corpus(units.path, corpus, range_rows=8, chunk_rows=2)
    other = Corpus(files=[str(write_tar("other/000.tar", [("x.png", png), ("x.txt", b"t")]))])
    with pytest.raises(StoreError, match="made from other corpus files or with another shape"):
        index_corpus(units.path, other, range_rows=4, chunk_rows=2)


def test_a_changed_shard_is_seen_though_another_folder_has_one_of_its_name(tmp_path, write_tar, png):
    for folder in ("1", "2"):
        tar = write_tar(f"shards/{folder}/0.tar", [(f"{folder}.png", png), (f"{folder}.txt", b"t")])
    corpus = Corpus(files=[str(tar.parent.parent / "*/0.tar")])
    index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)
    write_tar("shards/1/0.tar", [("other.png", png), ("other.txt", b"t" * 20_000)])
    with pytest.raises(StoreError, match="made from other corpus files"):
        index_corpus(tmp_path / "store", corpus, range_rows=4, chunk_rows=2)


def test_a_new_store_returns_the_account_of_its_corpus(tmp_path, write_tar, png):
    tar = write_tar("a.tar", [("x.png", png), ("x.jpg", png), ("x.txt", b"t")])
    info, report = index_corpus(tmp_path / "store", Corpus(files=[str(tar)]), range_rows=4, chunk_rows=2)
    assert (info.rows, info.ranges, list(report.passed)) == (1, 1, ["second image of a key"])


def test_chunks_that_do_not_fill_a_range_are_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="3 does not divide range_rows, 4"):
        index_corpus(tmp_path / "other", corpus, range_rows=4, chunk_rows=3)


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (0, 4), (3, 5), (8, 10), (5, 5)])
def test_any_part_of_the_pair_table_reads_alike(units, start, stop):
    assert units.pairs.read(start, stop, ["row"])["row"].to_pylist() == list(range(start, stop))


def test_a_key_is_found_in_any_range_and_an_unknown_one_refused(units):
    assert [units.pairs.row_of(key) for key in ("p00", "p05", "p09")] == [0, 5, 9]
    with pytest.raises(StoreError, match="no pair has the key 'p10'"):
        units.pairs.row_of("p10")


def test_the_digest_follows_the_content_and_not_the_place(units):
    table = units.pairs.read(0, 4)

    def with_column(name, values):
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))

    assert pairs_digest(with_column("uri", ["moved.tar"] * 4)) == pairs_digest(table)
    assert pairs_digest(with_column("caption", ["finding 0", "other", "finding 2", "finding 3"])) != pairs_digest(table)
    assert pairs_digest(with_column("image_sha256", ["00"] * 4)) != pairs_digest(table)
