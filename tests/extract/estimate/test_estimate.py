"""The forecast of ``plan`` is what the run then does, and planning writes nothing."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from typer.main import get_command

from extract.cli.program import app
from extract.config import ExtractPipeline, ExtractSection
from extract.estimate.estimate import estimate, predicted_size, shard_bytes
from extract.estimate.rates import (
    Distinct,
    Rates,
    Resources,
    TeacherRate,
    count_distinct,
    predicted_hours,
    rates_of_profile,
    slowest,
    stage_seconds,
)
from extract.run.dispatch import execute_here
from extract.run.plan import KnownUnits, Plan, RangeWork
from extract.run.run import run
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError, StoreNotFoundError
from store.format.arrays import encode_shard
from store.format.records import Spec, StoreInfo, receipt_key
from store.io.location import locate
from store.read.reader import FeatureStore


def command(*arguments):
    return get_command(app)(list(arguments), prog_name="extract", standalone_mode=False)


def spec(**changes):
    fields = {"teacher": "small", "embed_dim": 20, "weights_sha256": "00", "architecture": {}, "preprocessing": {}}
    fields |= {"tokenizer": {}, "output": "projected", "compute_dtype": "float32"}
    return Spec(**{**fields, **changes})


def shape(*, rows, range_rows=64, chunk_rows=16):
    return StoreInfo(
        rows=rows, range_rows=range_rows, chunk_rows=chunk_rows, created_by="test", corpus_root="", corpus={}
    )


@pytest.mark.parametrize("stored_dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("rows", [1, 16, 33, 64])
def test_a_shard_has_the_bytes_that_are_predicted(stored_dtype, rows):
    info = shape(rows=rows)
    drawn = np.random.default_rng(rows).normal(size=(rows, 20)).astype(np.float32)
    for name, values in (("image", drawn), ("similarity", drawn[:, 0]), ("status", np.ones(rows, np.uint8))):
        encoded = encode_shard(name, values, stored_dtype=stored_dtype, info=info)
        assert shard_bytes(name, rows=rows, spec=spec(stored_dtype=stored_dtype), info=info) == len(encoded)


def files_of(store):
    return {p: p.read_bytes() for p in store.rglob("*") if p.is_file() and p.name != "writer.lock"}


@pytest.fixture
def uneven(tmp_path, teachers, write_pipeline, write_tar, encoded, prepare):
    """A pipeline over 150 pairs in ranges of 64, the last one short: some images are broken, some captions missing."""
    rng = np.random.default_rng(4)
    images = [encoded(pixels) for pixels in rng.integers(0, 255, (50, 80, 96, 3), np.uint8)]
    pairs = []
    for number in range(150):
        image = b"no image" if number % 10 == 3 else images[number % 50]
        pairs.append((f"k{number:03d}", image, None if number % 25 == 7 else f"caption {number % 40}"))
    folder = write_tar(tmp_path / "corpus", pairs)
    return prepare(write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers, range_rows=64, chunk_rows=16))


@pytest.mark.parametrize("probe_s", [0.0, 0.2])
def test_predicted_bytes_and_objects_are_those_that_a_run_writes(
    tmp_path, corpus, teachers, write_pipeline, prepare, probe_s
):
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, range_rows=32))
    before = files_of(tmp_path / "store")
    found = estimate(pipeline, probe_s=probe_s)
    assert files_of(tmp_path / "store") == before
    assert (found.units, found.committed, dict(found.teachers)) == (4, 0, {"small": 2, "wide": 2})
    run(pipeline, execute=execute_here)
    written = [content for path, content in files_of(tmp_path / "store").items() if path not in before]
    assert found.size.objects == len(written)
    assert found.size.nbytes == pytest.approx(sum(map(len, written)), rel=0.02)


def test_bad_rows_make_receipts_larger_as_the_probe_says(uneven, tmp_path):
    before = files_of(tmp_path / "store")
    found = estimate(uneven, probe_s=600.0)
    assert found.rates.rows == 150
    run(uneven, execute=execute_here)
    written = {path: content for path, content in files_of(tmp_path / "store").items() if path not in before}
    assert found.size.nbytes == pytest.approx(sum(map(len, written.values())), rel=0.02)
    # Without what the probe saw of them, 21 bad rows of 150 in each receipt would be missing.
    assert estimate(uneven, probe_s=0.0).size.objects == 0


def test_what_is_committed_is_not_planned_again(uneven, tmp_path):
    run(uneven, execute=execute_here)
    done = estimate(uneven, probe_s=60.0)
    assert (done.units, done.committed, done.size.nbytes, done.size.objects) == (6, 6, 0, 0)
    assert (done.hours, done.rates) == (0.0, None)
    store = tmp_path / "store"
    (store / receipt_key("wide", 2)).unlink()
    before = files_of(store)
    one = estimate(uneven, probe_s=600.0)
    assert (one.committed, dict(one.teachers)) == (5, {"small": 0, "wide": 1})
    assert files_of(store) == before
    run(uneven, execute=execute_here)
    # Four shards and a receipt, what the run says of itself in two files, and what the next plan knows from it.
    assert one.size.objects == 8
    shards = sum(
        stored["nbytes"] for stored in json.loads((store / receipt_key("wide", 2)).read_bytes())["objects"].values()
    )
    after = files_of(store)
    # The receipt among them, which was not there before.
    said = sum(len(after[path]) for path in after if path not in before or path.name == "committed.json")
    # Of a single small unit the reasons of bad rows, which the run's report repeats in words, are more than 2 %.
    assert one.size.nbytes == pytest.approx(shards + said, rel=0.05)


def test_a_probe_runs_the_teachers_that_lack_something_and_no_other(uneven, tmp_path):
    run(uneven, execute=execute_here)
    (tmp_path / "store" / receipt_key("wide", 0)).unlink()
    found = estimate(uneven, probe_s=0.1, price_per_hour=3.0)
    assert set(found.rates.teachers) == {"wide"}
    assert found.cost == pytest.approx(3.0 * found.worker_hours)
    assert found.hours == found.worker_hours > 0


def test_a_store_that_is_not_there_is_said_to_be_missing(tmp_path, corpus, teachers, write_pipeline):
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers)
    with pytest.raises(StoreNotFoundError, match=r"store\.json is missing"):
        estimate(read_pipeline(path, "tiny", ExtractPipeline), probe_s=0.0)


def test_stored_features_of_another_spec_are_named_and_counted_as_to_do(uneven):
    run(uneven, execute=execute_here)
    entries = uneven.teachers | {"small": uneven.teachers["small"].model_copy(update={"precision": "bf16"})}
    changed = uneven.model_copy(update={"teachers": entries})
    found = estimate(changed, probe_s=0.0)
    assert (list(found.replaced), dict(found.teachers)) == (["small"], {"small": 3, "wide": 0})


@pytest.mark.parametrize(
    ("bound", "rates", "device", "row_s"),
    [
        ("device", {"host_cpu_s": 0.1}, "cuda", {"ab": 0.1575, "b": 0.105}),
        ("cores", {"host_cpu_s": 0.6}, "cuda", {"ab": 0.3, "b": 0.3}),
        ("cores", {"host_cpu_s": 0.6}, "cpu", {"ab": 0.37875, "b": 0.3525}),
        ("decoding threads", {"pool_s": 0.9}, "cuda", {"ab": 0.3, "b": 0.3}),
        ("cores", {"pool_s": 0.9, "host_cpu_s": 0.5}, "cuda", {"ab": 0.3, "b": 0.3}),
        ("commits", {"write_s": 0.2}, "cuda", {"ab": 0.4, "b": 0.2}),
    ],
)
def test_hours_are_those_of_the_slowest_stage_summed_over_rows(monkeypatch, bound, rates, device, row_s):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    teachers = {
        "a": TeacherRate(images_per_s=10, captions_per_s=100),
        "b": TeacherRate(images_per_s=5, captions_per_s=50),
    }
    found = Rates(teachers=teachers, stretch=1.25, source="test", **rates)
    section = ExtractSection(device=device, threads_per_worker=1, decode_threads=3)
    distinct = Distinct(images=0.5, captions=0.25)
    assert slowest(stage_seconds(found, teachers, distinct, Resources.of(section))) == bound
    work = [RangeWork(range_id=0, teachers=("a", "b")), RangeWork(range_id=1, teachers=("b",))]
    hours = predicted_hours(work, info=shape(rows=100), rates=found, distinct=distinct, section=section)
    assert hours * 3600 == pytest.approx(1.25 * (64 * row_s["ab"] + 36 * row_s["b"]))


def test_rows_that_were_all_probed_take_as_long_as_the_probe(tmp_path, corpus, teachers, write_pipeline, prepare):
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, range_rows=16))
    found = estimate(pipeline, probe_s=600.0)
    assert found.rates.rows == 60
    # Not the same: captions that repeat in a range lie in several blocks of the probe.
    assert found.worker_hours * 3600 == pytest.approx(found.rates.seconds, rel=0.2)
    assert found.bound_by in ("device", "cores", "decoding threads", "commits")


def test_distinct_images_and_captions_are_counted_within_ranges(uneven, tmp_path):
    info = shape(rows=150)
    found = count_distinct(FeatureStore(tmp_path / "store").pairs, info=info, ranges=[0, 1, 2])
    numbers = [range(64), range(64, 128), range(128, 150)]
    images = sum(len({"bad" if n % 10 == 3 else n % 50 for n in part}) for part in numbers)
    captions = sum(len({n % 40 for n in part if n % 25 != 7}) for part in numbers)
    assert found.images * 150 == pytest.approx(images)
    assert found.captions * 150 == pytest.approx(captions)


@pytest.mark.parametrize("nested", [False, True])
def test_a_profile_takes_the_place_of_a_probe(uneven, tmp_path, nested):
    entries = {name: {"images_per_s": 20.0, "captions_per_s": 200.0, "peak_bytes": 1} for name in ("small", "wide")}
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"device": "cpu", "teachers": entries} if nested else entries))
    found = estimate(uneven, probe_s=60.0, profile=file)
    distinct = count_distinct(
        FeatureStore(tmp_path / "store").pairs,
        info=shape(rows=150),
        ranges=[0, 1, 2],
    )
    seconds = 2 * 150 * (distinct.images / 20 + distinct.captions / 200)
    assert found.worker_hours * 3600 == pytest.approx(seconds)
    assert found.rates.source == str(file)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_decoding_takes_time_from_the_teachers_on_a_cpu_and_runs_beside_them_on_a_gpu(uneven, tmp_path, device):
    section = uneven.extract.model_copy(update={"device": device, "decode_threads": 3})
    pipeline = uneven.model_copy(update={"extract": section})
    entries = {name: {"images_per_s": 20.0, "captions_per_s": 200.0} for name in ("small", "wide")}
    file = tmp_path / "profile.json"
    distinct = count_distinct(
        FeatureStore(tmp_path / "store").pairs,
        info=shape(rows=150),
        ranges=[0, 1, 2],
    )
    teachers = 2 * 150 * (distinct.images / 20 + distinct.captions / 200)
    for decoded_per_s in (1.0, 1e6):
        decode = 150 * distinct.images / decoded_per_s
        on_cores = decode + (teachers if device == "cpu" else 0.0)
        expected = max(teachers, on_cores / min(os.cpu_count(), 1 + 3), decode / 3)
        file.write_text(json.dumps({"teachers": entries, "decoded_per_s": decoded_per_s}))
        assert estimate(pipeline, probe_s=60.0, profile=file).worker_hours * 3600 == pytest.approx(expected)


def test_a_profile_without_a_teacher_is_refused_by_name(tmp_path):
    file = tmp_path / "profile.json"
    file.write_text(json.dumps({"small": {"images_per_s": 20.0, "captions_per_s": 0}}))
    with pytest.raises(ConfigError, match="no images_per_s and captions_per_s of small, wide"):
        rates_of_profile(file, specs=[spec(), spec(teacher="wide")])
    file.write_text(json.dumps({"teachers": [{"images_per_s": 20.0}]}))
    with pytest.raises(ConfigError, match="no images_per_s and captions_per_s of small"):
        rates_of_profile(file, specs=[spec()])
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        rates_of_profile(tmp_path / "none.json", specs=[spec()])
    file.write_text("<html>")
    with pytest.raises(ConfigError, match="not JSON"):
        rates_of_profile(file, specs=[spec()])


def test_nothing_to_do_has_no_size(uneven, tmp_path):
    nothing = Plan(work=[], units=6, committed=6, known=KnownUnits(digests={}, teachers={}))
    place = locate(tmp_path / "store")
    size = predicted_size(place, nothing, info=shape(rows=150), specs={}, pipeline=uneven, rates=None)
    assert (size.objects, size.nbytes) == (0, 0)


def test_the_command_says_it_in_words_and_as_json(uneven, tmp_path, capsys):
    del uneven
    common = ["plan", "--pipeline", "tiny", "--config", str(tmp_path / "pipelines.yaml"), "--price-per-hour", "2"]
    command(*common, "--probe", "0")
    assert "150 rows, 6 units, 0 committed, 6 to do" in capsys.readouterr().out
    command(*common, "--probe", "0.1")
    assert "cost: " in capsys.readouterr().out
    command(*common, "--probe", "0.1", "--json")
    content = json.loads(capsys.readouterr().out)
    # Per unit four shards and a receipt; a group; per teacher a group, four arrays and a spec; three of the run.
    assert content["size"]["objects"] == 6 * 5 + 1 + 2 * 6 + 3
    assert content["cost"] == pytest.approx(2 * content["worker_hours"])
    assert not (tmp_path / "store" / "receipts").exists()


def test_a_teacher_of_images_alone_needs_no_rate_of_captions_and_counts_none(tmp_path):
    file, one_sided = tmp_path / "profile.json", spec(sides=("image",))
    file.write_text(json.dumps({"small": {"images_per_s": 20.0}}))
    (rate,) = rates_of_profile(file, specs=[one_sided]).teachers.values()
    assert (rate.captions_per_s, rate.seconds(Distinct(images=0.5, captions=1.0))) == (None, 0.5 / 20)
    with pytest.raises(ConfigError, match="of small"):
        rates_of_profile(file, specs=[spec()])
