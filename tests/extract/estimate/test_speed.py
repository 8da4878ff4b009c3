"""Profiles of teachers: what is measured, what follows from it, and teachers whose weights are not here."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from extract.cli.program import app
from extract.config import ExtractPipeline
from extract.estimate.known_models import KNOWN_MODELS, KNOWN_TIMM, KNOWN_TRANSFORMERS, processor_of
from extract.estimate.memory import begin_peak, held_bytes, peak_bytes
from extract.estimate.speed import Settings, profile
from extract.estimate.stand_in import captions, stand_in
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.library_models import of_transformers
from extract.teacher_files.model_folder import CONFIG_NAME
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from store.cli.options import PIPELINES_FILE
from store.config.pipeline_file import read_pipeline
from store.errors import WeightsNotFoundError
from tests.extract import library_cases
from tests.extract import teacher_cases as cases

HOUR_S = 3600


def settings(**changes):
    fields = {"device": "cpu", "threads": 1, "decode_threads": 2, "batch_size": 4, "seconds": 0.05, "rows": 1000}
    return Settings(**{**fields, **changes})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two teachers' entries, by id, and a third whose weights are not there."""
    root = tmp_path_factory.mktemp("two")
    entries = {name: cases.written(name, root / name).entry for name in ("quiltnet", "medclip")}
    return entries | {"absent": entries["quiltnet"].model_copy(update={"folder": str(root / "absent")})}


@pytest.fixture(scope="module")
def found(two):
    return profile(two, settings())


def test_hours_are_rows_over_rates_and_each_image_is_decoded_once(found):
    for speed in found.teachers.values():
        expected = 1000 / speed.images_per_s + 1000 / speed.captions_per_s
        assert speed.hours * HOUR_S == pytest.approx(expected)
        assert min(speed.images_per_s, speed.captions_per_s, speed.load_s) > 0
        assert 0 < speed.cpu_share <= 1
    decode = 1000 / found.decoded_per_s / HOUR_S
    assert found.decode_hours == pytest.approx(decode)
    cores = min(os.cpu_count(), 3)
    for hours, share in ((found.hours, lambda _: 1.0), (found.hours_alone, lambda speed: speed.cpu_share)):
        teachers = sum(speed.hours * share(speed) for speed in found.teachers.values())
        assert hours == pytest.approx(max(teachers, (teachers + decode) / cores, decode / 2))


def test_parameters_are_the_tensors_of_the_weights_in_float32(found, two):
    for name, speed in found.teachers.items():
        file = {"medclip": "pytorch_model.bin", "quiltnet": "open_clip_pytorch_model.bin"}[name]
        state = torch.load(f"{two[name].folder}/{file}")
        floats = sum(value.numel() for value in state.values() if value.is_floating_point())
        # Buffers of whole numbers, such as Swin's indices, come on top.
        assert 4 * floats <= speed.parameter_bytes < 4 * floats + 100_000
    assert found.parameter_bytes == sum(speed.parameter_bytes for speed in found.teachers.values())


def test_a_teacher_whose_weights_are_not_here_is_left_out_by_name(found):
    assert set(found.teachers) == {"quiltnet", "medclip"}
    assert "open_clip_model.safetensors missing" in found.not_profiled["absent"]


def test_a_profile_of_none_is_an_error_that_says_what_to_do(two):
    with pytest.raises(WeightsNotFoundError, match=r"no teacher could be profiled: absent: .*missing") as caught:
        profile({"absent": two["absent"]}, settings())
    assert "--random-weights" in caught.value.hint


def test_the_peak_is_counted_from_the_moment_that_was_asked_for():
    before = held_bytes("cpu")
    block = np.ones(16_000_000)  # 128 MB
    assert held_bytes("cpu") - before > 100e6
    del block
    begin_peak("cpu")
    assert peak_bytes("cpu") - before < 60e6
    block = np.ones(16_000_000)
    del block
    assert peak_bytes("cpu") - before > 100e6


@pytest.mark.parametrize("name", ["bmca", "biomedclip", "unimedclip", "quiltnet", "plip", "pmcclip", "medclip"])
def test_a_stand_in_has_the_size_of_the_teacher_and_makes_features(tmp_path, name):
    entry = cases.written(name, tmp_path / "own").entry
    real = load_teacher(teacher_spec(name, entry), entry)
    for file in (tmp_path / "own").rglob("*"):
        # What says the sizes stays, weights and tokenizers go.
        if file.is_file() and file.name not in ("config.json", CONFIG_NAME):
            file.unlink()
    made = stand_in(name, entry, tmp_path / "made", device="cpu")
    assert (made.nbytes, made.geometry, made.embed_dim) == (real.nbytes, real.geometry, real.embed_dim)
    side = made.geometry.size_px
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    for feature_BD in (made.encode_image(pixels_BHWC), made.encode_text(captions(6))):
        np.testing.assert_allclose(np.linalg.norm(feature_BD, axis=1), 1, atol=1e-5)


