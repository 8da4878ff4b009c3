"""The time of an extraction from its receipts: its sums are the time that passed, and the bound is named."""

from __future__ import annotations

import json
import time

import pytest
from typer.main import get_command

from extract.cli.program import app
from extract.monitor.stage_picture import picture
from extract.run.run import run
from extract.run.run_spec import build_worker
from store.errors import IncompleteStoreError
from store.format.records import Receipt
from store.inspect.stage_report import report, summarize
from store.read.reader import FeatureStore
from tests.extract.tasks import done

EVEN = {"read": 1.0, "decode": 2.0, "fit": 1.0, "wait_for_images": 1.0, "forward_image": 0.8, "forward_text": 0.3}
EVEN |= {"other": 0.1, "write": 0.5}


PIPELINE = EVEN | {"wait_for_range": 0.0, "wait_for_tokens": 0.0, "tokenize": 1.0, "collect": 0.2}
"""Stages of a worker whose stages overlap; in those of before, each followed the one before it."""


def receipt(teacher="a", *, range_id=0, run_id="r", attempt=1, queues=None, even=EVEN, **stages):
    return Receipt(
        teacher=teacher,
        range=range_id,
        start=range_id * 100,
        stop=range_id * 100 + 100,
        spec_hash="",
        pairs_digest="",
        objects={},
        status_counts={},
        bad_rows=[],
        timings_s=even | stages,
        queues=queues,
        versions={},
        device="cpu",
        batch_size=1,
        run_id=run_id,
        attempt=attempt,
        finished="",
    )


@pytest.mark.parametrize(
    ("stages", "verdict", "advice"),
    [
        ({"wait_for_images": 30.0, "decode": 50.0}, "decode", "extract.decode_threads"),
        ({"wait_for_images": 30.0, "fit": 50.0}, "decode", "extract.decode_threads"),
        ({"wait_for_images": 30.0, "read": 50.0}, "waiting", "bring the corpus nearer"),
        ({"forward_image": 30.0}, "forward", "more GPUs"),
        ({"forward_text": 30.0}, "forward", "more GPUs"),
        ({"write": 30.0}, "write", "the store's disk or storage is slow"),
    ],
)
def test_the_inflated_stage_is_the_verdict(stages, verdict, advice):
    found = summarize([receipt(range_id=number, **stages) for number in range(3)], {})
    assert found.verdict == verdict
    assert advice in found.advice


@pytest.mark.parametrize(
    ("stages", "verdict", "advice"),
    [
        ({"wait_for_images": 30.0, "decode": 50.0}, "decode", "extract.decode_threads"),
        ({"wait_for_images": 30.0, "tokenize": 50.0}, "tokens", "extract.decode_threads"),
        ({"wait_for_tokens": 30.0, "tokenize": 50.0}, "tokens", "extract.decode_threads"),
        ({"wait_for_images": 30.0, "read": 50.0}, "waiting", "bring the corpus nearer"),
        ({"wait_for_range": 30.0}, "waiting", "bring the corpus nearer"),
        ({"wait_for_range": 30.0, "write": 31.0}, "write", "the store's disk or storage is slow"),
        ({"forward_image": 30.0, "write": 29.0, "decode": 29.0}, "forward", "more GPUs"),
    ],
)
def test_what_keeps_the_device_of_a_pipeline_from_working_is_the_verdict(stages, verdict, advice):
    found = summarize([receipt(range_id=number, even=PIPELINE, **stages) for number in range(3)], {})
    assert found.verdict == verdict
    assert advice in found.advice


def test_what_overlaps_is_counted_beside_the_time_and_what_did_not_in_it():
    before, now = receipt(run_id="old", tokenize=0.7), receipt(run_id="new", even=PIPELINE, range_id=1)
    found = summarize([before, now], {})
    # Of before 1.0 + 1.1 + 0.1, tokens 0.7 and a commit 0.5; of now the first three.
    assert found.total_s == pytest.approx(3.4 + 2.2)
    assert (found.timeline_s["tokenize"], found.timeline_s["write"]) == (0.7, 0.5)
    assert (found.beside_s["tokenize"], found.beside_s["write"]) == (1.0, 0.5)
    assert found.stages_s["write"] == pytest.approx(1.0)


