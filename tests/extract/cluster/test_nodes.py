"""A cluster of several nodes that come and go while a run works on it; each is a raylet of its own on this machine."""

from __future__ import annotations

import contextlib
import os
import re

import psutil
import pytest

import extract.cluster  # noqa: F401 - says what Ray is to do before it is imported
from tests.extract.cluster_cases import Run, actors_below, progress, receipts

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.end_to_end, pytest.mark.timeout(900)]

UNITS = 50
CPUS = 3
"""A worker asks for these: one thread of torch and two that decode."""

SMALL = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


def start_cluster(cpus):
    """Start the head of a cluster; Ray gives up after 30 s, which is short on a machine that does much else."""
    from ray.cluster_utils import Cluster

    for last in (False, False, True):
        try:
            return Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, **SMALL}, shutdown_at_exit=False)
        except Exception as error:
            if last or "timed out during startup" not in str(error):
                raise
    raise AssertionError


@pytest.fixture
def cluster():
    """A cluster whose head has no room for workers."""
    cluster = start_cluster(0)
    yield cluster
    with contextlib.suppress(Exception):  # its head may be dead already
        cluster.shutdown()


@pytest.fixture
def config(tmp_path, long_pipeline, prepare):
    """A pipeline for as many workers as there is room for, whose store is indexed and empty."""
    path = long_pipeline(tmp_path, workers=0, progress_interval_s=0.2, attempts=1)
    prepare(path)
    return path


def add(cluster, cpus=CPUS):
    return cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)


def workers_said(store):
    said = progress(store)
    return said["actors"]["ready"] if said else 0


def test_nodes_that_come_are_used_and_one_that_dies_costs_no_attempt(
    cluster, config, extract_here, stored_digests, undisturbed
):
    store = config.parent / "store"
    first = add(cluster)
    with Run(config, RAY_ADDRESS=cluster.address) as run:
        run.until_receipts(2)
        assert workers_said(store) == 1
        # So that the first one does not do all there is while the second starts.
        [worker] = actors_below(os.getpid())
        worker.suspend()
        add(cluster)
        run.until(lambda: workers_said(store) == 2)
        before = len(receipts(store))
        run.until_receipts(before + 2)  # the second has done something
        assert len(receipts(store)) < UNITS
        cluster.remove_node(first, allow_graceful=False)
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
        code, said = run.end()
    assert code == 0, said
    assert "attempt 1: its worker's node is gone" in said
    assert progress(store)["failed_ranges"] == {}  # although one attempt was all there was
    # The worker may have been killed while it wrote: the next run removes its temporary file.
    assert extract_here(config)[1].done == 0
    assert stored_digests(store) == undisturbed


def waiting_said(store):
    said = progress(store)
    return said["actors"]["waiting"] if said else 0


def test_a_worker_waits_for_a_node_that_may_come_and_idle_ones_go_while_the_last_range_is_done(cluster, config):
    store = config.parent / "store"
    add(cluster)
    with Run(config, "--set", "extract.attempts=3", RAY_ADDRESS=cluster.address) as run:
        run.until_receipts(2)
        # A cluster that grows by itself does so for the one that has no place; this one grows now.
        run.until(lambda: waiting_said(store) == 1)
        [first] = actors_below(os.getpid())
        first.suspend()  # and with it the ranges that it has
        add(cluster)
        run.until(lambda: workers_said(store) == 2 and waiting_said(store) == 2)
        [second] = [worker for worker in actors_below(os.getpid()) if worker != first]
        run.until(lambda: waiting_said(store) == 0)
        run.until(lambda: not second.is_running() or second.status() == psutil.STATUS_ZOMBIE)
        assert first.is_running()
        assert len(receipts(store)) < UNITS
        first.resume()
        code, said = run.end()
    assert code == 0, said
    assert progress(store)["failed_ranges"] == {}


def test_a_cluster_whose_head_dies_takes_the_run_along_and_another_cluster_goes_on(
    cluster, config, extract_here, stored_digests, undisturbed
):
    store = config.parent / "store"
    add(cluster)
    with Run(config, RAY_ADDRESS=cluster.address, RAY_gcs_rpc_server_reconnect_timeout_s="5") as run:
        run.until_receipts(4)
        [worker] = actors_below(os.getpid())
        worker.suspend()  # else it may do all the rest until it notices
        cluster.remove_node(cluster.head_node, allow_graceful=False)
        code, _ = run.end()
    assert code != 0
    kept = receipts(store)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.kill()
    assert 4 <= len(kept) < UNITS
    with contextlib.suppress(Exception):
        cluster.shutdown()
    another = start_cluster(2 * CPUS)
    try:
        with Run(config, RAY_ADDRESS=another.address) as run:
            code, said = run.end()
    finally:
        another.shutdown()
    assert code == 0, said
    # A worker may commit what it was at after its head has died.
    done, found = map(int, re.search(r"(\d+) units committed, (\d+) were there before", said).groups())
    assert (done + found, found >= len(kept)) == (UNITS, True)
    assert kept.items() <= receipts(store).items()
    assert extract_here(config)[1].done == 0
    assert stored_digests(store) == undisturbed


def test_an_address_at_which_no_cluster_answers_is_named(config):
    with Run(config, RAY_ADDRESS="127.0.0.1:1") as run:
        code, said = run.end()
    assert code == 1
    assert "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there (Connection refused)" in said
    assert "unset RAY_ADDRESS" in said
    assert "Traceback" not in said


def test_an_address_of_ray_client_is_refused(config):
    with Run(config, RAY_ADDRESS="ray://127.0.0.1:10001") as run:
        code, said = run.end()
    assert code == 1
    assert "Ray Client addresses are not supported" in said
    assert "HOST:6379" in said
