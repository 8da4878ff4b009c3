"""``drift`` agrees with a store as it was made, and finds what was done to one: rows, weights, resizing, bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile

import numpy as np
import open_clip
import pytest
import safetensors.numpy
import torch
from PIL import Image
from typer.main import get_command

from extract.cli.program import app
from extract.config import ExtractPipeline
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from extract.monitor.drift import MIN_COSINE, MIN_COSINE_ROUGH, default_threshold, draw, drift
from extract.teacher_files.specs import teacher_spec
from store.config.pipeline_file import read_pipeline
from store.errors import IncompleteStoreError, SpecMismatchError
from store.format.arrays import encode_shard, shard_key
from store.format.records import Receipt, StoredObject, read_record, receipt_key, spec_key, write_record
from store.read.reader import FeatureStore

ROWS = 40


def spread(folder, corpus_files, target):
    """Copy a teacher with random weights so that its image features have a mean of zero.

    As they are made they all but coincide, and no cosine could tell one row from another.
    """
    shutil.copytree(folder, target)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{target}")
    pixels = []
    for path in corpus_files:
        with tarfile.open(path) as tar:
            images = [member for member in tar if member.name.endswith((".png", ".jpg"))]
            pixels += [preprocess(Image.open(tar.extractfile(member)).convert("RGB")) for member in images]
    with torch.inference_mode():
        mean_D = model.eval().encode_image(torch.stack(pixels)).mean(dim=0).numpy()
    [file] = target.glob("*.safetensors")
    tensors = safetensors.numpy.load_file(file)
    tensors["visual.attnpool.c_proj.bias"] = tensors["visual.attnpool.c_proj.bias"] - mean_D
    safetensors.numpy.save_file(tensors, file)
    return target


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, teachers):
    """A teacher whose features differ from row to row, and the folder of 40 drawn pairs larger than it sees them."""
    folder = tmp_path_factory.mktemp("spread")
    write_corpus(folder / "corpus", PhantomSettings(rows=ROWS, seed=8, size_px=150))
    return spread(teachers["small"], sorted((folder / "corpus").glob("*.tar")), folder / "small"), folder / "corpus"


@pytest.fixture(scope="module")
def made(tmp_path_factory, teacher, write_pipeline, extract_here):
    """A store of those pairs by that teacher, in three ranges: its folder, and the pipeline's file."""
    folder = tmp_path_factory.mktemp("drift")
    path = write_pipeline(folder, files=[teacher[1] / "*.tar"], teachers={"small": teacher[0]})
    extract_here(path)
    return folder, path


@pytest.fixture
def own(tmp_path, made):
    """A copy of that store which a test may doctor."""
    shutil.copytree(made[0] / "store", tmp_path / "store")
    return FeatureStore(tmp_path / "store")


def pipeline_of(made):
    return read_pipeline(made[1], "tiny", ExtractPipeline)


def compare(store, pipeline, *, rows=ROWS, seed=0, **options):
    # Opened anew: what a store read of its receipts stays.
    store = FeatureStore(store.location)
    [found] = drift(store, pipeline, teachers=["small"], rows=rows, seed=seed, root=store.info.corpus_root, **options)
    return found