def test_the_picture_has_80_columns_a_bar_for_each_stage_and_the_queues():
    lengths = {"decoded": 1.0, "encoded": 0.5}
    receipts = [receipt(range_id=1, even=PIPELINE, queues=lengths), receipt(range_id=2, even=PIPELINE, queues=lengths)]
    found = summarize([*receipts, receipt(forward_image=1e4)], {"r": 2e5})
    lines = picture(found)
    assert max(map(len, lines)) <= 80
    assert "1.0 batches ready for the device, 0.5 ranges ready to be committed" in lines[-1]
    drawn = [(line[2:20].strip(), line.count("█")) for line in lines if "·" in line or "█" in line]
    bars = dict(drawn)
    assert bars["loading, no range"] == round(30 * (1 - 1e4 / 2e5))
    assert bars["teachers: images"] == round(30 * 1e4 / 2e5)
    assert [name for name, _ in drawn][-6:] == ["read", "decode", "fit", "tokenize", "collect", "commit"]
    assert found.queues == lengths


def test_a_stage_without_a_time_is_not_shown():
    only_written = receipt().model_copy(update={"timings_s": {"write": 2.0}})
    assert summarize([only_written], {}).stages_s == {"write": 2.0}


def test_what_the_teachers_waited_for_is_shared_out_by_what_the_threads_did():
    found = summarize([receipt(wait_for_images=8.0, read=1.0, decode=2.0, fit=1.0)], {})
    assert found.bound_s["decode"] == pytest.approx(6.0)
    assert found.bound_s["waiting"] == pytest.approx(2.0)


def test_a_range_counts_once_and_the_writing_of_each_unit():
    shared = [receipt("a", forward_image=2.0, write=0.25), receipt("b", forward_image=2.0, write=0.5)]
    again = receipt("c", attempt=2, forward_image=1.0, write=0.25)
    found = summarize([*shared, again, receipt("a", range_id=1, forward_image=4.0, write=1.0)], {})
    assert (found.units, found.rows) == (4, 300)
    assert found.stages_s["forward_image"] == pytest.approx(2.0 + 1.0 + 4.0)
    assert found.bound_s["write"] == pytest.approx(2.0)


def test_parts_of_a_range_that_two_workers_did_are_added_up_and_its_rows_count_once():
    parts = [receipt("a", forward_image=2.0), receipt("b", forward_image=3.0), receipt("c", forward_image=3.0)]
    found = summarize(parts, {})
    assert found.rows == 100
    assert found.stages_s["forward_image"] == pytest.approx(5.0)


def test_time_of_the_workers_that_is_in_no_receipt_is_waiting():
    busy = 1.0 + 1.1 + 0.5 + 0.1
    found = summarize([receipt()], {"r": 20.0 * 2})
    assert found.worker_s == 40.0
    assert found.total_s == pytest.approx(40.0)
    assert found.bound_s["waiting"] == pytest.approx(0.25 + 40.0 - busy)
    assert found.verdict == "waiting"
    # Of a run that was killed nobody knows it.
    unknown = summarize([receipt(), receipt(run_id="killed", range_id=1)], {"r": 20.0 * 2})
    assert unknown.worker_s is None
    assert unknown.bound_s["waiting"] == pytest.approx(0.5)


@pytest.mark.usefixtures("ticking")
def test_the_stages_of_a_real_run_add_up_to_the_time_its_worker_took(tmp_path, long_pipeline, prepare, capsys):
    pipeline = prepare(long_pipeline(tmp_path, range_rows=256))
    walls = []

    def execute(job, work, tracker):
        worker = build_worker(job)
        tracker.workers(ready=1, starting=0, busy=1)
        for item in work:
            began = time.perf_counter()
            receipts = done(worker, item.range_id, item.teachers)
            walls.append(time.perf_counter() - began)
            tracker.note(receipts)

    outcome = run(pipeline, execute=execute)
    found = report(FeatureStore(pipeline.store.path))
    summed = sum(
        found.stages_s[stage] for stage in ("wait_for_images", "forward_image", "forward_text", "other", "write")
    )
    assert summed == pytest.approx(sum(walls), rel=0.05)
    assert found.rows == 400
    assert found.worker_s == pytest.approx(outcome.seconds, rel=0.05)
    assert found.total_s == pytest.approx(found.worker_s, rel=0.05)
    get_command(app)(["report", pipeline.store.path], prog_name="extract", standalone_mode=False)
    said = capsys.readouterr().out
    assert "4 units, 400 rows of ranges, 1 runs" in said
    assert f"bound by {found.verdict}" in said
    get_command(app)(["report", pipeline.store.path, "--json"], prog_name="extract", standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["verdict"] == found.verdict
    [run_id] = found.runs
    assert report(FeatureStore(pipeline.store.path), run_id=run_id).units == 4
    with pytest.raises(IncompleteStoreError, match=f"no timed receipts of run other; runs there are: {run_id}"):
        report(FeatureStore(pipeline.store.path), run_id="other")
