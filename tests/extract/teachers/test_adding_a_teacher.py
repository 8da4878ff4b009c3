"""CONTRIBUTING.md, "A teacher of a known family": entries in the pipeline and no code."""

from __future__ import annotations

import json

import numpy as np

from store import FeatureStore


def test_a_new_teacher_is_an_entry_and_extracts_beside_those_that_are_done(
    tmp_path, teachers, corpus, write_pipeline, extract_here, cli
):
    config = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers={"small": teachers["small"]})
    path, _ = extract_here(config)
    before = FeatureStore(path).read(slice(None), teacher="small", side="image")

    pipelines = json.loads(config.read_text())
    entry = {"family": "open_clip", "folder": str(teachers["wide"]), "embed_dim": 48, "licence": "ours"}
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
