"""A run over a corpus: what is stored, what becomes of rows that cannot be used, what a second run does."""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import numpy as np
import open_clip
import pytest
import safetensors.numpy
import torch
from PIL import Image

from extract.run import run_spec
from extract.run.run import run
from extract.run.run_spec import build_worker
from store.errors import ExtractionError, SpecMismatchError
from store.format.records import Receipt, Status, read_record, receipt_key
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.extract.tasks import done


@pytest.fixture(scope="module")
def sixty(tmp_path_factory, corpus, teachers, write_pipeline, extract_here):
    """A store of the sixty pairs by both teachers; tests copy it before they change anything."""
    path = write_pipeline(tmp_path_factory.mktemp("sixty"), files=[corpus / "*.tar"], teachers=teachers)
    store, outcome = extract_here(path)
    return path, store, outcome


@pytest.fixture
def own_sixty(tmp_path, sixty):
    """A copy of the finished store and its pipeline that a test may change."""
    path, store, _ = sixty
    shutil.copytree(store, tmp_path / "store")
    shutil.copy(path, tmp_path)
    return tmp_path / path.name


def pairs_of(corpus):
    """Read (image, caption) of every pair straight from the tars."""
    members = {}
    for path in sorted(corpus.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.rsplit(".", 1)
                members.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    image_suffix = next(suffix for suffix in next(iter(members.values())) if suffix not in ("txt", "json"))
    return [(Image.open(io.BytesIO(m[image_suffix])), m["txt"].decode().strip()) for m in members.values()]


def cosines(left_BD, right_BD):
    left_BD, right_BD = left_BD.astype(np.float64), right_BD.astype(np.float64)
    return (left_BD * right_BD).sum(1) / np.linalg.norm(left_BD, axis=1) / np.linalg.norm(right_BD, axis=1)


def test_a_run_commits_every_unit_and_reports_it(sixty):
    _, path, outcome = sixty
    store = FeatureStore(path)
    assert (outcome.units, outcome.found, outcome.done, outcome.failed) == (8, 0, 8, {})
    assert not outcome.bad_rows
    assert store.teachers == ["small", "wide"]
    for name in store.teachers:
        assert store.is_complete(name)
        assert (store.status(name) == Status.OK).all()
    [report] = (path / "runs").glob("*/report.json")
    assert json.loads(report.read_text())["done"] == 8


@pytest.mark.parametrize("name", ["small", "wide"])
def test_features_are_those_of_plain_open_clip(sixty, corpus, teachers, name):
    store = FeatureStore(sixty[1])
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{teachers[name]}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{teachers[name]}")
    pairs = pairs_of(corpus)
    with torch.inference_mode():
        image_ND = np.concatenate([model.eval().encode_image(preprocess(image)[None]).numpy() for image, _ in pairs])
        text_ND = np.concatenate([model.encode_text(tokenize([text])).numpy() for _, text in pairs])
    stored_image_ND = store.read(slice(None), teacher=name, side="image")
    stored_text_ND = store.read(slice(None), teacher=name, side="text")
    assert cosines(stored_image_ND, image_ND).min() > 0.99999
    assert cosines(stored_text_ND, text_ND).min() > 0.99999
    np.testing.assert_allclose(store.similarity(name), cosines(image_ND, text_ND), atol=1e-5)
    # The reference tells rows apart: without this a constant feature would pass.
    assert np.unique(stored_image_ND, axis=0).shape[0] == 60


class Recorder:
    """A teacher that passes everything on to another and remembers what it was given."""

    def __init__(self, teacher):
        self._teacher = teacher
        self.tokenized = []
        self.captions = 0
        self.images = 0

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def tokenize(self, captions):
        self.tokenized += captions
        return self._teacher.tokenize(captions)

    def text_features(self, ids_BL, lengths_B):
        self.captions += len(lengths_B)
        return self._teacher.text_features(ids_BL, lengths_B)

    def image_features(self, pixels_BHWC):
        self.images += len(pixels_BHWC)
        return self._teacher.image_features(pixels_BHWC)


def test_each_distinct_caption_and_image_is_encoded_once(
    tmp_path, teachers, write_pipeline, write_tar, encoded, prepare
):
    rng = np.random.default_rng(1)
    texts = ["chest x-ray", "axial ct", "retinal photograph"]
    images = [encoded(pixels) for pixels in rng.integers(0, 255, (5, 70, 70, 3), np.uint8)]
    pairs = [(f"k{i:02d}", images[i % 5], texts[i * i % 3]) for i in range(14)]
    folder = write_tar(tmp_path / "corpus", pairs)
    recorders = {}

    def execute(job, work, tracker):
        worker = build_worker(job)
        worker.teachers = recorders | {name: Recorder(teacher) for name, teacher in worker.teachers.items()}
        recorders.update(worker.teachers)
        for item in work:
            tracker.note(done(worker, item.range_id, item.teachers))

    pipeline = prepare(write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers, batch_size=4))
    run(pipeline, execute=execute)
    store = FeatureStore(pipeline.store.path)
    # Teachers with the same tokenizer share its tokens; every tokenizer gets every caption once.
    keys = {recorder.tokenizer_key for recorder in recorders.values()}
    tokenized = [caption for recorder in recorders.values() for caption in recorder.tokenized]
    assert len(keys) < len(recorders)
    assert sorted(tokenized) == sorted([*{text for _, _, text in pairs}] * len(keys))
    for name, recorder in recorders.items():
        assert recorder.captions == len({text for _, _, text in pairs})
        text_ND = store.read(slice(None), teacher=name, side="text")
        for row, (_, _, text) in enumerate(pairs):
            first = next(i for i, pair in enumerate(pairs) if pair[2] == text)
            assert np.array_equal(text_ND[row], text_ND[first])
        assert np.unique(text_ND, axis=0).shape[0] == len({text for _, _, text in pairs})
        assert recorder.images == 5
        image_ND = store.read(slice(None), teacher=name, side="image")
        assert np.array_equal(image_ND, image_ND[np.arange(14) % 5])
        assert np.unique(image_ND, axis=0).shape[0] == 5


