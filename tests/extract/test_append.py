"""A corpus that grows: new rows are appended, and only the range that was cut short is made again."""

from __future__ import annotations

import numpy as np
import pytest

from extract.phantom import write_corpus
from store.reader import FeatureStore
from store.records import receipt_key

pytestmark = pytest.mark.end_to_end


def test_after_an_append_only_the_partial_range_and_the_new_ones_are_extracted(
    tmp_path, teachers, write_pipeline, extract_here, cli
):
    folder = tmp_path / "corpus"
    write_corpus(folder / "a", rows=40, seed=1, key_prefix="a")
    config = write_pipeline(tmp_path, files=[folder / "*/*.tar"], teachers={"small": teachers["small"]})
    path, _ = extract_here(config)
    before = FeatureStore(path)
    features = before.read(slice(None), teacher="small", side="image")
    kept = {unit: (path / receipt_key("small", unit)).read_bytes() for unit in range(3)}

    write_corpus(folder / "b", rows=30, seed=2, key_prefix="b")
    code, _, stderr = cli("append", "--pipeline", "tiny", "--config", config)
    assert code == 0, stderr
    grown = FeatureStore(path)
    assert (grown.info.rows, grown.is_complete("small")) == (70, False)
    assert np.array_equal(grown.read(slice(0, 40), teacher="small", side="image"), features)

    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", config)
    assert code == 0, stderr
    assert "3 units committed, 2 were there before" in stderr
    after = {unit: (path / receipt_key("small", unit)).read_bytes() for unit in range(3)}
    assert {unit for unit in kept if kept[unit] != after[unit]} == {2}
    whole = FeatureStore(path)
    assert whole.is_complete("small")
    assert np.array_equal(whole.read(slice(0, 32), teacher="small", side="image"), features[:32])
    # The last eight were in a batch of their own before, which may change a float16's last bit.
    both = whole.read(slice(32, 40), teacher="small", side="image").astype(np.float32), features[32:].astype(np.float32)
    np.testing.assert_allclose((both[0] * both[1]).sum(axis=1), 1, atol=1e-3)
    code, _, stderr = cli("run", "--local", "--pipeline", "tiny", "--config", config)
    assert "nothing to do" in stderr
