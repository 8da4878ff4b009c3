"""A teacher of images alone beside one of both sides and by itself: planned, run, checked, taught from, evaluated."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from extract.cli.program import app
from extract.config import ExtractPipeline
from extract.estimate.estimate import estimate
from extract.monitor.drift import drift
from extract.run.dispatch import execute_here
from extract.run.run import run
from store.check.verify import verify
from store.config.pipeline_file import read_pipeline
from store.format.records import Status
from store.read.reader import FeatureStore
from tests.extract.library_cases import timm_vit
from tests.train.conftest import MODEL
from train.cli.program import app as train

ROWS, BAD_IMAGE, NO_CAPTION, NO_WORD = 40, 3, 7, 11


def command(program, *arguments):
    return get_command(program)([*map(str, arguments)], prog_name="extract", standalone_mode=False)


def drawn(number):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def seer(tmp_path_factory):
    """A ViT of timm with random weights, and the library's own pipeline around it."""
    torch.manual_seed(0)
    return timm_vit(tmp_path_factory.mktemp("seer"))


@pytest.fixture
def make(tmp_path, teachers, seer, write_pipeline, write_tar, prepare):
    """Return a function that indexes a corpus with bad rows for the image-only teacher and others."""

    def make(*others):
        pairs = [(f"k{number:03d}", drawn(number), f"finding {number}") for number in range(ROWS)]
        pairs[BAD_IMAGE] = ("k003", b"no image", "finding 3")
        pairs[NO_CAPTION] = ("k007", drawn(7), None)
        pairs[NO_WORD] = ("k011", drawn(11), "--")
        folder = write_tar(tmp_path / "corpus", pairs)
        path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={name: teachers[name] for name in others})
        content = json.loads(path.read_text())
        content["tiny"]["teachers"]["seer"] = seer.entry.model_dump(include={"folder", "timm", "config"})
        path.write_text(json.dumps(content))
        return prepare(path)

    return make


def expected_of(seer):
    rows = [number for number in range(ROWS) if number != BAD_IMAGE]
    return rows, seer.image([drawn(number) for number in rows]).detach().numpy()


def test_features_are_the_librarys_own_and_a_bad_caption_costs_no_row(make, seer, tmp_path):
    outcome = run(make("small"), execute=execute_here)
    assert (outcome.done, outcome.failed) == (6, {})
    store, (rows, expected) = FeatureStore(tmp_path / "store"), expected_of(seer)
    assert store.spec("seer").sides == ("image",)
    found = store.read(np.array(rows), teacher="seer", side="image").astype(np.float32)
    assert (found * expected).sum(axis=1) == pytest.approx(1, abs=1e-3)
    bad = {row: store.status("seer")[row] for row in range(ROWS) if store.status("seer")[row] != Status.OK}
    assert bad == {BAD_IMAGE: Status.BAD_IMAGE}
    of_small = store.status("small")
    assert (of_small[NO_CAPTION], of_small[NO_WORD], of_small[BAD_IMAGE]) == (3, 3, 2)
    receipt = store.receipt("seer", 0)
    assert [row.row for row in receipt.bad_rows] == [BAD_IMAGE]
    assert receipt.truncated_captions is None
    assert store.receipt("small", 0).truncated_captions is not None
    assert verify(store.location, deep=True).complete


def test_a_pipeline_of_images_alone_encodes_no_caption_and_is_planned_to_the_object(make, tmp_path):
    pipeline = make()
    before = {path for path in (tmp_path / "store").rglob("*") if path.is_file()}
    found = estimate(pipeline, probe_s=600.0)  # until every row was seen
    assert found.rates.teachers["seer"].captions_per_s is None
    assert found.hours > 0
    run(pipeline, execute=execute_here)
    written = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path not in before]
    assert found.size.objects == len(written)
    assert found.size.nbytes == pytest.approx(sum(path.stat().st_size for path in written), rel=0.02)
    receipt = FeatureStore(tmp_path / "store").receipt("seer", 1)
    assert "forward_text" not in receipt.timings_s or receipt.timings_s["forward_text"] == 0
    assert receipt.status_counts == {"ok": 16}


def test_drift_retry_status_and_report_know_it(make, tmp_path, capsys):
    pipeline = make("small")
    run(pipeline, execute=execute_here)
    store = FeatureStore(tmp_path / "store")
    found = drift(store, pipeline, teachers=["seer"], rows=ROWS, seed=0, root=store.info.corpus_root)[0]
    assert (found.passed, set(found.sides), found.rows) == (True, {"image"}, ROWS - 1)
    command(app, "retry", tmp_path / "store", "--teacher", "seer", "--status", "bad_image")
    assert run(pipeline, execute=execute_here).done == 1
    assert verify(store.location, deep=True).complete
    for name in ("status", "report"):
        command(app, name, tmp_path / "store")
    command(app, "plan", "--pipeline", "tiny", "--config", tmp_path / "pipelines.yaml")
    assert "seer" in capsys.readouterr().out
    command(app, "teachers", "--pipeline", "tiny", "--config", tmp_path / "pipelines.yaml")
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index(f"seer: {pipeline.teachers['seer'].folder}") + 1].startswith("  images alone; ")


@pytest.mark.parametrize("others", [(), ("small",)])
def test_both_recipes_distil_from_such_a_store(make, tmp_path, others):
    run(make(*others), execute=execute_here)
    path = tmp_path / "pipelines.yaml"
    content = json.loads(path.read_text())
    optimization = {"steps": 2, "batch_size": 8, "lr": 1e-3, "log_every": 1}
    student = {"model": MODEL, "optimization": optimization}
    projected = {"out": str(tmp_path / "projection"), "latent_dim": 32, "hidden_dim": 8, "steps": 2, "batch_size": 8}
    students = {
        name: student | {"recipe": name, "out": str(tmp_path / f"students/{name}")} for name in ("paper", "improved")
    }
    students["improved"]["improved"] = {"phi_s": False, "relational_weight": 1.0, "interactive_weight": 1.0}
    content["tiny"]["train"] = {"project": projected, "students": students}
    path.write_text(json.dumps(content))
    chosen = ("--pipeline", "tiny", "--config", path)
    command(train, "project", *chosen)
    for name in students:
        command(train, "distill", *chosen, "--student", name)
        lines = (Path(students[name]["out"]) / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert last["feature_loss"] > 0
        assert (last["interactive_loss"] > 0) == bool(others)


def test_an_unchanged_pipeline_reads_the_same_spec_again(make, tmp_path):
    run(make(), execute=execute_here)
    again = run(read_pipeline(tmp_path / "pipelines.yaml", "tiny", ExtractPipeline), execute=execute_here)
    assert (again.done, again.failed) == (0, {})
