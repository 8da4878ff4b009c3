"""Real radiographs and scans of every size, from corpora as others wrote them."""

from __future__ import annotations

import numpy as np
import pytest

from store.inspect import describe_row
from store.reader import FeatureStore
from store.records import Status

PATTERNS = {"vqa_rad": "*.tar", "medical_mnist_64": "*-000000.tar"}


def test_every_real_pair_gets_unit_norm_features(tmp_path, shared_data, teachers, write_pipeline, extract_here):
    files = [shared_data(name) / pattern for name, pattern in PATTERNS.items()]
    path, outcome = extract_here(
        write_pipeline(tmp_path, files=files, teachers=teachers, range_rows=256, chunk_rows=64, batch_size=64)
    )
    assert not outcome.bad_rows
    store = FeatureStore(path)
    assert store.info.rows > 1000
    for name in teachers:
        assert (store.status(name) == Status.OK).all()
        for side in ("image", "text"):
            features_ND = store.read(slice(None), teacher=name, side=side).astype(np.float32)
            np.testing.assert_allclose(np.linalg.norm(features_ND, axis=1), 1, atol=2e-3)
    row = describe_row(store, store.info.rows - 1)
    assert row["caption"]
    assert set(row["teachers"]) == set(teachers)
    for described in row["teachers"].values():
        assert (described["status"], described["reason"]) == ("ok", None)
        assert described["image_norm"] == pytest.approx(1, abs=2e-3)
