"""Extraction on Ray: who does which range is left to chance, and changes no byte."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.end_to_end]


def test_two_ray_workers_store_the_bytes_of_a_local_run(
    tmp_path, long_pipeline, prepare, cli, stored_bytes, undisturbed
):
    config = long_pipeline(tmp_path, workers=2)
    prepare(config)
    code, stdout, stderr = cli("run", "--pipeline", "tiny", "--config", config, "--json")
    assert code == 0, stderr
    outcome = json.loads(stdout)
    assert (outcome["units"], outcome["found"], outcome["done"], outcome["failed"]) == (50, 0, 50, {})
    assert stored_bytes(tmp_path / "store") == undisturbed
