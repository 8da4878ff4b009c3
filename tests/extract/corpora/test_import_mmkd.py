"""Importing the released MMKD-CLIP cache: the real excerpt where it is at hand, and caches that are not as released."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from extract.corpora.import_mmkd import TEACHER_IDS, import_mmkd
from store.errors import CorpusError, StoreError
from store.format.records import Status
from store.read.reader import FeatureStore

SHAPE = {"range_rows": 4, "chunk_rows": 2}


@pytest.fixture(scope="module")
def released(tmp_path_factory, shared_data):
    """The excerpt's folder, its entries, and the store made of it."""
    source = shared_data("mmkd_demo")
    entries = [json.loads(line) for line in (source / "meta.jsonl").read_text().splitlines() if line.strip()]
    path = tmp_path_factory.mktemp("released") / "store"
    import_mmkd(source, path, **SHAPE)
    return source, entries, FeatureStore(path)


def test_the_excerpt_has_eight_pairs_and_eight_teachers_in_their_own_widths(released):
    source, entries, store = released
    assert len(entries) == store.info.rows == 8
    assert len(store.teachers) == 8
    features = torch.load((source / entries[0]["imgpath"]).parent / "clips_output.pt", weights_only=True)
    for name, teacher in TEACHER_IDS.items():
        if teacher in store.teachers:
            width = store.spec(teacher).embed_dim
            assert store.read(slice(None), teacher=teacher, side="image").shape == (8, width)
            if f"{name}_img" in features:
                assert features[f"{name}_img"].numel() == width


def test_a_row_is_ok_only_where_available_clips_says_so(released):
    _, entries, store = released
    for name, teacher in TEACHER_IDS.items():
        expected = [Status.OK if name in entry["available_clips"] else Status.NOT_APPLICABLE for entry in entries]
        if teacher in store.teachers:
            assert store.status(teacher).tolist() == expected
            assert store.is_complete(teacher)
        else:
            assert Status.OK not in expected


@pytest.mark.parametrize("side", ["image", "text"])
def test_values_are_those_that_were_released(released, side):
    source, entries, store = released
    compared = 0
    for row, entry in enumerate(entries):
        found = torch.load((source / entry["imgpath"]).parent / "clips_output.pt", weights_only=True)
        for name in entry["available_clips"]:
            released_D = found[f"{name}_{'img' if side == 'image' else 'txt'}"].double().numpy().reshape(-1)
            stored = store.read(np.array([row]), teacher=TEACHER_IDS[name], side=side)[0].astype(np.float64)
            assert np.abs(stored - released_D).max() < 5e-4
            cosine = stored @ released_D / np.linalg.norm(stored) / np.linalg.norm(released_D)
            assert cosine > 0.999999
            compared += 1
    assert compared == sum(len(entry["available_clips"]) for entry in entries) > 8


def test_captions_and_images_are_reachable(released):
    source, entries, store = released
    for entry, pair in zip(entries, store.pairs.read(0, 8).to_pylist(), strict=True):
        assert (pair["key"], pair["caption"]) == (entry["id"], entry["txt"].strip())
        data = store.images.fetch(pair["uri"], pair["member"])
        assert data == (source / entry["imgpath"]).read_bytes()
        assert Image.open(io.BytesIO(data)).size == (pair["width"], pair["height"])


def _cache(folder, *, rows=3, clips=("BMCA", "PLIP"), norm=1.0):
    """Write a small cache laid out as the released one."""
    rng = np.random.default_rng(0)
    entries = []
    for row in range(rows):
        place = folder / "features" / f"id{row}"
        place.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(place / "image.png")
        features = {}
        for name, width in (("BMCA", 6), ("PLIP", 4)):
            for side in ("img", "txt"):
                feature = torch.from_numpy(rng.standard_normal((1, width)).astype(np.float32))
                features[f"{name}_{side}"] = feature / feature.norm() * norm
        torch.save(features, place / "clips_output.pt")
        entry = {"id": f"id{row}", "imgpath": f"features/id{row}/image.png", "txt": f" caption {row} "}
        entries.append({**entry, "available_clips": list(clips)})
    _write_meta(folder, entries)
    return folder, entries


