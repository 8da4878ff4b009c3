"""A teacher that encodes images alone, evaluated from a store: what works, what is refused, and how reports show it."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluate.cli import commands_results
from evaluate.datasets.registry import read_registry
from evaluate.datasets.task_kinds import TASKS, can_do
from evaluate.models.addresses import parse_address
from evaluate.results.record import ResultRecord, SkippedRecord
from evaluate.suite.plan import Settings, plan
from evaluate.suite.predict import Prompts, predict_images
from evaluate.suite.suite import Suite
from store.corpus.section import Corpus
from store.errors import ConfigError
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PairTable
from store.format.records import Spec, Status
from store.index.create import index_corpus
from store.io.location import locate
from tests.evaluate.dataset_files import write_entry
from tests.evaluate.suite.test_suite import ENTRY, write_data
from tests.extract.library_cases import timm_vit

TEXT_TASKS = ("zero_shot", "retrieval", "vqa")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The images of the drawn dataset as a store: ``both`` and ``seer`` have the same image features of brightness."""
    folder = tmp_path_factory.mktemp("one_side")
    write_data(folder / "data")
    with tarfile.open(folder / "pairs.tar", "w") as tar:
        for file in sorted((folder / "data/drawn").glob("*.png")):
            for suffix, content in (("png", file.read_bytes()), ("txt", f"image {file.stem}".encode())):
                member = tarfile.TarInfo(f"i{file.stem}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    info, _ = index_corpus(folder / "store", Corpus(files=[str(folder / "pairs.tar")]), range_rows=32, chunk_rows=16)
    location, pairs = locate(folder / "store"), PairTable(locate(folder / "store"), info)
    numbers = [int(key.removeprefix("i")) for key in pairs.read(0, info.rows, ["key"])["key"].to_pylist()]
    image_ND = np.random.default_rng(0).normal(size=(info.rows, 8)).astype(np.float32)
    # As the dataset's labels: places of each split alternate between dark and bright.
    image_ND[:, 0] += 3 * np.where(np.array(numbers) % 2, 1, -1)
    image_ND /= np.linalg.norm(image_ND, axis=1, keepdims=True)
    for name, sides in (("both", ["image", "text"]), ("seer", ["image"])):
        spec = Spec(
            teacher=name,
            embed_dim=8,
            weights_sha256=None,
            architecture={},
            preprocessing={},
            tokenizer={},
            output="drawn",
            compute_dtype="float32",
            sides=sides,
        )
        register_teacher(location, spec, info=info)
        for number in range(info.ranges):
            part = slice(*info.bounds(number))
            features = UnitFeatures(
                image=image_ND[part],
                text=image_ND[part] if len(sides) == 2 else None,
                status=np.full(part.stop - part.start, Status.OK, np.uint8),
                reasons={},
            )
            commit_unit(
                location,
                info=info,
                spec=spec,
                range_id=number,
                pairs=pairs.read(part.start, part.stop),
                features=features,
                circumstances=Circumstances(
                    device="cpu", batch_size=1, run_id="test", attempt=1, timings_s={}, versions={}
                ),
            )
    return folder


@pytest.fixture(scope="module")
def records(place):
    """All tasks of ``seer``, and the linear probe of both, by model and task."""
    entry = read_registry([write_entry(place, **ENTRY)])["drawn"]
    settings = Settings(results=place / "results", data_root=place / "data", resamples=50, batch_size=10)
    evaluations = []
    for name, tasks in (("both", ("linear_probe",)), ("seer", ())):
        address = parse_address(f"store:{place / 'store'}#{name}")
        evaluations += plan([address], [entry], tasks=tasks, data_root=place / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.suite.task_runs.SHOTS", (1, 16))
        patch.setattr("evaluate.suite.task_runs.FRACTIONS", ())
        found = Suite(settings).run_all(evaluations)
    return {(record.model.name, record.task): record for record in found}


def test_the_linear_probe_and_its_shots_have_the_numbers_of_the_same_images_in_a_teacher_of_both_sides(records):
    probes = [task for name, task in records if name == "seer" and task.startswith("linear_probe")]
    assert {"linear_probe", "linear_probe_1shot", "linear_probe_16shot"} <= set(probes)
    for task in probes:
        ours, theirs = records["seer", task], records["both", task]
        assert type(ours) is type(theirs)
        if isinstance(ours, ResultRecord):
            assert ours.metrics == theirs.metrics
    assert records["seer", "linear_probe"].metrics["balanced_accuracy"].value > 0.9


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_tasks_with_texts_are_refused_with_the_reason(records, task):
    record = records["seer", task]
    assert isinstance(record, SkippedRecord)
    assert record.skipped == f"{task} needs a model that encodes texts; seer encodes images alone"


def test_images_are_enough_for_probes_survival_and_diagnosis():
    assert {task for task in TASKS if can_do(task, ("image",))} == {"linear_probe", "survival", "diagnosis"}
    assert all(can_do(task, ("image", "text")) for task in TASKS)
    assert can_do("linear_probe_4shot", ("image",))


def test_reports_state_the_gap(records, place):
    results = ("--results", place / "results")

    def run(*arguments):
        done = CliRunner().invoke(commands_results.app, [*map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("leaderboard", *results)
    board = (place / "results/leaderboard.md").read_text()
    assert "retrieval needs a model that encodes texts; seer encodes images alone" in board
    run("report", *results)
    page = (place / "results/report.html").read_text()
    assert "zero_shot needs a model that encodes texts; seer encodes images alone" in page
    assert "linear_probe" in run("compare", "both", "seer", *results)
    assert "seer" in run("claim", "both", *results, "--teacher", "seer", "--task", "linear_probe")


@pytest.fixture(scope="module")
def seer(tmp_path_factory):
    """The entry of a ViT of timm with random weights."""
    return timm_vit(tmp_path_factory.mktemp("seer")).entry


def test_a_model_that_runs_here_is_probed_and_refuses_texts(place, seer, tmp_path, monkeypatch):
    for amounts in ("SHOTS", "FRACTIONS"):
        monkeypatch.setattr(f"evaluate.suite.task_runs.{amounts}", ())
    entry = read_registry([write_entry(tmp_path, **ENTRY)])["drawn"]
    results = tmp_path / "results"
    settings = Settings(results=results, data_root=place / "data", resamples=50, batch_size=10, teachers={"seer": seer})
    tasks = ("linear_probe", "retrieval")
    evaluations = plan([parse_address("teacher:seer")], [entry], tasks=tasks, data_root=place / "data")
    found = {record.task: record for record in Suite(settings).run_all(evaluations)}
    assert isinstance(found["linear_probe"], ResultRecord)
    assert found["retrieval"].skipped == "retrieval needs a model that encodes texts; seer encodes images alone"


def test_classes_are_not_predicted_by_prompts_that_it_cannot_read(seer):
    with pytest.raises(ConfigError, match="teacher:seer: encodes images alone, and classes are told apart by prompts"):
        predict_images([], parse_address("teacher:seer"), Prompts.of(["cat", "dog"], []), teachers={"seer": seer})
