"""Other programs read the folders of a store and of an export as they are: the same rows, the same values."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import tensorstore
import xarray
import zarr

from store.check.verify import verify
from store.export.formats import export
from store.index.append import append_corpus
from store.read.reader import FeatureStore
from tests.store.conftest import members_of

ROOT = Path(__file__).parents[3]

TOOLS = {
    "pandas": pd.read_parquet,
    "pyarrow.dataset": lambda folder: ds.dataset(folder).to_table().to_pandas(),
    "pyarrow.parquet": lambda folder: pq.read_table(folder).to_pandas(),
    "polars": lambda folder: pl.read_parquet(folder).to_pandas(),
    "polars, lazily": lambda folder: pl.scan_parquet(folder).collect(engine="streaming").to_pandas(),
    "duckdb": lambda folder: duckdb.sql(f"FROM read_parquet('{folder}/*')").df(),
}


@pytest.fixture
def grown(units, corpus, write_tar):
    """Thirteen rows in two parts, the second of which begins inside a range; features of all but the last."""
    write_tar("corpus/002.tar", [member for number in (10, 11, 12) for member in members_of(number)])
    units.info, _ = append_corpus(units.path, corpus)
    units.pairs = FeatureStore(units.path).pairs
    units.register()
    for range_id in range(3):
        units.commit(range_id)
    return units


@pytest.mark.parametrize("tool", TOOLS)
def test_the_folder_of_pairs_is_the_pair_table(grown, tool):
    found = TOOLS[tool](str(grown.path / "pairs")).sort_values("row")
    expected = grown.pairs.read(0, 13)
    assert found["row"].tolist() == list(range(13))
    for column in ("key", "caption", "image_sha256", "width"):
        assert found[column].tolist() == expected[column].to_pylist()


@pytest.mark.parametrize("tool", TOOLS)
def test_an_exported_table_is_pairs_and_features(grown, tmp_path, tool):
    store = FeatureStore(grown.path)
    export(store, out=tmp_path / "out", file_format="parquet")
    found = TOOLS[tool](str(tmp_path / "out/rows")).sort_values("row")
    assert found["key"].tolist() == store.pairs.read(0, 13, ["key"])["key"].to_pylist()
    assert found["alpha_status"].tolist() == store.status("alpha").tolist()
    for side in ("image", "text"):
        features = np.stack([np.asarray(value, np.float16) for value in found[f"alpha_{side}"]])
        np.testing.assert_array_equal(features, store.read(slice(None), teacher="alpha", side=side))


def test_the_documented_call_reads_an_export(grown, tmp_path, monkeypatch):
    export(FeatureStore(grown.path), out=tmp_path / "features", file_format="parquet")
    (call,) = re.findall(
        r"^table = pyarrow\.parquet\.(read_table\(.*?\))  #", (ROOT / "docs/store.md").read_text(), re.M
    )
    monkeypatch.chdir(tmp_path)
    table = eval(f"pq.{call}")  # noqa: S307
    assert table["row"].to_pylist() == list(range(13))


def arrays(path):
    """Read alpha's arrays by name with each program."""
    names = ("image", "text", "similarity", "status")
    group = zarr.open_group(path / "features.zarr", mode="r")
    tree = xarray.open_datatree(path / "features.zarr", engine="zarr", consolidated=False)
    yield {name: np.asarray(group["alpha"][name]) for name in names}
    yield {name: tree["alpha"][name].values for name in names}
    for name in ("image", "text"):
        assert tree["alpha"][name].dims == ("row", "feature")
    assert tree["alpha"]["similarity"].dims == tree["alpha"]["status"].dims == ("row",)
    opened = {}
    for name in names:
        where = {"driver": "file", "path": str(path / "features.zarr/alpha" / name)}
        opened[name] = tensorstore.open({"driver": "zarr3", "kvstore": where}).result().read().result()
    yield opened


def test_arrays_are_the_same_to_every_program(grown):
    assert verify(grown.location).valid
    store = FeatureStore(grown.path)
    for found in arrays(grown.path):
        assert found["status"].tolist() == store.status("alpha").tolist()
        np.testing.assert_array_equal(found["similarity"], store.similarity("alpha"))
        for side in ("image", "text"):
            np.testing.assert_array_equal(found[side], store.read(slice(None), teacher="alpha", side=side))
