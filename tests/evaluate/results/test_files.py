from __future__ import annotations

import base64
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluate.metrics.bootstrap import Interval
from evaluate.metrics.predictions import Predictions
from evaluate.results.examples import Example
from evaluate.results.files import read_predictions, read_result, read_results, result_path, write_result
from evaluate.results.record import FORMAT, SeedValues
from store.errors import EvaluationError, FormatVersionError
from store.images.thumbnail import THUMBNAIL_PX, thumbnail
from tests.evaluate.synthetic import jpeg_bytes, model_facts, predictions, skipped, write_all, zero_shot


@pytest.fixture
def written(tmp_path):
    record, found = zero_shot("mmkd", "lungs")
    return write_result(tmp_path, record, found), record, found


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_record_is_read_as_it_was_written(written, tmp_path):
    path, record, found = written
    (again,) = read_results(tmp_path)
    assert path == tmp_path / "mmkd" / "zero_shot" / "lungs.json"
    assert again.model_dump(exclude={"predictions_digest"}) == record.model_dump(exclude={"predictions_digest"})
    back = read_predictions(tmp_path, again)
    assert (back.ids, back.clusters, back.strata) == (found.ids, found.clusters, "target")
    for name, column in found.columns.items():
        np.testing.assert_array_equal(back.columns[name], column)
        assert back.columns[name].dtype == column.dtype


def test_a_record_of_an_earlier_version_that_calls_caveats_findings_is_read(written):
    path, _, _ = written

    def rename(content):
        del content["dataset"]["caveats"]
        content["dataset"]["findings"] = ["1 items of train and test show the same image"]

    assert read_result(changed(path, rename)).dataset.caveats == ("1 items of train and test show the same image",)


def test_predictions_of_every_kind_survive(tmp_path):
    record, _ = zero_shot("mmkd", "lungs", count=9)
    given = Predictions(
        ids=[str(item) for item in range(9)],
        clusters=[f"p{item // 2}" for item in range(9)],
        columns={
            "score": np.arange(18, dtype=np.float32).reshape(9, 2)[:, ::-1],
            "hit": np.arange(9) % 2 == 0,
            "answer": np.array(["yes", "", "Ödem"] * 3),
            "rank": np.arange(9, dtype=np.int32),
        },
    )
    write_result(tmp_path, record, given)
    back = read_predictions(tmp_path, read_results(tmp_path)[0])
    assert (back.clusters, back.strata) == (given.clusters, None)
    for name, column in given.columns.items():
        np.testing.assert_array_equal(back.columns[name], column)
        assert back.columns[name].dtype.kind == column.dtype.kind


def test_predictions_are_plain_parquet(written):
    path, _, found = written
    table = pq.read_table(path.with_suffix(".parquet"))
    assert table.column_names == ["id", "cluster", "target", "score"]
    assert table.column("score").to_pylist() == found.columns["score"].tolist()


def test_intervals_are_those_of_the_split_and_hold_the_value(written):
    _, record, _ = written
    assert record.bootstrap.mode == "plain"
    assert record.metrics["auroc"].low < record.value < record.metrics["auroc"].high
    other, _ = zero_shot("biomedclip", "lungs")
    assert other.bootstrap == record.bootstrap
    assert zero_shot("mmkd", "lungs", split="split-2")[0].bootstrap.seed != record.bootstrap.seed


def test_patients_are_resampled_together_without_being_asked():
    assert zero_shot("mmkd", "lungs", clustered=True)[0].bootstrap.mode == "cluster"
    assert zero_shot("mmkd", "lungs", clustered=True, mode="official")[0].bootstrap.seed == 42


def test_a_quoted_number_says_all_that_judges_it(written):
    _, record, _ = written
    text = record.cite("auroc")
    metric = record.metrics["auroc"]
    for part in (
        f"AUROC {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]",
        "95 % effective Agresti-Coull interval of 200 plain resamples",
        "n = 90",
        "no training seeds",
        "split split-1-",
        "model mmkd-dig",
    ):
        assert part in text
    assert "(not to be trusted)" not in text
    assert ", 95 % Agresti-Coull interval, n = 90" in record.cite("accuracy")


