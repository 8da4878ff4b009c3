"""``retry``: the next run does the marked units again, exactly those, and until then they can be read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.main import get_command

from extract.cli.program import app
from extract.run.dispatch import execute_here
from extract.run.plan import plan
from extract.run.run import run
from extract.run.run_spec import build_worker
from extract.teacher_files.specs import teacher_spec
from store.errors import ConfigError
from store.format.pairs import PairTable
from store.format.records import Status, read_store_info
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.extract.tasks import done


def command(*arguments):
    return get_command(app)(list(arguments), prog_name="extract", standalone_mode=False)


class Sick:
    """A teacher that returns no number for the images whose first pixel is given."""

    def __init__(self, teacher, first_pixel):
        self._teacher, self._first_pixel = teacher, first_pixel

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def image_features(self, pixels_BHWC):
        features_BD = self._teacher.image_features(pixels_BHWC).clone()
        features_BD[(pixels_BHWC[:, 0, 0] == torch.tensor(self._first_pixel)).all(dim=1)] = np.nan
        return features_BD


@pytest.fixture
def sick(tmp_path, teachers, write_pipeline, write_tar, encoded, prepare):
    """A pipeline over 48 pairs in three ranges, done by a teacher that failed at row 20 and by a healthy one."""
    pairs = [(f"k{n:02d}", encoded(np.full((64, 64, 3), n, np.uint8)), f"caption {n}") for n in range(48)]
    folder = write_tar(tmp_path / "corpus", pairs)
    pipeline = prepare(write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers))

    def execute(job, work, tracker):
        worker = build_worker(job)
        worker.teachers = worker.teachers | {"small": Sick(worker.teachers["small"], (20, 20, 20))}
        for item in work:
            tracker.note(done(worker, item.range_id, item.teachers))

    run(pipeline, execute=execute)
    return pipeline


def receipts_of(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("receipts/*/*.json")}


def test_the_next_run_does_exactly_the_marked_units_again(sick, tmp_path, caplog):
    store = tmp_path / "store"
    assert FeatureStore(store).status("small")[20] == Status.NON_FINITE
    before, features = receipts_of(store), FeatureStore(store).read(slice(None), teacher="small", side="image")
    command("retry", str(store))
    # Marked, and still there for readers: no row is lost before the new unit is.
    assert receipts_of(store) == before
    assert np.array_equal(FeatureStore(store).read(slice(None), teacher="small", side="image"), features)
    outcome = run(sick, execute=execute_here)
    assert (outcome.found, outcome.done) == (5, 1)
    after = receipts_of(store)
    assert {path.name for path in before if after[path] != before[path]} == {"r000001.json"}
    healed = FeatureStore(store)
    assert (healed.status("small") == Status.OK).all()
    healthy = np.setdiff1d(np.arange(48), [20])
    again = healed.read(slice(None), teacher="small", side="image")
    assert np.array_equal(again[healthy], features[healthy])
    assert np.linalg.norm(again[20].astype(np.float32)) == pytest.approx(1, abs=1e-3)
    assert run(sick, execute=execute_here).done == 0


def test_only_chosen_statuses_and_teachers_are_marked(sick, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    store = tmp_path / "store"
    command("retry", str(store), "--status", "bad_image,bad_text", "--json")
    assert json.loads(capsys.readouterr().out) == {"units": [], "rows": [], "marked": False}
    command("retry", str(store), "--teacher", "wide")
    assert "nothing to do" in caplog.text
    command("retry", str(store), "--status", "all", "--dry-run", "--json")
    content = json.loads(capsys.readouterr().out)
    assert content["units"] == [{"teacher": "small", "range": 1, "bad_rows": 1}]
    assert (content["rows"][0]["row"], content["rows"][0]["status"], content["marked"]) == (20, "non_finite", False)
    assert not (store / "retry").exists()
    with pytest.raises(ConfigError, match="--status: 'broken': expected all, or some of bad_image, bad_text"):
        command("retry", str(store), "--status", "broken")


def test_marks_can_be_taken_back(sick, tmp_path, capsys):
    store = tmp_path / "store"
    command("retry", "--pipeline", "tiny", "--config", str(tmp_path / "pipelines.yaml"))
    assert command("retry", str(store), "--undo") is None
    specs = {name: teacher_spec(name, entry) for name, entry in sick.teachers.items()}
    info = read_store_info(locate(store))
    planned = plan(locate(store), info=info, pairs=PairTable(locate(store), info), specs=specs)
    assert (planned.committed, list(planned.work)) == (6, [])