def doctor(store, name, range_id, change):
    """Change a committed array and let its receipt vouch for that, so that only the content is wrong."""
    key, receipt_at = shard_key("small", name, range_id), receipt_key("small", range_id)
    start, stop = store.info.bounds(range_id)
    values = store.read(slice(start, stop), teacher="small", side=name).copy()
    data = encode_shard(name, change(values), stored_dtype="float16", info=store.info)
    store.location.write(key, data)
    receipt = read_record(store.location, receipt_at, Receipt)
    stored = StoredObject(nbytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    objects = {**receipt.objects, key: stored}
    write_record(store.location, receipt_at, receipt.model_copy(update={"objects": objects}))


def claim(store, spec):
    """Let a store say that its features are of a spec."""
    write_record(store.location, spec_key("small"), spec)
    for range_id in range(store.info.ranges):
        receipt = read_record(store.location, receipt_key("small", range_id), Receipt)
        changed = receipt.model_copy(update={"spec_hash": spec.hash})
        write_record(store.location, receipt_key("small", range_id), changed)


def test_a_store_as_it_was_made_agrees(made, own):
    found = compare(own, pipeline_of(made))
    assert (found.passed, found.rows, found.lost, found.gained) == (True, ROWS, (), ())
    for side in ("image", "text"):
        # Other batches than when it was made: the last bit of a float16 may differ.
        assert found.sides[side].min_cosine > 0.999999
        assert found.sides[side].max_abs_difference < 1e-3


@pytest.mark.parametrize("side", ["image", "text"])
def test_two_swapped_rows_are_found(made, own, side):
    def swap(values_BD):
        values_BD[[2, 9]] = values_BD[[9, 2]]
        return values_BD

    doctor(own, side, 1, swap)
    found = compare(own, pipeline_of(made))
    assert not found.passed
    assert set(found.sides[side].below) == {18, 25}
    assert found.sides[side].worst_row in (18, 25)
    assert not found.sides["text" if side == "image" else "image"].below
    assert found.sides[side].median_cosine > 0.999999


def test_noise_of_a_hundredth_is_found(made, own):
    def blur(values_BD):
        noisy_BD = values_BD.astype(np.float32)
        noisy_BD[5] += np.random.default_rng(0).normal(scale=1e-2, size=noisy_BD.shape[1])
        return noisy_BD / np.linalg.norm(noisy_BD, axis=1, keepdims=True)

    doctor(own, "image", 0, blur)
    found = compare(own, pipeline_of(made))
    assert found.sides["image"].below == (5,)
    assert found.sides["image"].max_abs_difference > 5e-3


def test_a_row_of_zeros_agrees_with_nothing(made, own):
    def blank(values_BD):
        values_BD[0] = 0
        return values_BD

    doctor(own, "image", 0, blank)
    assert compare(own, pipeline_of(made)).sides["image"].min_cosine == -1


def test_another_teachers_weights_are_found(made, own, tmp_path, teacher):
    folder = shutil.copytree(teacher[0], tmp_path / "other")
    [file] = folder.glob("*.safetensors")
    tensors = safetensors.numpy.load_file(file)
    rng = np.random.default_rng(3)
    first = next(name for name in sorted(tensors) if name.startswith("visual") and tensors[name].ndim == 4)
    tensors[first] = tensors[first] + rng.normal(scale=0.1, size=tensors[first].shape).astype(np.float32)
    safetensors.numpy.save_file(tensors, file)
    pipeline = pipeline_of(made)
    entry = pipeline.teachers["small"].model_copy(update={"folder": str(folder)})
    other = pipeline.model_copy(update={"teachers": {"small": entry}})
    with pytest.raises(SpecMismatchError, match="weights_sha256"):
        compare(own, other)
    # The same, where the store claims that it was these weights.
    claim(own, teacher_spec("small", entry))
    found = compare(own, other)
    assert not found.passed
    assert found.sides["image"].median_cosine < 0.99
    assert not found.sides["text"].below


def test_a_changed_resize_is_found(made, own, tmp_path, teacher):
    folder = shutil.copytree(teacher[0], tmp_path / "other")
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["preprocess_cfg"]["interpolation"] = "bilinear"
    file.write_text(json.dumps(config))
    pipeline = pipeline_of(made)
    entry = pipeline.teachers["small"].model_copy(update={"folder": str(folder)})
    other = pipeline.model_copy(update={"teachers": {"small": entry}})
    with pytest.raises(SpecMismatchError, match="interpolation"):
        compare(own, other)
    claim(own, teacher_spec("small", entry))
    found = compare(own, other)
    assert not found.passed
    assert found.sides["image"].median_cosine < MIN_COSINE
    assert not found.sides["text"].below


def test_rows_are_drawn_by_the_seed_and_only_committed_ones(made, own):
    committed_N = np.arange(100) % 3 != 0
    first, second, other = (draw(committed_N, rows=20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert (np.diff(first) > 0).all()
    assert committed_N[first].all()
    assert np.array_equal(draw(committed_N, rows=99, seed=1), np.flatnonzero(committed_N))
    (own.location.path / receipt_key("small", 0)).unlink()
    assert compare(own, pipeline_of(made)).rows == ROWS - 16


def test_a_row_that_became_bad_is_lost(made, own):
    pipeline = pipeline_of(made).model_copy(update={"max_pixels": 1000})
    found = compare(own, pipeline, rows=7)
    assert (found.passed, found.rows, len(found.lost)) == (False, 0, 7)


def test_the_threshold_follows_from_how_features_are_computed_and_stored(made, own):
    spec = own.spec("small")
    assert default_threshold(spec) == MIN_COSINE
    assert default_threshold(spec.model_copy(update={"stored_dtype": "int8"})) == MIN_COSINE_ROUGH
    assert default_threshold(spec.model_copy(update={"compute_dtype": "bfloat16"})) == MIN_COSINE_ROUGH
    assert compare(own, pipeline_of(made), rows=3, min_cosine=1.1).passed is False


def test_an_empty_store_cannot_have_drifted(made, own):
    for path in own.location.path.rglob("receipts/*/*.json"):
        path.unlink()
    with pytest.raises(IncompleteStoreError, match="no features yet of small"):
        compare(own, pipeline_of(made))


def test_drift_writes_nothing_and_its_exit_code_says_what_it_found(made, own, capsys):
    def command(*more):
        arguments = ["drift", "--pipeline", "tiny", "--config", str(made[1]), "--store", str(own.location), *more]
        return get_command(app)(arguments, prog_name="extract", standalone_mode=False)

    def files():
        return {p: p.read_bytes() for p in own.location.path.rglob("*") if p.is_file()}

    before = files()
    assert command("--rows", "10", "--seed", "3", "--json") == 0
    [content] = json.loads(capsys.readouterr().out)
    assert (content["teacher"], content["rows"], content["passed"]) == ("small", 10, True)
    assert files() == before
    doctor(own, "text", 0, lambda values_BD: values_BD[::-1])
    assert command("--rows", "40") == 1
    assert "16 rows below 0.9999" in capsys.readouterr().out
