"""A range whose failure comes after its last commit."""

from __future__ import annotations

from extract.run import dispatch
from extract.run.run_spec import build_worker
from store.read.reader import FeatureStore


class Late:
    """A worker that fails after it has committed everything."""

    def __init__(self, worker):
        self._worker = worker

    def run(self, *arguments, **options):
        self._worker.run(*arguments, **options)
        raise RuntimeError("too late")


def test_a_range_that_fails_after_its_last_commit_is_done(
    tmp_path, corpus, teachers, write_pipeline, extract_here, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr(dispatch, "build_worker", lambda spec: Late(build_worker(spec)))
    store, outcome = extract_here(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers))
    assert (outcome.done, outcome.failed) == (8, {})
    assert caplog.text.count("all of it was committed, then: RuntimeError: too late") == 4
    assert all(receipt.attempt == 1 for receipt in FeatureStore(store).receipts("small").values())
