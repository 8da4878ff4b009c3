"""Members of tars, zips and folders are joined to pairs by their names; what is in no pair is counted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile

import pytest
from PIL import Image

from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.index.merge import read_corpus
from tests.store.images.dicom_files import dicom, ramp, written


@pytest.fixture
def png(as_bytes):
    return as_bytes(Image.new("RGB", (7, 5), (1, 2, 3)))


@pytest.fixture
def read(write_tar):
    """Index one tar of these members; an image may be given as None."""

    def read_members(members, **settings):
        return read_corpus(Corpus(files=[str(write_tar("a.tar", members))], **settings))

    return read_members


def rows_of(index):
    """Return caption, modality and whether there is an image, by key."""
    return {row["key"]: (row["caption"], row["modality"], row["uri"] is not None) for row in index.table.to_pylist()}


def counts(index):
    return {reason: example.count for reason, example in index.account.passed.items()}


def as_json(**values):
    return json.dumps(values).encode()


def assert_images_are_found_again(index):
    source = ImageSource(index.root)
    rows = [row for row in index.table.to_pylist() if row["uri"] is not None]
    assert rows
    for row in rows:
        data = source.fetch(row["uri"], row["member"], sha256=row["image_sha256"])
        assert hashlib.sha256(data).hexdigest() == row["image_sha256"]


def test_members_of_a_pair_may_lie_anywhere_in_a_tar(read, as_bytes):
    images = {key: as_bytes(Image.new("RGB", (8, 8), (n, n, n))) for n, key in enumerate("abc")}
    members = [("b.txt", b"two"), ("a.json", as_json(modality="ct")), *((f"{key}.png", images[key]) for key in "cab")]
    members += [("a.txt", b"one"), ("c.json", as_json(modality="mr")), ("c.txt", b"three")]
    index = read(members)
    assert rows_of(index) == {"b": ("two", None, True), "a": ("one", "ct", True), "c": ("three", "mr", True)}
    found = {row["key"]: row["image_sha256"] for row in index.table.to_pylist()}
    assert found == {key: hashlib.sha256(data).hexdigest() for key, data in images.items()}
    assert index.account.passed == {}
    assert_images_are_found_again(index)


def test_json_files_at_the_end_of_a_tar_belong_to_their_pairs(read, png):
    pairs = [(f"{n}.{suffix}", png if suffix == "png" else b"t") for n in range(50) for suffix in ("png", "txt")]
    index = read([*pairs, *((f"{n}.json", as_json(modality="ct", split="test")) for n in range(50))])
    assert index.table["split"].to_pylist() == ["test"] * 50
    assert set(index.table["modality"].to_pylist()) == {"ct"}


def test_names_with_several_dots_are_pairs_of_their_own(read, png):
    members = [(f"scan.v1.{n}.{suffix}", png if suffix == "jpg" else b"t") for n in (0, 1) for suffix in ("jpg", "txt")]
    index = read([*members, ("ok.png", png), ("ok.txt", b"o")])
    assert set(rows_of(index)) == {"scan.v1.0", "scan.v1.1", "ok"}
    assert index.account.usable == 3
    (reason,) = index.account.changed
    assert "key_ends" in reason
    assert index.account.changed[reason].count == 2


def test_names_of_dicom_identifiers_are_keys(read, png):
    uids = ["1.2.840.113619.2.55.1", "1.2.840.113619.2.55.2"]
    index = read([(f"{uid}.{suffix}", png if suffix == "png" else b"t") for uid in uids for suffix in ("png", "txt")])
    assert set(rows_of(index)) == set(uids)


def test_a_mask_beside_an_image_is_counted_and_no_pair(read, png):
    index = read([("x.png", png), ("x.txt", b"t"), ("x.seg.png", png)])
    assert rows_of(index) == {"x": ("t", None, True)}
    assert counts(index) == {"behind a second dot of a name, whose key ends at the first dot (key_ends)": 1}
    assert index.account.passed.popitem()[1].first == "a.tar: x: x.seg.png"


@pytest.mark.parametrize(("key_ends", "keys"), [("first_dot", {"ok"}), ("last_dot", {"scan.1", "scan.2", "ok"})])
def test_the_pipeline_may_say_where_keys_end(read, png, key_ends, keys):
    members = [("scan.1.png", png), ("scan.1.txt", b"t"), ("scan.2.png", png), ("scan.2.txt", b"t")]
    index = read([*members, ("ok.png", png), ("ok.txt", b"t")], key_ends=key_ends)
    assert set(rows_of(index)) == keys
    assert sum(counts(index).values()) == (5 if key_ends == "first_dot" else 0)


def test_every_image_that_pillow_reads_is_taken_whatever_its_suffix(read):
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    kinds = {
        "jfif": "JPEG",
        "jp2": "JPEG2000",
        "ppm": "PPM",
        "jpe": "JPEG",
        "PNG": "PNG",
        "tif": "TIFF",
        "webp": "WEBP",
    }
    members = []
    for suffix, kind in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind)
        members += [(f"{suffix}_.{suffix}", buffer.getvalue()), (f"{suffix}_.txt", b"t")]
    index = read(members)
    assert index.account.usable == len(kinds)
    assert index.table["width"].to_pylist() == [8] * len(kinds)


def test_a_suffix_of_the_pipeline_is_an_image(read, png):
    members = [("a.scan", png), ("a.txt", b"t"), ("b.png", png), ("b.txt", b"u")]
    assert counts(read(members)) == {"suffix .scan is not taken": 1, "caption without image": 1}
    assert rows_of(read(members, image_suffixes=[".SCAN"])) == {"a": ("t", None, True), "b": ("u", None, True)}


def test_captions_have_several_suffixes_and_the_first_of_two_counts(read, png):
    members = [("a.png", png), ("a.caption", b"A"), ("b.png", png), ("b.text", b"B"), ("c.png", png), ("c.txt", b"C")]
    index = read([*members, ("d.png", png), ("d.text", b"worse"), ("d.txt", b"better")])
    assert {key: row[0] for key, row in rows_of(index).items()} == {"a": "A", "b": "B", "c": "C", "d": "better"}
    assert counts(index) == {"second caption of a key": 1}
    assert index.account.passed["second caption of a key"].first == "a.tar: d: d.text"


def test_fields_name_the_suffix_of_a_caption(read, png):
    members = [("a.png", png), ("a.report", b"R"), ("a.txt", b"T"), ("a.mod", b"ct")]
    index = read(members, fields={"caption": "report", "modality": "mod"})
    assert rows_of(index) == {"a": ("R", "ct", True)}
    assert counts(index) == {"suffix .txt is not taken": 1}


def test_halves_of_pairs_are_counted_by_kind(read, png):
    members = [("a.png", png), ("b.txt", b"t"), ("c.json", as_json(modality="ct")), ("d.png", png), ("d.txt", b"t")]
    index = read(members)
    assert counts(index) == {
        "image without caption": 1,
        "caption without image": 1,
        "JSON without image": 1,
    }
    assert set(rows_of(index)) == {"a", "b", "d"}


def test_what_is_not_taken_is_counted_by_suffix_and_reasons_stay_few(read, png):
    members = [("a.png", png), ("a.txt", b"t"), ("a.npy", b"1"), ("b.npy", b"1"), ("README", b"r")]
    index = read([*members, *((f"x.{n}", b"1") for n in range(500)), *((f"y.s{n}", b"1") for n in range(500))])
    found = counts(index)
    assert (found["suffix .npy is not taken"], found["no suffix"]) == (2, 1)
    assert sum(found.values()) == 1003
    assert len(found) < 50


@pytest.mark.parametrize("name", ["._a.png", "d/.DS_Store", "__MACOSX/a.png", "Thumbs.db", ".hidden/a.png"])
def test_files_of_operating_systems_are_counted_and_never_taken(read, png, name):
    index = read([("a.png", png), ("a.txt", b"t"), (name, png)])
    assert rows_of(index) == {"a": ("t", None, True)}
    assert counts(index) == {"hidden file, or one of the operating system": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "a JSON record is nested too deep"),
        (b'{"modality": ' + b"[" * 900 + b"]" * 900 + b"}", "a JSON record is nested too deep"),
        (b"{", "not JSON"),
        (b"[]", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
    ],
    ids=["deep", "less deep", "cut", "list", "half a letter"],
)
def test_json_that_cannot_be_read_costs_its_own_pair_nothing_more(read, png, text, reason):
    index = read([("a.png", png), ("a.txt", b"t"), ("a.json", text), ("b.png", png), ("b.txt", b"u")])
    assert {key: row[0] for key, row in rows_of(index).items()} == {"a": "t", "b": "u"}
    assert counts(index) == {reason: 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_in_any_encoding_of_unicode_is_read_and_a_long_number_is_a_text(read, png, encoding):
    text = f'{{"modality": {"9" * 5000}, "caption": "é"}}'.encode(encoding)
    assert rows_of(read([("a.png", png), ("a.json", text)])) == {"a": ("é", "9" * 5000, True)}


def test_a_dicom_header_that_is_damaged_costs_its_own_pair_nothing_more(read, png):
    whole = written(dicom(ramp(0, 4000)))
    unknown_kind = whole.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00U\xc2")  # Rows
    assert unknown_kind != whole
    index = read(
        [("a.dcm", unknown_kind), ("a.txt", b"t"), ("b.dcm", whole), ("b.txt", b"u")],
        fields={"modality": "dicom.Modality"},
    )
    assert {key: row[1] for key, row in rows_of(index).items()} == {"a": None, "b": "CT"}
    assert counts(index) == {"header of a DICOM file that cannot be read": 1}


def test_links_and_devices_in_a_tar_are_counted_by_kind(tmp_path, png):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("p.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
        for name, data in (("a.png", png), ("a.txt", b"t")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index = read_corpus(Corpus(files=[str(tmp_path / "a.tar")]))
    assert rows_of(index) == {"a": ("t", None, True)}
    assert counts(index) == {"no regular file: link": 2, "no regular file: device, pipe or other": 1}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_long_names_and_names_in_other_scripts_are_keys(tmp_path, png, form):
    key = "/".join(["ordner" * 12, "ünï" * 30, "x" * 120])
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for suffix, data in (("png", png), ("txt", b"t")):
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index = read_corpus(Corpus(files=[str(tmp_path / "a.tar")]))
    assert set(rows_of(index)) == {key}
    assert_images_are_found_again(index)


def test_a_name_that_is_not_utf8_is_a_readable_key(tmp_path, png):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for suffix, data in (("png", png), ("txt", b"t")):
            info = tarfile.TarInfo(f"caf\udce9.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index = read_corpus(Corpus(files=[str(tmp_path / "a.tar")]))
    assert set(rows_of(index)) == {r"caf\xe9"}
    assert [example.count for example in index.account.changed.values()] == [1]


def test_a_sparse_image_is_counted_because_it_lies_in_no_one_place(tmp_path, png):
    if os.system("tar --version > /dev/null 2>&1"):  # noqa: S605
        pytest.skip("no GNU tar")
    with (tmp_path / "s.bmp").open("wb") as file:
        file.write(b"BM")
        file.truncate(2**20)
    (tmp_path / "a.png").write_bytes(png)
    (tmp_path / "a.txt").write_text("t")
    assert os.system(f"cd {tmp_path} && tar -S -cf a.tar s.bmp a.png a.txt") == 0  # noqa: S605
    index = read_corpus(Corpus(files=[str(tmp_path / "a.tar")]))
    assert set(rows_of(index)) == {"a"}
    assert counts(index) == {"no regular file: sparse": 1}


def test_both_archives_of_a_concatenation_are_read(tmp_path, write_tar, png):
    parts = [write_tar(f"{key}.tar", [(f"{key}.png", png), (f"{key}.txt", key.encode())]) for key in "ab"]
    (tmp_path / "cat.tar").write_bytes(b"".join(part.read_bytes() for part in parts))
    index = read_corpus(Corpus(files=[str(tmp_path / "cat.tar")]))
    assert rows_of(index) == {"a": ("a", None, True), "b": ("b", None, True)}
    assert_images_are_found_again(index)
    assert "tars behind the end mark of one are read too" in index.account.changed


@pytest.mark.parametrize("rest", [b"garbage", b"g" * 512, bytes(700) + b"x"], ids=["short", "a block", "after zeros"])
def test_garbage_behind_a_tar_is_refused_with_its_place(write_tar, png, rest):
    path = write_tar("a.tar", [("a.png", png), ("a.txt", b"t")])
    path.write_bytes(path.read_bytes() + rest)
    with pytest.raises(CorpusError, match=r"a\.tar: .* at byte \d+ is neither zeros nor a further tar"):
        read_corpus(Corpus(files=[str(path)]))


def test_zeros_behind_a_tar_are_padding(write_tar, png):
    path = write_tar("a.tar", [("a.png", png), ("a.txt", b"t")])
    path.write_bytes(path.read_bytes() + bytes(100_000))
    index = read_corpus(Corpus(files=[str(path)]))
    assert rows_of(index) == {"a": ("t", None, True)}
    assert index.account.changed == {}


@pytest.mark.parametrize(("mode", "name"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
def test_a_compressed_tar_says_how_it_is_compressed_under_whatever_name(tmp_path, mode, name):
    with tarfile.open(tmp_path / "a.tar", f"w:{mode}") as tar:
        tar.addfile(tarfile.TarInfo("x.txt"), io.BytesIO(b""))
    with pytest.raises(CorpusError, match=f"it is compressed with {name}") as caught:
        read_corpus(Corpus(files=[str(tmp_path / "a.tar")]))
    assert "unpacked" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "key_ends"),
    [("x", None), ("x", "first_dot"), ("x", "last_dot"), ("1.2.840.1", None), ("1.2.840.1", "last_dot")],
)
def test_texts_may_be_named_after_the_whole_image_file(read, png, key, key_ends):
    members = [(f"{key}.png.json", as_json(modality="ct")), (f"{key}.png", png), (f"{key}.png.txt", b"t")]
    index = read([*members, ("y.png", png), ("y.txt", b"u")], key_ends=key_ends)
    assert rows_of(index) == {key: ("t", "ct", True), "y": ("u", None, True)}
    assert index.account.passed == {}


def test_a_second_image_of_a_key_is_counted(read, png):
    index = read([("a.png", png), ("a.jpg", png), ("a.txt", b"t")])
    assert counts(index) == {"second image of a key": 1}
    assert index.account.passed["second image of a key"].first == "a.tar: a: a.jpg"


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_members_gives_the_same_pairs(read, as_bytes, seed):
    members = []
    for n in range(12):
        key = f"{'d/' * (n % 3)}{n}{'.v1' * (n % 4 == 0)}"
        members += [(f"{key}.png", as_bytes(Image.new("RGB", (8, 8), (n, seed, 1)))), (f"{key}.txt", f"{n}".encode())]
        members += [(f"{key}.json", as_json(modality=f"m{n}"))] * (n % 2)
    in_order = read(members).table.to_pylist()
    random.Random(seed).shuffle(members)
    shuffled = read(members).table.to_pylist()
    columns = ("key", "caption", "modality", "image_sha256")
    assert len(in_order) == 12
    assert {tuple(row[name] for name in columns) for row in shuffled} == {
        tuple(row[name] for name in columns) for row in in_order
    }