def test_a_stratified_interval_says_what_it_holds_fixed():
    record, _ = zero_shot("mmkd", "lungs", mode="stratified")
    assert "95 % percentile interval of 200 stratified resamples (counts by target held fixed)" in record.cite("auroc")


def test_a_record_of_an_earlier_version_is_read_and_its_interval_named(tmp_path):
    record, found = zero_shot("mmkd", "lungs", mode="stratified")
    path = write_result(tmp_path, record, found)
    content = json.loads(path.read_text())
    del content["bootstrap"]["conditioned_on"]
    for metric in content["metrics"].values():
        del metric["method"], metric["caution"]
    path.write_text(json.dumps(content))
    (old,) = read_results(tmp_path)
    assert "95 % percentile interval of 200 stratified resamples (counts by class held fixed)" in old.cite("accuracy")


def test_an_interval_that_is_not_to_be_trusted_says_so_and_why():
    record, _ = zero_shot("mmkd", "lungs", count=9)
    assert str(record.metrics["auroc"]).endswith("] (not to be trusted)")
    assert "(not to be trusted), rests on 3 independent items of the rarest kind, fewer than" in record.cite("auroc")
    assert record.metrics["accuracy"].caution is None


def test_seeds_stand_apart_from_the_interval():
    seeds = SeedValues.of([0.5, 0.7, 0.9])
    assert (seeds.mean, seeds.sd) == pytest.approx((0.7, np.std([0.5, 0.7, 0.9], ddof=1)))
    record = zero_shot("mmkd", "lungs")[0].model_copy(update={"seeds": {"auroc": seeds}})
    assert "sd 0.200 over 3 training seeds" in record.cite("auroc")
    assert SeedValues.of([0.5]).sd is None


def test_a_number_without_an_interval_says_so():
    assert str(Interval(value=0.5, low=None, high=None, resamples=10, failed=10)) == (
        "0.500 [no interval: all 10 resamples failed]"
    )


def test_a_missing_dataset_is_skipped_with_its_reason_and_has_no_number(tmp_path):
    path = write_result(tmp_path, skipped("mmkd", "brains"))
    (record,) = read_results(tmp_path)
    assert record.skipped.startswith("its files are missing")
    assert not hasattr(record, "metrics")
    assert not path.with_suffix(".parquet").exists()


def test_a_result_that_became_impossible_leaves_no_old_predictions(written, tmp_path):
    path, _, _ = written
    write_result(tmp_path, skipped("mmkd", "lungs"))
    assert not path.with_suffix(".parquet").exists()


@pytest.mark.parametrize("model", ["open_clip:ViT-B-32/laion2b", "../other", "a b"])
def test_any_model_name_is_one_folder_inside_the_results(tmp_path, model):
    path = result_path(tmp_path, model=model, task="zero_shot", dataset="medmnist.v2")
    assert path.resolve().relative_to(tmp_path.resolve()).parts[1:] == ("zero_shot", "medmnist.v2.json")
    assert path != result_path(tmp_path, model=model.replace("/", "_"), task="zero_shot", dataset="medmnist.v2") or (
        "/" not in model
    )