def _unusual_pairs(encoded):
    """Return the good pairs, and the same with unusual ones in their places, by row."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 255, (24, 70, 81, 3), np.uint8)
    good = [(f"k{i:02d}", encoded(pixels[i]), f"finding number {i}") for i in range(24)]
    palette = Image.fromarray(pixels[4]).quantize(64)
    grey = rng.integers(0, 65535, (70, 81), np.uint16)
    noise = rng.integers(0, 255, (130, 90, 3), np.uint8)
    images = {
        1: good[1][1][: len(good[1][1]) // 2],
        2: b"",
        4: encoded(palette),
        5: encoded(Image.fromarray(pixels[5]).convert("CMYK"), "jpeg"),
        7: encoded(grey),
        9: encoded(noise),
        11: b"<html>not found</html>",
    }
    unusual = [(key, images.get(row, image), text) for row, (key, image, text) in enumerate(good)]
    # In the second range, because a caption left out moves the captions behind it to other places of a batch.
    unusual[17] = (*unusual[17][:2], "  ")
    unusual[18] = ("k18", None, "finding number 18")
    unusual[19] = ("k19", unusual[19][1], None)
    return good, unusual, {4: palette, 7: grey}


BAD = {
    1: ("bad_image", "cannot be decoded"),
    2: ("bad_image", "0 bytes"),
    9: ("bad_image", "90 x 130 pixels, more than the bound of 10000"),
    11: ("bad_image", "not an image"),
    17: ("bad_text", "the caption is missing or empty"),
    18: ("bad_image", "missing member"),
    19: ("bad_text", "the caption is missing or empty"),
}


@pytest.mark.end_to_end
def test_unusable_rows_are_recorded_and_change_nothing_else(
    tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here, prepare, cli
):
    good, unusual, _ = _unusual_pairs(encoded)
    paths = [
        write_pipeline(
            tmp_path / name,
            files=[write_tar(tmp_path / name / "corpus", pairs) / "*.tar"],
            teachers=teachers,
            max_pixels=10_000,
            batch_size=8,
        )
        for name, pairs in (("good", good), ("unusual", unusual))
    ]
    plain = FeatureStore(extract_here(paths[0])[0])
    prepare(paths[1])
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", paths[1])
    assert code == 0, stderr
    assert "feature pairs are missing: bad_text: the caption is missing or empty" in stderr
    store = FeatureStore(paths[1].parent / "store")
    converted = [4, 5, 7]
    for name in teachers:
        status = store.status(name)
        receipts = store.receipts(name).values()
        found = {bad.row: bad for receipt in receipts for bad in receipt.bad_rows}
        assert set(found) == set(BAD)
        for row, (kind, reason) in BAD.items():
            assert Status(status[row]).name.lower() == kind
            assert found[row].key == f"k{row:02d}"
            assert reason in found[row].reason
        rows = np.setdiff1d(np.arange(24), list(BAD))
        assert (status[rows] == Status.OK).all()
        for side in ("image", "text"):
            features = store.read(slice(None), teacher=name, side=side)
            assert not features[list(BAD)].any()
            same = np.setdiff1d(rows, converted) if side == "image" else rows[rows < 16]
            assert np.array_equal(features[same], plain.read(slice(None), teacher=name, side=side)[same])
        np.testing.assert_allclose(np.linalg.norm(features[rows].astype(np.float32), axis=1), 1, atol=2e-3)


def test_a_16_bit_image_is_seen_as_its_upper_8_bits_and_a_palette_as_open_clip_resizes_it(
    tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here
):
    _, unusual, originals = _unusual_pairs(encoded)
    eight_bit = (originals[7] // 256).astype(np.uint8)
    # open_clip resizes a palette by nearest pixels: the same as its colours resized so, not as its colours in RGB.
    same_as_rgb = {4: originals[4].convert("RGB"), 7: Image.fromarray(np.stack([eight_bit] * 3, axis=-1))}
    stores = []
    for name in ("as_is", "as_rgb"):
        pairs = [
            (unusual[row][0], unusual[row][1] if name == "as_is" else encoded(image), unusual[row][2])
            for row, image in same_as_rgb.items()
        ]
        folder = write_tar(tmp_path / name / "corpus", pairs)
        stores.append(extract_here(write_pipeline(tmp_path / name, files=[folder / "*.tar"], teachers=teachers))[0])
    for name in teachers:
        as_is, as_rgb = (FeatureStore(store).read(slice(None), teacher=name, side="image") for store in stores)
        assert as_is.any(axis=1).all()
        assert np.array_equal(as_is[1], as_rgb[1])
        assert not np.array_equal(as_is[0], as_rgb[0])
    counted = {"pixels of 16 bits keep their upper 8, judged by the image's largest value": 1}
    for store, changed in zip(stores, (counted, None), strict=True):
        assert [receipt.changed_images for receipt in FeatureStore(store).receipts("small").values()] == [changed]


def test_a_corpus_of_bad_images_stops_the_run_with_the_commonest_reasons(
    tmp_path, teachers, write_pipeline, write_tar, extract_here
):
    pairs = [(f"k{i:03d}", b"" if i % 3 else b"GIF?", "a caption") for i in range(160)]
    path = write_pipeline(
        tmp_path,
        files=[write_tar(tmp_path / "corpus", pairs) / "*.tar"],
        teachers={"small": teachers["small"]},
        range_rows=32,
        chunk_rows=32,
        max_bad_fraction=0.25,
    )
    with pytest.raises(ExtractionError) as caught:
        extract_here(path)
    lines = str(caught.value).splitlines()
    assert "128 of 128 feature pairs are bad, more than extract.max_bad_fraction = 0.25" in lines[0]
    assert lines[1].strip() == "85 x bad_image: the image file is empty (0 bytes)"
    assert lines[2].strip().startswith("43 x bad_image: not an image")
    # What was committed before it stopped stays.
    assert len(FeatureStore(tmp_path / "store").receipts("small")) >= 4


def test_few_bad_rows_do_not_stop_a_run(tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here):
    image = encoded(np.full((64, 64, 3), 100, np.uint8))
    pairs = [(f"k{i:03d}", b"" if i < 8 else image, "a caption") for i in range(32)]
    path = write_pipeline(
        tmp_path,
        files=[write_tar(tmp_path / "corpus", pairs) / "*.tar"],
        teachers={"small": teachers["small"]},
        range_rows=8,
        chunk_rows=8,
        max_bad_fraction=0.25,
    )
    _, outcome = extract_here(path)
    assert outcome.done == 4
    assert outcome.bad_rows == {"bad_image: the image file is empty (0 bytes)": 8}
    [report] = (tmp_path / "store" / "runs").glob("*/report.json")
    assert json.loads(report.read_text())["bad_rows"] == outcome.bad_rows


def test_a_second_run_has_nothing_to_do(own_sixty, extract_here, stored_digests):
    before = stored_digests(own_sixty.parent / "store")
    store, outcome = extract_here(own_sixty)
    assert (outcome.units, outcome.found, outcome.done) == (8, 8, 0)
    assert stored_digests(store) == before


def _other_weights(folder, copy):
    shutil.copytree(folder, copy)
    file = copy / "open_clip_model.safetensors"
    weights = safetensors.numpy.load_file(file)
    weights["text_projection"] = np.ascontiguousarray(weights["text_projection"][:, ::-1])
    safetensors.numpy.save_file(weights, file)
    return copy


def test_changed_weights_are_refused_and_replaced_only_on_request(
    own_sixty, corpus, teachers, write_pipeline, extract_here, stored_digests
):
    where = own_sixty.parent
    before = {name: stored_digests(where / "store", name) for name in teachers}
    changed = {**teachers, "wide": _other_weights(teachers["wide"], where / "changed")}
    path = write_pipeline(where, files=[corpus / "*.tar"], teachers=changed)
    with pytest.raises(SpecMismatchError, match="weights_sha256") as caught:
        extract_here(path)
    assert "--replace wide" in caught.value.hint
    assert {name: stored_digests(where / "store", name) for name in teachers} == before

    kept = [(where / "store" / receipt_key("small", i)).read_bytes() for i in range(4)]
    store, outcome = extract_here(path, replace=["wide"])
    assert (outcome.found, outcome.done) == (4, 4)
    assert stored_digests(store, "small") == before["small"]
    assert [(store / receipt_key("small", i)).read_bytes() for i in range(4)] == kept
    after = stored_digests(store, "wide")
    unchanged = [key for key in before["wide"] if after[key] == before["wide"][key] and "/c/" in key]
    assert {key.split("/")[1] for key in unchanged} == {"image", "status"}  # only the text tower changed


def test_a_unit_without_receipt_is_made_again_and_no_other(own_sixty, extract_here, stored_digests):
    store = own_sixty.parent / "store"
    before, receipts = stored_digests(store), {p: p.read_bytes() for p in (store / "receipts").rglob("*.json")}
    lost = store / receipt_key("wide", 2)
    lost.unlink()
    _, outcome = extract_here(own_sixty)
    assert (outcome.found, outcome.done) == (7, 1)
    assert stored_digests(store) == before
    assert {p: p.read_bytes() for p in receipts if p != lost} == {p: c for p, c in receipts.items() if p != lost}
    again = read_record(locate(store), receipt_key("wide", 2), Receipt)
    assert again.objects == Receipt.model_validate_json(receipts[lost]).objects


def test_a_damaged_receipt_counts_as_none(own_sixty, extract_here, stored_digests):
    store = own_sixty.parent / "store"
    before = stored_digests(store)
    (store / receipt_key("small", 0)).write_text('{"teacher": "small", ')
    _, outcome = extract_here(own_sixty)
    assert (outcome.found, outcome.done) == (7, 1)
    assert stored_digests(store) == before


class Failing:
    """A teacher that breaks at the images of the first range, as often as it is told."""

    def __init__(self, teacher, *, failures):
        self._teacher = teacher
        self._left = failures
        self._first_BHWC = None

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def image_features(self, pixels_BHWC):
        if self._first_BHWC is None:
            self._first_BHWC = pixels_BHWC.clone()
        if self._left and torch.equal(pixels_BHWC, self._first_BHWC):
            self._left -= 1
            raise RuntimeError("the device failed")
        return self._teacher.image_features(pixels_BHWC)


@pytest.mark.parametrize(("failures", "given_up"), [(2, {}), (3, {0: "RuntimeError: the device failed"})])
def test_a_failing_range_is_tried_three_times_and_does_not_end_the_run(
    tmp_path, corpus, teachers, write_pipeline, extract_here, monkeypatch, failures, given_up
):
    def build(job):
        worker = build_worker(job)
        worker.teachers = {name: Failing(teacher, failures=failures) for name, teacher in worker.teachers.items()}
        return worker

    monkeypatch.setattr(run_spec, "build_worker", build)
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers={"small": teachers["small"]})
    store, outcome = extract_here(path)
    assert outcome.failed == given_up
    assert outcome.done == 4 - len(given_up)
    receipts = FeatureStore(store).receipts("small")
    assert set(receipts) == {0, 1, 2, 3} - set(given_up)
    assert {range_id: receipt.attempt for range_id, receipt in receipts.items() if receipt.attempt > 1} == (
        {} if given_up else {0: 3}
    )