def _write_meta(folder, entries):
    (folder / "meta.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_a_cache_in_the_released_layout_is_imported(tmp_path):
    source, entries = _cache(tmp_path / "cache")
    entries[1]["available_clips"] = ["PLIP"]
    _write_meta(source, entries)
    info = import_mmkd(source, tmp_path / "store", range_rows=2, chunk_rows=1)
    store = FeatureStore(tmp_path / "store")
    assert (info.rows, info.ranges, store.teachers) == (3, 2, ["bmca", "plip"])
    assert store.status("bmca").tolist() == [Status.OK, Status.NOT_APPLICABLE, Status.OK]
    assert not store.read(slice(1, 2), teacher="bmca", side="image").any()
    assert store.pairs.read(0, 3)["caption"].to_pylist() == ["caption 0", "caption 1", "caption 2"]


def test_importing_again_changes_nothing_and_completes_what_was_interrupted(tmp_path):
    source, _ = _cache(tmp_path / "cache")
    store = tmp_path / "store"
    import_mmkd(source, store, **SHAPE)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "writer.lock"}
    lost = next(path for path in before if path.parent.parent.name == "receipts")
    lost.unlink()
    import_mmkd(source, store, **SHAPE)
    after = {path: path.read_bytes() for path in before}
    assert {path: after[path] for path in before if path != lost} == {p: d for p, d in before.items() if p != lost}
    objects = (json.loads(content)["objects"] for content in (before[lost], after[lost]))
    assert next(objects) == next(objects)


def test_importing_into_a_store_of_other_pairs_is_refused(tmp_path):
    source, _ = _cache(tmp_path / "cache")
    import_mmkd(source, tmp_path / "store", **SHAPE)
    meta = source / "meta.jsonl"
    meta.write_text(meta.read_text() + "\n")
    with pytest.raises(StoreError, match="there is a store of other pairs already"):
        import_mmkd(source, tmp_path / "store", **SHAPE)


def test_a_cache_that_is_refused_leaves_no_store(tmp_path):
    source, _ = _cache(tmp_path / "cache")
    path = next(source.rglob("clips_output.pt"))
    features = torch.load(path, weights_only=True)
    torch.save({name: 2 * value for name, value in features.items()}, path)
    with pytest.raises(CorpusError):
        import_mmkd(source, tmp_path / "store", **SHAPE)
    assert not (tmp_path / "store").exists()


def _without_meta(folder, _entries):
    (folder / "meta.jsonl").unlink()


def _broken_meta(folder, _entries):
    (folder / "meta.jsonl").write_text('{"id": ')


def _empty_meta(folder, _entries):
    (folder / "meta.jsonl").write_text("\n")


def _meta_without_caption(folder, entries):
    del entries[1]["txt"]
    _write_meta(folder, entries)


def _unknown_teacher(folder, entries):
    entries[2]["available_clips"].append("OtherCLIP")
    _write_meta(folder, entries)


def _promised_but_absent(folder, entries):
    entries[0]["available_clips"].append("MedCLIP")
    entries[1]["available_clips"].append("MedCLIP")
    path = folder / "features" / "id1" / "clips_output.pt"
    features = torch.load(path, weights_only=True)
    torch.save(features | {"MedCLIP_img": torch.ones(1), "MedCLIP_txt": torch.ones(1)}, path)
    _write_meta(folder, entries)


def _twice_the_same_key(folder, entries):
    entries[1]["id"] = "id0"
    _write_meta(folder, entries)


def _without_features(folder, _entries):
    (folder / "features" / "id1" / "clips_output.pt").unlink()


def _damaged_features(folder, _entries):
    (folder / "features" / "id1" / "clips_output.pt").write_bytes(b"not tensors")


def _without_image(folder, _entries):
    (folder / "features" / "id2" / "image.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_meta, "no meta.jsonl"),
        (_broken_meta, "meta.jsonl: not JSON lines"),
        (_empty_meta, "meta.jsonl: holds no pair"),
        (_meta_without_caption, "meta.jsonl:2: lacks txt"),
        (_unknown_teacher, "meta.jsonl:3: unknown teachers OtherCLIP"),
        (_promised_but_absent, "pair id0: available_clips promises MedCLIP_img"),
        (_twice_the_same_key, "'id0'"),
        (_without_features, "clips_output.pt: missing"),
        (_damaged_features, "clips_output.pt: not a file of tensors"),
        (_without_image, "image.png: the image is missing"),
    ],
)
def test_a_cache_that_is_not_as_released_is_refused_by_name(tmp_path, damage, message):
    damage(*_cache(tmp_path / "cache"))
    with pytest.raises(CorpusError, match=message):
        import_mmkd(tmp_path / "cache", tmp_path / "store", **SHAPE)


def test_features_that_are_not_unit_norm_are_refused(tmp_path):
    source, _ = _cache(tmp_path / "cache", norm=1.5)
    with pytest.raises(CorpusError, match=r"pair id0: BMCA_img has width 6 and norm 1\.5000, expected 6 and 1"):
        import_mmkd(source, tmp_path / "store", **SHAPE)