def test_a_stand_in_is_the_same_every_time_and_leaves_the_teachers_folder_alone(tmp_path):
    entry = cases.written("medclip", tmp_path / "own").entry
    (tmp_path / "own/pytorch_model.bin").unlink()
    before = sorted((tmp_path / "own").rglob("*"))
    made = [stand_in("medclip", entry, tmp_path / which, device="cpu") for which in ("a", "b")]
    np.testing.assert_array_equal(made[0].encode_text(captions(2)), made[1].encode_text(captions(2)))
    speeds = profile({"medclip": entry}, settings(random_weights=True))
    assert speeds.teachers["medclip"].weights == "random"
    assert sorted((tmp_path / "own").rglob("*")) == before


def test_an_architecture_that_is_known_nowhere_is_asked_for(tmp_path, two):
    with pytest.raises(WeightsNotFoundError, match=f"{CONFIG_NAME} missing, so its architecture is not known"):
        stand_in("absent", two["absent"], tmp_path, device="cpu")


def test_the_architecture_of_every_shipped_address_is_known():
    teachers = read_pipeline(PIPELINES_FILE, "modern", ExtractPipeline).teachers
    entries = [entry for own in teachers.values() for entry in (own, *own.readings().values())]
    for family, known in (("open_clip", KNOWN_MODELS), ("transformers", KNOWN_TRANSFORMERS), ("timm", KNOWN_TIMM)):
        assert {item.repo for entry in entries if entry.family == family for item in entry.download} == set(known)


@pytest.mark.parametrize("repo", KNOWN_TRANSFORMERS)
def test_a_known_configuration_is_one_that_an_entry_reads(tmp_path, repo):
    config = KNOWN_TRANSFORMERS[repo]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor_of(repo)))
    (tmp_path / "vocab.txt").write_text("x")
    described = of_transformers("one", TeacherEntry(folder=str(tmp_path), transformers=str(tmp_path)))
    shipped = read_pipeline(PIPELINES_FILE, "modern", ExtractPipeline).teachers.values()
    assert described.embed_dim == next(entry.embed_dim for entry in shipped if entry.download[0].repo == repo)


def test_captions_of_a_profile_differ_from_each_other_and_are_the_same_every_time():
    made = captions(60)
    assert len(set(made)) == 60
    assert made == captions(60)
    assert {len(one.split()) for one in made} == {6, 12, 20, 35, 60, 110}


def test_the_command_prints_a_table_and_as_json_what_an_estimate_reads(tmp_path, two):
    entries = {name: entry.model_dump(mode="json", exclude_defaults=True) for name, entry in two.items()}
    pipeline = {"corpora": {"x": {"files": ["x.tar"]}}, "teachers": entries, "store": {"path": "s", "corpus": "x"}}
    config = tmp_path / "pipelines.yaml"
    config.write_text(json.dumps({"tiny": pipeline}))
    options = ["teachers", "--profile", "--pipeline", "tiny", "--config", str(config)]
    options += ["--seconds", "0", "--rows", "5000"]
    done = CliRunner().invoke(app, [*options, "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["rows"] == 5000
    assert all(speed["images_per_s"] > 0 < speed["captions_per_s"] for speed in shown["teachers"].values())
    table = CliRunner().invoke(app, [*options, "--teacher", "medclip"]).stdout
    assert "5,000 rows by all of them, each image decoded once" in table
    assert "medclip" in table
    assert "quiltnet" not in table


@pytest.mark.parametrize("kind", ["transformers SigLIP2", "open_clip SigLIP", "timm ViT", "transformers DINOv2"])
def test_a_model_by_address_is_profiled_with_random_weights_from_its_configuration(tmp_path, kind):
    own = tmp_path / "own"
    own.mkdir()
    entry = library_cases.CASES[kind](own).entry
    for file in own.iterdir():
        if file.suffix == ".safetensors" or file.name.startswith("tokenizer"):
            file.unlink()
    found = profile({"one": entry}, settings(random_weights=True)).teachers["one"]
    assert found.weights == "random"
    assert found.images_per_s > 0
    assert (found.captions_per_s is not None) == ("SigLIP" in kind)
