"""Extraction on Ray: who does which range is left to chance, and changes no byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import ray

from extract.cluster.connect import connected
from extract.config import ExtractSection
from extract.run.run import run
from extract.run.run_spec import build_worker
from store.errors import ConfigError
from tests.extract.tasks import done

pytestmark = [pytest.mark.ray, pytest.mark.end_to_end]


def test_two_ray_workers_store_the_bytes_of_a_local_run(
    tmp_path, long_pipeline, prepare, cli, stored_digests, undisturbed
):
    config = long_pipeline(tmp_path, workers=2)
    prepare(config)
    code, stdout, stderr = cli("run", "--pipeline", "tiny", "--config", config, "--json")
    assert code == 0, stderr
    outcome = json.loads(stdout)
    assert (outcome["units"], outcome["found"], outcome["done"], outcome["failed"]) == (50, 0, 50, {})
    assert stored_digests(tmp_path / "store") == undisturbed
    [progress] = (tmp_path / "store" / "runs").glob("*/progress.json")
    said = json.loads(progress.read_text())
    assert (said["state"], said["units"], said["done"], said["bad_rows"]) == ("finished", 50, 50, {})
    assert set(said["rows_per_s"]) == {"small", "wide"}
    assert min(said["rows_per_s"].values()) > 0
    assert said["stage_seconds"]["forward_image"] > 0


@pytest.mark.parametrize("order", ["shuffled", "teachers apart"])
def test_the_order_of_ranges_and_teachers_changes_no_byte(
    tmp_path, long_pipeline, prepare, stored_digests, undisturbed, order
):
    def execute(job, work, tracker):
        worker = build_worker(job)
        items = [(item.range_id, item.teachers) for item in work]
        if order == "teachers apart":
            items = [(range_id, [name]) for name in ("wide", "small") for range_id, _ in items]
        if order == "shuffled":
            items = [items[place] for place in np.random.default_rng(5).permutation(len(items))]
        for range_id, names in reversed(items):
            tracker.note(done(worker, range_id, names))

    assert run(prepare(long_pipeline(tmp_path)), execute=execute).done == 50
    assert stored_digests(tmp_path / "store") == undisturbed


def test_a_runs_own_ray_leaves_no_token_in_the_account(tmp_path, repository):
    program = (
        "from extract.cluster.connect import connected\nfrom extract.config import ExtractSection\n"
        "with connected(ExtractSection(workers=1)):\n    pass\n"
    )
    unset = {"RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "RAY_ADDRESS"}
    environment = {key: value for key, value in os.environ.items() if key not in unset} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=repository, env=environment, check=True, timeout=200)
    assert not (tmp_path / ".ray" / "auth_token").exists()


def test_a_cluster_that_cannot_be_used_leaves_the_handler_of_sigterm(monkeypatch):
    def init(**_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RuntimeError("no node starts")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ConfigError, match="no node starts"), connected(ExtractSection(workers=1)):
        pass
    after = signal.signal(signal.SIGTERM, before)
    assert after is before


def test_sigterm_is_handled_while_ray_shuts_down_and_afterwards(repository):
    program = """
import os, signal, time
import ray
from extract.cluster.connect import connected
from extract.config import ExtractSection

def terminate():
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)

def run():
    with connected(ExtractSection(workers=1)):
        pass

def shutdown(really=ray.shutdown):
    really()
    terminate()
    print("shut down")

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
ray.shutdown = shutdown
for act in (run, terminate):
    try:
        act()
    except KeyboardInterrupt:
        print("interrupted")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False, timeout=200
    )
    assert run.stdout.splitlines() == ["shut down", "interrupted", "interrupted"], run
    assert run.returncode == 0
