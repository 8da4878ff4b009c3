"""Writing the phantom corpus: the same bytes for a seed, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter, defaultdict

import pytest
from PIL import Image

from extract.corpora.phantom.catalog import FINDINGS, MODALITIES
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from store.errors import CorpusError


def members(out):
    """Return {key: {suffix: bytes}} over a folder's tars, in order."""
    pairs = defaultdict(dict)
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.rsplit(".", 1)
                pairs[key][suffix] = tar.extractfile(member).read()
    return dict(pairs)


def manifest(folder):
    return json.loads((folder / "phantom.json").read_text())


def subjects(out):
    records = [json.loads(pair["json"]) for pair in members(out).values()]
    return [(record["modality"], record["finding"]) for record in records]


def digests(out):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.tar"))}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        write_corpus(tmp_path / name, PhantomSettings(rows=20, seed=seed, shard_rows=8))
    assert digests(tmp_path / "first") == digests(tmp_path / "again")
    assert not set(digests(tmp_path / "first").values()) & set(digests(tmp_path / "other").values())


@pytest.mark.parametrize("setting", [{}, {"modality": "oct", "others": 0.3}])
def test_a_corpus_begins_with_every_smaller_one(tmp_path, setting):
    write_corpus(tmp_path / "small", PhantomSettings(rows=13, seed=4, **setting))
    write_corpus(tmp_path / "large", PhantomSettings(rows=25, seed=4, shard_rows=7, **setting))
    assert list(members(tmp_path / "small").items()) == list(members(tmp_path / "large").items())[:13]


def test_each_key_has_an_image_a_caption_and_a_record(tmp_path):
    write_corpus(tmp_path, PhantomSettings(rows=10, seed=0, shard_rows=4, size_px=48, split="val", key_prefix="demo"))
    pairs = members(tmp_path)
    assert list(pairs) == [f"demo-{row:06d}" for row in range(10)]
    for row, pair in enumerate(pairs.values()):
        assert list(pair) == ["jpg", "txt", "json"]
        assert Image.open(io.BytesIO(pair["jpg"])).size == (48, 48)
        assert len(pair["txt"].decode("ascii").split()) >= 5
        record = json.loads(pair["json"])
        assert record["finding"] in {finding.name for finding in FINDINGS[record["modality"]]}
        fixed = {"split": "val", "source": "MMKD phantom", "license": "CC0-1.0", "seed": 0, "index": row}
        assert record == {"modality": record["modality"], "finding": record["finding"], **fixed}
    tars = manifest(tmp_path)["tars"]
    assert [tar["name"] for tar in tars] == ["phantom-000000.tar", "phantom-000001.tar", "phantom-000002.tar"]
    assert sum(tar["bytes"] for tar in tars) == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))


def test_modalities_and_findings_take_turns(tmp_path):
    write_corpus(tmp_path, PhantomSettings(rows=108, seed=3, size_px=32))
    counts = Counter(subjects(tmp_path))
    assert manifest(tmp_path)["modalities"] == dict.fromkeys(MODALITIES, 12)
    assert counts == {(m, f.name): 12 // len(FINDINGS[m]) for m in FINDINGS for f in FINDINGS[m]}


def test_one_modality_is_drawn_with_its_share_of_others(tmp_path):
    write_corpus(tmp_path / "alone", PhantomSettings(rows=8, seed=3, size_px=32, modality="ct"))
    write_corpus(tmp_path / "mixed", PhantomSettings(rows=80, seed=3, size_px=32, modality="ct", others=0.2))
    assert manifest(tmp_path / "alone")["modalities"] == {"ct": 8}
    assert manifest(tmp_path / "mixed")["modalities"] == {"ct": 64, **{name: 2 for name in MODALITIES if name != "ct"}}
    findings = Counter(finding for modality, finding in subjects(tmp_path / "mixed") if modality == "ct")
    assert set(findings.values()) == {16}


def test_splits_of_one_seed_share_no_image(tmp_path):
    for split in ("train", "test"):
        write_corpus(tmp_path / split, PhantomSettings(rows=12, seed=9, split=split, size_px=32))
    images = [{pair["jpg"] for pair in members(tmp_path / split).values()} for split in ("train", "test")]
    assert not images[0] & images[1]


def test_a_complete_corpus_is_reused_and_an_incomplete_one_redone(tmp_path):
    assert write_corpus(tmp_path, PhantomSettings(rows=9, seed=1, shard_rows=4, size_px=32))
    before = digests(tmp_path)
    written = manifest(tmp_path)
    assert written["tars"][0]["sha256"] == before["phantom-000000.tar"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert not write_corpus(tmp_path, PhantomSettings(rows=9, seed=1, shard_rows=4, size_px=32))
    assert manifest(tmp_path) == written
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "phantom-000001.tar").write_bytes(b"torn")
    assert write_corpus(tmp_path, PhantomSettings(rows=9, seed=1, shard_rows=4, size_px=32))
    assert digests(tmp_path) == before


def test_tars_of_an_interrupted_larger_corpus_do_not_linger(tmp_path):
    for name in ("phantom-000007.tar", "phantom-000007.tar.tmp", "notes.txt"):
        (tmp_path / name).write_bytes(b"left behind")
    write_corpus(tmp_path, PhantomSettings(rows=2, seed=0, size_px=32))
    assert {path.name for path in tmp_path.iterdir()} == {"phantom-000000.tar", "phantom.json", "notes.txt"}


def test_other_parameters_in_a_used_folder_are_refused(tmp_path):
    write_corpus(tmp_path, PhantomSettings(rows=3, seed=1, size_px=32))
    with pytest.raises(CorpusError, match="rows is 3, not 4; seed is 1, not 2") as caught:
        write_corpus(tmp_path, PhantomSettings(rows=4, seed=2, size_px=32))
    assert caught.value.hint == "give another --out"


@pytest.mark.parametrize("text", ["not json", "[]", "{}"])
def test_a_foreign_record_is_refused(tmp_path, text):
    (tmp_path / "phantom.json").write_text(text)
    with pytest.raises(CorpusError, match="is not a phantom corpus's record"):
        write_corpus(tmp_path, PhantomSettings(rows=3, seed=1))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rows": 0}, "a phantom corpus of 0 rows"),
        ({"seed": -1}, "seed -1"),
        ({"modality": "utrasound"}, "unknown modality 'utrasound'"),
        ({"modality": "ct", "others": 1.0}, "share of other modalities 1.0"),
        ({"others": -0.1}, "share of other modalities -0.1"),
        ({"others": 0.2}, "without a modality"),
        ({"size_px": 8}, "8 px"),
        ({"shard_rows": 0}, "0 rows per tar"),
        ({"key_prefix": "a/b"}, "key prefix 'a/b'"),
    ],
)
def test_parameters_out_of_range_are_refused(tmp_path, setting, message):
    with pytest.raises(CorpusError, match=message):
        write_corpus(tmp_path / "out", PhantomSettings(**{"rows": 5, "seed": 0, **setting}))
    assert not (tmp_path / "out").exists()


def test_an_unknown_modality_comes_with_the_nearest(tmp_path):
    with pytest.raises(CorpusError) as caught:
        write_corpus(tmp_path, PhantomSettings(rows=5, seed=0, modality="X-Ray"))
    assert caught.value.hint == "did you mean 'xray'?"
