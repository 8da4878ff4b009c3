"""Ray's metrics of a run, as Prometheus reads them from the node."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from extract.cluster.execute import RunMetrics
from tests.extract.run.test_tracker import receipt

pytestmark = [pytest.mark.ray, pytest.mark.end_to_end, pytest.mark.slow]


@pytest.fixture
def metrics_url():
    """Return the address at which a local cluster shows its metrics."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    yield f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    ray.shutdown()


def shown(url, name):
    """Return the samples of a metric: value by labels."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the loopback
        lines = answer.read().decode().splitlines()
    samples = [re.fullmatch(rf"ray_{name}(?:_total)?\{{(.*)\}} (\S+)", line) for line in lines]
    return {
        tuple(sorted(re.findall(r'(run|teacher|stage|state)="([^"]*)"', sample[1]))): float(sample[2])
        for sample in samples
        if sample
    }


def test_units_rows_bad_rows_stages_and_workers_are_shown(metrics_url):
    metrics = RunMetrics("r1")
    shared = {"forward_image": 2.0, "wait_for_images": 0.5}
    metrics.note([receipt("a", 0, bad=[1, 2], **shared, write=0.25), receipt("b", 0, **shared, write=0.25)])
    metrics.note([receipt("a", 1, **shared, write=0.5)])
    metrics.workers({"ready": 3, "busy": 2})
    deadline = time.monotonic() + 90
    while not shown(metrics_url, "mmkd_extract_workers") and time.monotonic() < deadline:
        time.sleep(0.5)
    of = {name: (("run", "r1"), ("teacher", name)) for name in "ab"}
    assert shown(metrics_url, "mmkd_extract_units") == {of["a"]: 2.0, of["b"]: 1.0}
    assert shown(metrics_url, "mmkd_extract_rows") == {of["a"]: 200.0, of["b"]: 100.0}
    assert shown(metrics_url, "mmkd_extract_bad_rows") == {of["a"]: 2.0}
    seconds = {
        dict(labels)["stage"]: value for labels, value in shown(metrics_url, "mmkd_extract_stage_seconds").items()
    }
    assert seconds == {"forward_image": 4.0, "wait_for_images": 1.0, "write": 1.0}
    workers = {dict(labels)["state"]: value for labels, value in shown(metrics_url, "mmkd_extract_workers").items()}
    assert workers == {"ready": 3.0, "busy": 2.0}
