"""CONTRIBUTING.md, "A teacher of a known family": entries in the pipeline and no code."""

from __future__ import annotations

import json

import numpy as np

from store import FeatureStore
from tests.extract import library_cases as cases


def test_a_new_teacher_is_an_entry_and_extracts_beside_those_that_are_done(
    tmp_path, teachers, corpus, write_pipeline, extract_here, cli
):
    config = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers={"small": teachers["small"]})
    path, _ = extract_here(config)
    before = FeatureStore(path).read(slice(None), teacher="small", side="image")

    pipelines = json.loads(config.read_text())
    entry = {"open_clip": str(teachers["wide"]), "licence": "ours"}
    pipelines["tiny"]["teachers"]["wide"] = entry
    pipelines["tiny"]["select"] = {"wide": {"modalities": ["ct"]}}
    config.write_text(json.dumps(pipelines))
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", config)
    assert code == 0, stderr

    store = FeatureStore(path)
    assert store.teachers == ["small", "wide"]
    assert store.is_complete("wide")
    assert np.array_equal(store.read(slice(None), teacher="small", side="image"), before)
    features = store.read(slice(None), teacher="wide", side="text")
    np.testing.assert_allclose(np.linalg.norm(features.astype(np.float32), axis=1), 1, atol=1e-3)
    assert store.spec("wide").notes["licence"] == "ours"


def test_an_encoder_of_images_is_an_entry_that_extracts_beside_teachers_of_pairs(
    tmp_path, teachers, corpus, write_pipeline, extract_here, cli
):
    folder = tmp_path / "weights/encoder"
    folder.mkdir(parents=True)
    config = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers={"small": teachers["small"]})
    case = cases.timm_vit(folder)
    pipelines = json.loads(config.read_text())
    # The folder is the default for this name, and the width that of the model's configuration.
    pipelines["tiny"]["teachers"]["encoder"] = {"timm": "hf-hub:someone/encoder", "config": case.entry.config}
    config.write_text(json.dumps(pipelines))
    path, outcome = extract_here(config)
    assert not outcome.failed

    store = FeatureStore(path)
    assert store.spec("encoder").sides == ("image",)
    assert store.is_complete("encoder")
    assert store.read(slice(None), teacher="encoder", side="image").shape[1] == 48
    code, stdout, stderr = cli("teachers", "--pipeline", "tiny", "--config", config)
    assert code == 0, stderr
    assert "images alone; short side to 32 px, centre crop of 32 px, bilinear, RGB before the resize" in stdout