@pytest.mark.parametrize("model", ["", "..", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, model):
    with pytest.raises(EvaluationError, match="cannot be a file's name"):
        result_path(tmp_path, model=model, task="zero_shot", dataset="lungs")


def test_another_format_is_refused_and_both_are_named(written):
    path = changed(written[0], lambda content: content.update(format=7))
    with pytest.raises(FormatVersionError, match=f"result format 7, this program reads format {FORMAT}"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("n"), "n: Field required"),
        (lambda content: content.update(n="90"), "n: Input should be a valid integer"),
        (lambda content: content.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda content: content.update(primary="f2"), "primary metric 'f2' is not among"),
        (lambda content: content["metrics"]["auroc"].update(low=0.99, high=0.1), "low end 0.99 is above"),
        (lambda content: content["metrics"]["auroc"].update(low=None), "both ends, or none"),
        (lambda content: content["metrics"]["auroc"].update(value=None), "has no value"),
        (lambda content: content["metrics"].update(f2=content["metrics"]["auroc"]), "no such metric: f2"),
        (lambda content: content["dataset"].update(split_digest=None), "names the digests"),
        (lambda content: content["dataset"].update(provenance="rumour"), "dataset.provenance"),
        (lambda content: content["details"].update(examples=[{"id": "a"}]), "details.examples.0.target"),
    ],
)
def test_a_record_that_is_wrong_is_refused_with_its_place(written, change, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        read_result(changed(written[0], change))
    assert str(written[0]) in str(caught.value)
    assert "evaluate that model again" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", '{"models": {}}'])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match="not a record of a result"):
        read_result(path)


def test_json_that_is_no_result_is_passed_over_and_told(written, caplog):
    folder = written[0].parents[2]
    others = ["store/features.zarr/zarr.json", "a/b/list.json", "a/b/text.json", "a/b/record.json"]
    content = ['{"zarr_format": 3}', "[1]", "not JSON", written[0].read_text()]
    for name, text in zip(others, content, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert [record.model.name for record in read_results(folder)] == [read_result(written[0]).model.name]
    assert "passed over 4 JSON files that are no results" in caplog.text
    written[0].unlink()
    with pytest.raises(EvaluationError, match="holds no results"):
        read_results(folder)


def test_an_empty_folder_is_told_what_to_run(tmp_path):
    with pytest.raises(EvaluationError, match="holds no results") as caught:
        read_results(tmp_path)
    assert "python -m evaluate run" in caught.value.hint


def test_predictions_that_changed_or_vanished_are_noticed(written, tmp_path):
    path = written[0]
    (record,) = read_results(tmp_path)
    other = predictions("lungs", skill=0, seed=9)
    write_result(tmp_path / "other", record, other)
    changed_file = tmp_path / "other" / "mmkd" / "zero_shot" / "lungs.parquet"
    path.with_suffix(".parquet").write_bytes(changed_file.read_bytes())
    with pytest.raises(EvaluationError, match="not the predictions that the record beside it was written with"):
        read_predictions(tmp_path, record)
    path.with_suffix(".parquet").unlink()
    with pytest.raises(EvaluationError, match="are missing"):
        read_predictions(tmp_path, record)


def test_a_result_without_its_predictions_is_not_written(tmp_path):
    record, found = zero_shot("mmkd", "lungs")
    with pytest.raises(EvaluationError, match="of 90 test items, the predictions are of 0"):
        write_result(tmp_path, record)
    with pytest.raises(EvaluationError, match="skipped result has no predictions"):
        write_result(tmp_path, skipped("mmkd", "lungs"), found)
    assert not list(tmp_path.rglob("*.json"))


def test_all_results_are_read_in_order(tmp_path):
    records = read_results(write_all(tmp_path, models=("mmkd", "biomedclip"), datasets=("skins", "lungs")))
    names = [(record.model.name, record.dataset.name) for record in records]
    assert names == [(model, dataset) for model in ("biomedclip", "mmkd") for dataset in ("brains", "lungs", "skins")]


def test_a_thumbnail_is_a_small_jpeg_of_the_image():
    picture = Image.new("RGBA", (640, 320), (200, 30, 30, 255))
    example = Example(id="a", target="t", predicted="p", thumbnail_jpeg_base64=thumbnail(picture))
    data = base64.b64decode(example.thumbnail_jpeg_base64)
    assert data.startswith(b"\xff\xd8\xff")
    assert len(data) < 8192
    assert THUMBNAIL_PX == 112


@pytest.mark.parametrize(
    ("data", "message"),
    [("no base64!", "not base64"), (base64.b64encode(b"<svg/>").decode(), "not a JPEG")],
)
def test_a_thumbnail_that_is_no_jpeg_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Example(id="a", target="t", predicted="p", thumbnail_jpeg_base64=data)


def test_a_thumbnail_that_is_a_whole_image_is_refused():
    data = base64.b64encode(jpeg_bytes(512)).decode()
    with pytest.raises(ValueError, match="too many for a thumbnail"):
        Example(id="a", target="t", predicted="p", thumbnail_jpeg_base64=data)


def test_facts_of_a_model_need_a_known_role():
    with pytest.raises(ValueError, match="role"):
        model_facts("mmkd", role="champion")
