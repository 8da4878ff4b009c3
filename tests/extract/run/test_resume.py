"""A run that is killed or interrupted goes on where it was, and ends with the bytes of an undisturbed one."""

from __future__ import annotations

import signal
import time

import pytest

from store.read.reader import FeatureStore

pytestmark = pytest.mark.end_to_end

UNITS = 50


def _receipts(store):
    return {path: path.read_bytes() for path in store.glob("receipts/*/r*.json")}


def _signal_after_first_receipt(process, store, number):
    """Wait for the first committed unit, send a signal, and return (exit code, stderr)."""
    with process:
        try:
            while process.poll() is None and not _receipts(store):
                time.sleep(0.002)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, stderr


def test_a_killed_run_is_completed_by_running_it_again(
    tmp_path, long_pipeline, prepare, start, cli, stored_digests, undisturbed
):
    config = long_pipeline(tmp_path)
    store = tmp_path / "store"
    prepare(config)
    arguments = ("run", "--local", "--pipeline", "tiny", "--config", config)
    code, _ = _signal_after_first_receipt(start(*arguments), store, signal.SIGKILL)
    assert code == -signal.SIGKILL
    kept = _receipts(store)
    assert 0 < len(kept) < UNITS

    code, _, stderr = cli(*arguments)
    assert code == 0, stderr
    assert f"{UNITS - len(kept)} units committed, {len(kept)} were there before" in stderr
    assert kept.items() <= _receipts(store).items()
    assert stored_digests(store) == undisturbed


def test_an_interrupted_run_says_so_keeps_what_is_done_and_can_go_on(
    tmp_path, long_pipeline, prepare, start, extract_here, stored_digests, undisturbed
):
    config = long_pipeline(tmp_path)
    store = tmp_path / "store"
    prepare(config)
    process = start("run", "--local", "--pipeline", "tiny", "--config", config)
    code, stderr = _signal_after_first_receipt(process, store, signal.SIGINT)
    assert code == 3, stderr
    assert "interrupted: what was committed stays; run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    kept = _receipts(store)
    assert 0 < len(kept) < UNITS

    _, outcome = extract_here(config)
    assert (outcome.found, outcome.done) == (len(kept), UNITS - len(kept))
    assert kept.items() <= _receipts(store).items()
    assert stored_digests(store) == undisturbed
    assert all(FeatureStore(store).is_complete(name) for name in ("small", "wide"))
