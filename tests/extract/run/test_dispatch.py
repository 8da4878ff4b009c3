"""A range whose failure comes after its last commit."""

from __future__ import annotations

from concurrent.futures import Future

from extract.run import run_spec
from extract.run.dispatch import Dispatch
from extract.run.run import run
from extract.run.run_spec import build_worker
from extract.run.schedule import Failure
from store.read.reader import FeatureStore


class Late:
    """A worker that fails after it has committed everything."""

    def __init__(self, worker):
        self._worker = worker

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._worker.__exit__(*error)

    def submit(self, task):
        late, done = Future(), self._worker.submit(task)
        done.add_done_callback(lambda _: late.set_exception(RuntimeError("too late")))
        return late


def test_a_range_that_no_row_alone_kills_is_reported_though_the_last_try_survived(
    tmp_path, corpus, teachers, write_pipeline, prepare
):
    pipeline = prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, attempts=1))

    def execute(spec, work, tracker):
        found = Dispatch(spec, work[:1], tracker)
        found.schedule.take("w", now=0)
        found.lost("w", Failure.CRASH, "its process died", now=0)
        while (task := found.schedule.take("w", now=0)) is not None:
            assert task.probe is not None
            found.done(task, [], now=0)

    outcome = run(pipeline, execute=execute)
    assert outcome.failed == {0: "workers died of it 1 times, and of none of its rows alone"}


def test_a_range_that_fails_after_its_last_commit_is_done(
    tmp_path, corpus, teachers, write_pipeline, extract_here, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr(run_spec, "build_worker", lambda spec: Late(build_worker(spec)))
    store, outcome = extract_here(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers))
    assert (outcome.done, outcome.failed) == (8, {})
    assert caplog.text.count("all of it was committed, then: RuntimeError: too late") == 4
    assert all(receipt.attempt == 1 for receipt in FeatureStore(store).receipts("small").values())
