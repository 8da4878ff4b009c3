"""The rehearsal, small: every phase runs, and what it says is compared with the store that it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from .rehearsal_phases import WIDTHS
from .rehearse import require_space, row_bytes

ROOT = Path(__file__).parents[3]
ROWS = 16_900


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """Return the store that a rehearsal of three ranges leaves, its figures, and what it prints."""
    out = tmp_path_factory.mktemp("rehearsal") / "store"
    command = [sys.executable, "-m", "tests.benchmarks.store.rehearse", "--rows", str(ROWS), "--out", str(out)]
    done = subprocess.run(
        [*command, "--features", "int8", "--keep"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(out.with_name("store.json").read_text())["phases"], done.stdout


@pytest.mark.slow
def test_every_phase_says_what_it_cost(rehearsed):
    _, phases, printed = rehearsed
    assert len(phases) == 16
    for name, found in phases.items():
        assert f"\n| {name} |" in printed
        assert found["seconds"] > 0
        assert found["cpu_seconds"] > 0
        assert 0 < found["own_gib"] <= found["peak_gib"]
    assert phases["disk"]["write_MB_per_s"] > 0
    assert phases["disk"]["read_MB_per_s"] > 0
    assert {name for name, found in phases.items() if "of_disk" in found} == {
        "build",
        "verify --deep",
        "epoch, cold",
        "verify it",
        "repair it",
    }


@pytest.mark.slow
def test_the_store_is_counted_as_it_is(rehearsed):
    store, phases, _ = rehearsed
    group = zarr.open_group(store / "features.zarr", mode="r")
    ok = {name: int((group[name]["status"][:ROWS] == 1).sum()) for name in WIDTHS}
    removed = _status_of_removed(store)
    ok["medclip"] += int((removed == 1).sum())
    assert {group[name]["image"].dtype for name in WIDTHS} == {np.dtype(np.int8)}
    assert phases["store coverage"]["feature_pairs"] == phases["store info"]["feature_pairs"] == sum(ok.values())
    assert phases["build"]["receipts"] == phases["plan"]["committed"] == phases["verify --deep"]["units_verified"] == 27
    assert phases["build"]["bytes"] == pytest.approx(ROWS * row_bytes("int8"), rel=0.1)
    assert phases["store report"]["page_bytes"] < 10e6


def _status_of_removed(store):
    """Return the status of the range that was taken away, whose shard is plain bytes followed by its index."""
    (shard,) = store.glob("lost+found/*/features.zarr/medclip/status/c/1")
    return np.fromfile(shard, np.uint8, count=8192)


@pytest.mark.slow
def test_an_epoch_has_every_row_once_and_the_features_of_its_teachers(rehearsed):
    _, phases, _ = rehearsed
    full, rows = phases["store coverage"]["feature_pairs"], phases["epoch, cold"]["rows"]
    assert rows == ROWS // 1024 * 1024
    assert phases["epoch, cold"]["feature_pairs"] == pytest.approx(full * rows / ROWS, rel=0.01)
    assert phases["epoch again"]["feature_pairs"] == phases["epoch, cold"]["feature_pairs"]
    assert phases["epoch, cold"]["bytes"] > phases["epoch, cold"]["feature_pairs"] * 2 * 512
    if phases["disk"]["read_gb"]:  # a file system in memory has no disk to read from
        nbytes = phases["build"]["bytes"]
        assert phases["epoch, cold"]["read_gb"] * 1e9 > 0.9 * nbytes
        assert phases["epoch again"]["read_gb"] * 1e9 < 0.1 * nbytes


@pytest.mark.slow
def test_the_damaged_shard_is_found_and_its_unit_alone_is_removed(rehearsed):
    store, phases, _ = rehearsed
    shards = {f"features.zarr/medclip/{name}/c/1" for name in ("similarity", "status")}
    shards |= {f"features.zarr/medclip/{side}/c/1/0" for side in ("image", "text")}
    assert phases["flip a byte"]["damaged"] in shards
    assert phases["verify it"]["found"] == [phases["flip a byte"]["damaged"]]
    assert phases["repair it"]["receipts_removed"] == ["receipts/medclip/r000001.json"]
    assert {*phases["repair it"]["objects_removed"]} == shards
    (lost,) = (store / "lost+found").iterdir()
    taken = {str(file.relative_to(lost)) for file in lost.rglob("*") if file.is_file()}
    assert taken == {*shards, "receipts/medclip/r000001.json"}
    left = {file.relative_to(store / "receipts") for file in (store / "receipts").rglob("*.json")}
    assert left == {Path(name, f"r{n:06d}.json") for name in WIDTHS for n in range(3)} - {Path("medclip/r000001.json")}


@pytest.mark.slow
def test_one_pair_is_appended_and_the_next_plan_has_it(rehearsed):
    store, phases, _ = rehearsed
    keys = [key for part in sorted((store / "pairs").iterdir()) for key in pq.read_table(part)["key"].to_pylist()]
    assert keys == [*(f"pair{row:08d}" for row in range(ROWS)), "appended"]
    assert phases["plan"]["to_do"] == []
    to_do = {tuple(unit) for unit in phases["plan again"]["to_do"]}
    assert to_do == {(1, "medclip"), *((2, name) for name in WIDTHS)}


def test_a_disk_that_is_too_small_is_refused_with_what_fits(tmp_path):
    with pytest.raises(SystemExit, match=r"GB are free.*ROWS=\d+ would fit, ROWS=\d+ FEATURES=int8 too"):
        require_space(tmp_path / "store", 10**12, "float16")
    require_space(tmp_path / "store", 1, "float16")
    assert row_bytes("int8") < 0.52 * row_bytes("float16")
