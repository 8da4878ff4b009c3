"""The files that a model folder needs to be loaded, and the bytes that make another spec."""

from __future__ import annotations

import json
import shutil

import pytest

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.model_folder import CONFIG_NAME, WEIGHTS_NAME
from extract.teacher_files.specs import teacher_spec
from store.errors import TeacherError, WeightsNotFoundError


@pytest.fixture
def folder(tmp_path, teachers):
    """A copy of the small teacher that a test may damage."""
    return shutil.copytree(teachers["small"], tmp_path / "model")


def spec_of(folder, *, embed_dim=32, **entry):
    return teacher_spec("small", TeacherEntry(folder=str(folder), embed_dim=embed_dim, **entry))


def edit_config(folder, change):
    path = folder / CONFIG_NAME
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("name", [WEIGHTS_NAME, CONFIG_NAME])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsNotFoundError, match=f"{name} missing"):
        spec_of(folder)


@pytest.mark.end_to_end
def test_a_run_without_weights_ends_with_a_message_and_leaves_the_store_alone(
    tmp_path, folder, corpus, write_pipeline, prepare, cli
):
    config = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers={"small": folder})
    prepare(config)
    store = tmp_path / "store"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    (folder / WEIGHTS_NAME).unlink()
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", config)
    assert code == 1
    assert f"error: {folder}: not a model folder: {WEIGHTS_NAME} missing" in stderr
    assert "hint: " in stderr
    assert "Traceback" not in stderr
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_another_width_than_the_pipeline_says_is_refused(folder):
    with pytest.raises(TeacherError, match="has embed_dim 32, the pipeline says 33"):
        spec_of(folder, embed_dim=33)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_weights_cut_short_are_refused(folder, share):
    path = folder / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(TeacherError, match=WEIGHTS_NAME):
        spec_of(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_cfg": {"embed_dim": 32}}'])
def test_a_configuration_that_is_not_open_clips_is_refused(folder, content):
    (folder / CONFIG_NAME).write_text(content)
    with pytest.raises(TeacherError, match="not an open_clip configuration"):
        spec_of(folder)


def test_weights_that_do_not_fit_the_configuration_are_refused_before_anything_is_committed(
    tmp_path, folder, corpus, write_pipeline, extract_here
):
    edit_config(folder, lambda config: config["model_cfg"]["vision_cfg"].update(width=16))
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers={"small": folder})
    with pytest.raises(TeacherError, match="cannot be loaded"):
        extract_here(path)
    assert not list((tmp_path / "store").glob("receipts/*/*.json"))


def _one_weight_byte(folder):
    path = folder / WEIGHTS_NAME
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _mean(folder):
    edit_config(folder, lambda config: config["preprocess_cfg"].update(mean=[0.5, 0.5, 0.5]))


def _resize(folder):
    edit_config(folder, lambda config: config["preprocess_cfg"].update(resize_mode="squash"))


def _tokenizer(folder):
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_one_weight_byte, "weights_sha256"),
        (_mean, "preprocessing.mean"),
        (_resize, "preprocessing.geometry.resize_mode"),
        (_tokenizer, "tokenizer.files_sha256"),
    ],
)
def test_what_decides_features_decides_the_spec(folder, change, field):
    before = spec_of(folder)
    change(folder)
    after = spec_of(folder)
    assert after.hash != before.hash
    assert [line.partition(":")[0] for line in after.difference(before)] == [field]


def test_where_the_folder_lies_and_what_is_noted_of_it_do_not(tmp_path, folder):
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    (elsewhere / "README.md").write_text("a model card")
    before, after = spec_of(folder), spec_of(elsewhere, licence="MIT", source="a paper")
    assert after.hash == before.hash
    assert after.notes["licence"] == "MIT"


def test_preprocessing_that_is_not_stated_is_open_clips_default(folder):
    edit_config(folder, lambda config: config.pop("preprocess_cfg"))
    unstated = spec_of(folder)
    edit_config(
        folder, lambda config: config.update(preprocess_cfg={"interpolation": "bicubic", "resize_mode": "shortest"})
    )
    assert spec_of(folder).hash == unstated.hash


@pytest.mark.parametrize("change", [{"interpolation": "random"}, {"mean": 0.5}])
def test_a_preprocessing_that_is_not_supported_is_refused(folder, change):
    edit_config(folder, lambda config: config.setdefault("preprocess_cfg", {}).update(change))
    with pytest.raises(TeacherError, match="a preprocessing that is not supported"):
        spec_of(folder)
