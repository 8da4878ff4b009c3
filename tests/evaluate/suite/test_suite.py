"""A tiny model on a drawn dataset in every task, against open_clip, scikit-learn and counts done by hand."""

from __future__ import annotations

import csv
import io
import json
import logging

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from evaluate.datasets.loading import load_dataset
from evaluate.datasets.registry import read_registry
from evaluate.models.addresses import OWN_FEATURES, parse_address
from evaluate.models.encoders import ImageSet, StoreEncoder
from evaluate.models.opening import entry_of, facts_of
from evaluate.results.files import read_predictions, read_results
from evaluate.results.record import SkippedRecord
from evaluate.suite.plan import Settings, plan
from evaluate.suite.suite import Suite
from extract.corpora.phantom.catalog import FINDINGS
from store.errors import ConfigError, EvaluationError, WeightsNotFoundError
from tests.evaluate.dataset_files import BASE, write_entry
from tests.evaluate.tiny_model import write_model

NAMES = sorted({finding.name for findings in FINDINGS.values() for finding in findings})
"""More than test items, in words that the model's vocabulary has."""
SPLITS = {"train": 40, "val": 12, "test": 24}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model with random weights, and a data root with a table of images, questions and captions."""
    folder = tmp_path_factory.mktemp("suite")
    write_model(folder / "model", NAMES)
    write_data(folder / "data")
    return folder


def write_data(root):
    """Write images of two brightnesses, one unreadable, with what is asked and said of each."""
    (root / "drawn").mkdir(parents=True)
    rng = np.random.default_rng(7)
    fields = ["id", "image", "label", "split", "patient", "caption", "question", "answer"]
    with (root / "drawn" / "table.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, fields)
        rows.writeheader()
        number = 0
        for split, count in SPLITS.items():
            for place in range(count):
                label = ("cat", "dog")[place % 2]
                pixels = rng.integers(0, 120, (48, 56, 3)) + 120 * (label == "dog")
                buffer = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
                data = buffer.getvalue()
                if (split, place) == ("test", 5):
                    data = data[: len(data) // 2]
                (root / "drawn" / f"{number}.png").write_bytes(data)
                rows.writerow(
                    {
                        "id": f"i{number}",
                        "image": f"{number}.png",
                        "label": label,
                        "split": split,
                        "patient": f"p{number}",
                        "caption": NAMES[number % len(NAMES)],
                        "question": "is it bright?" if place % 3 else "what is it?",
                        "answer": ("yes" if label == "dog" else "no") if place % 3 else label,
                    }
                )
                number += 1


ENTRY = {
    "read": {"format": "table", "files": ["drawn/table.csv"], "image": "image"},
    "fields": {name: name for name in ("id", "label", "split", "patient", "caption", "question", "answer")},
    "split": {"rule": "field"},
    "tasks": {
        "zero_shot": {"primary": "auroc"},
        "linear_probe": {"primary": "balanced_accuracy"},
        "retrieval": {"primary": "mean_recall"},
        "vqa": {"primary": "vqa_overall"},
    },
    "max_excluded": 0.1,
}


@pytest.fixture(scope="module")
def entry(place):
    (place / "entries").mkdir()
    path = write_entry(place / "entries", **ENTRY)
    return read_registry([path])["drawn"]


def settings_of(place, name, **changes):
    return Settings(results=place / name, data_root=place / "data", resamples=200, batch_size=10, **changes)


def run(place, entry, name, *, tasks=(), model="model", **changes):
    address = parse_address(f"local-dir:{place / model}")
    suite = Suite(settings_of(place, name, **changes))
    evaluations = plan([address], [entry], tasks=tasks, data_root=place / "data")
    return [record for one in evaluations for record in suite.run(one)]


@pytest.fixture(scope="module")
def records(place, entry):
    """The records of all tasks but the linear probe, by task."""
    return {record.task: record for record in run(place, entry, "all", tasks=("zero_shot", "retrieval", "vqa"))}


def by_open_clip(place):
    """Embeddings of the test images that can be read, by plain open_clip, and what the table says of them."""
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{place / 'model'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{place / 'model'}")
    model.eval()
    images, rows = [], []
    for row in csv.DictReader((place / "data/drawn/table.csv").open()):
        if row["split"] == "test":
            try:
                image = Image.open(place / "data/drawn" / row["image"]).convert("RGB")
            except OSError:
                continue
            images.append(transform(image))
            rows.append(row)
    with torch.no_grad():
        image_NE = model.encode_image(torch.stack(images), normalize=True).numpy()

        def embed(texts):
            return model.encode_text(tokenize(texts), normalize=True).numpy()

        return image_NE, rows, embed, float(model.logit_scale.exp())


def test_zero_shot_scores_are_those_of_plain_open_clip(place, records):
    image_NE, rows, embed, scale = by_open_clip(place)
    with torch.no_grad():
        class_CE = embed([f"an image of {name}" for name in BASE["classes"].values()])
    logits = scale * image_NE @ class_CE.T
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    record = records["zero_shot"]
    found = read_predictions(place / "all", record)
    order = [found.ids.index(row["id"]) for row in rows]
    np.testing.assert_allclose(found.columns["score"][order], expected, atol=2e-5)
    assert record.logit_scale == pytest.approx(scale)
    assert record.n == len(rows) == SPLITS["test"] - 1


def test_the_official_protocol_takes_the_softmax_of_the_cosines_and_its_own_resamples(place, entry):
    (record,) = run(place, entry, "official", tasks=("zero_shot",), official=True)
    image_NE, rows, embed, _ = by_open_clip(place)
    with torch.no_grad():
        class_CE = embed([f"an image of {name}" for name in BASE["classes"].values()])
    expected = torch.from_numpy(image_NE @ class_CE.T).softmax(dim=1).numpy()
    found = read_predictions(place / "official", record)
    order = [found.ids.index(row["id"]) for row in rows]
    np.testing.assert_allclose(found.columns["score"][order], expected, atol=1e-5)
    assert (record.logit_scale, record.bootstrap.mode) == (1.0, "official")


def test_an_image_that_cannot_be_decoded_is_left_out_and_counted(records):
    assert sum(records["zero_shot"].excluded.values()) == 1
    assert any("truncated" in reason or "decoded" in reason for reason in records["zero_shot"].excluded)


def test_recall_is_what_counting_gives(place, records):
    image_NE, rows, embed, _ = by_open_clip(place)
    with torch.no_grad():
        text_NE = embed([row["caption"] for row in rows])
    cosine = image_NE @ text_NE.T
    rank = (cosine > np.diag(cosine)[:, None]).sum(axis=1)
    assert records["retrieval"].metrics["i2t_recall_at_5"].value == pytest.approx((rank < 5).mean())
    assert records["retrieval"].metrics["t2i_recall_at_1"].value == pytest.approx(
        ((cosine > np.diag(cosine)[None]).sum(axis=0) < 1).mean()
    )


def test_every_record_says_what_it_was_computed_from(records, place):
    for record in records.values():
        assert record.model.digest == facts_of(parse_address(f"local-dir:{place / 'model'}"), teachers={}).digest
        assert len(record.dataset.digest) == len(record.dataset.split_digest) == 64
        assert {"torch", "open_clip_torch", "python"} <= set(record.versions)
        assert record.metrics[record.primary].resamples == 200
        assert record.details["examples"] is not None
    assert len(records["zero_shot"].prompts_digest) == 64
    assert records["vqa"].seeds["vqa_overall"].sd is not None


def test_a_linear_probe_of_brightness_learns_it_with_all_items_and_with_some(place, entry, monkeypatch):
    monkeypatch.setattr("evaluate.suite.task_runs.SHOTS", (2,))
    monkeypatch.setattr("evaluate.suite.task_runs.FRACTIONS", (0.1, 0.2))
    found = {record.task: record for record in run(place, entry, "probe", tasks=("linear_probe",))}
    assert found["linear_probe"].metrics["balanced_accuracy"].value > 0.9
    assert len(found["linear_probe_2shot"].seeds["accuracy"].values) == 5
    assert found["linear_probe_20pct"].details["num_val"] == SPLITS["val"]
    assert [run["num_val"] for run in found["linear_probe_20pct"].details["runs"]] == [8] * 5
    # A tenth of twenty images of a class is two of them: the same fits, which count once.
    assert found["linear_probe_10pct"].skipped == "the same fits as linear_probe_2shot, which counts"
    assert found["linear_probe_2shot"].details["also"] == ["linear_probe_10pct"]
    amounts = {task: record.details["amount"] for task, record in found.items() if "10pct" not in task}
    assert amounts == {
        "linear_probe": {"kind": "all", "value": 1, "num_train": 40},
        "linear_probe_2shot": {"kind": "shots", "value": 2, "num_train": 4},
        "linear_probe_20pct": {"kind": "fraction", "value": 0.2, "num_train": 8},
    }


def test_a_record_has_the_threshold_of_validation_and_subgroups_with_intervals(place, tmp_path):
    (tmp_path / "entries").mkdir()
    path = write_entry(
        tmp_path / "entries", **ENTRY, subgroups={"asked": {"column": "question"}}, sensitivity=0.8, prevalence=0.1
    )
    run(place, read_registry([path])["drawn"], "clinical", tasks=("zero_shot",))
    (record,) = read_results(place / "clinical")
    assert record.details["threshold"]["by"] == "sensitivity 0.8 on validation"
    assert record.details["threshold"]["num_val"] == [SPLITS["val"]]
    assert record.details["prevalence"] == {"value": 0.1, "by": "the dataset's entry"}
    parts = record.details["subgroups"]["asked"]
    assert {value: part["n"] for value, part in parts.items()} == {"is it bright?": 15, "what is it?": 8}
    for part in parts.values():
        metric = record.metrics[part["metric"]]
        assert metric.low <= metric.value <= metric.high
    columns = read_predictions(place / "clinical", record).columns
    inside = columns["subgroup@asked"] == "what is it?"
    expected = roc_auc_score(columns["positive"][inside], columns["margin"][inside])
    assert record.metrics["auroc[asked=what is it?]"].value == pytest.approx(expected)
    flagged = columns["margin"] >= record.details["threshold"]["margin"][0]
    np.testing.assert_array_equal(columns["flagged"], flagged)
    assert record.metrics["specificity"].value == pytest.approx((~flagged[columns["positive"] == 0]).mean())


def test_a_result_that_would_count_twice_gives_way_to_the_word_that_it_repeats_another(place, entry, monkeypatch):
    monkeypatch.setattr("evaluate.suite.task_runs.SHOTS", ())
    monkeypatch.setattr("evaluate.suite.task_runs.FRACTIONS", (0.2,))
    before = {record.task: record for record in run(place, entry, "twice", tasks=("linear_probe",))}
    assert before["linear_probe_20pct"].n == 23
    monkeypatch.setattr("evaluate.suite.task_runs.SHOTS", (4,))
    run(place, entry, "twice", tasks=("linear_probe",), again=True)
    after = {record.task: record for record in read_results(place / "twice")}
    assert after["linear_probe_4shot"].seeds == before["linear_probe_20pct"].seeds
    assert after["linear_probe_20pct"].skipped == "the same fits as linear_probe_4shot, which counts"


def test_what_is_there_is_left_alone_and_a_changed_model_is_not(place, entry, caplog, tmp_path):
    run(place, entry, "again", tasks=("zero_shot",))
    (path,) = (place / "again").rglob("drawn.json")
    before = path.read_bytes()
    with caplog.at_level(logging.INFO):
        (same,) = run(place, entry, "again", tasks=("zero_shot",))
    assert "is there already" in caplog.text
    assert path.read_bytes() == before
    write_model(place / "other/model", seed=2)
    (changed,) = run(place, entry, "again", tasks=("zero_shot",), model="other/model")
    assert changed.model.digest != same.model.digest
    assert path.read_bytes() != before


def test_embeddings_are_computed_once_and_a_damaged_file_of_them_is_not_believed(place, entry, monkeypatch):
    (first,) = run(place, entry, "cached", tasks=("zero_shot",))
    files = sorted((place / "cached/.embeddings").iterdir())
    assert len(files) == 3  # test and validation images, prompts

    def fail(*_):
        raise AssertionError("an image was decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("evaluate.models.encoders.ModelEncoder._pixels", fail)
        (second,) = run(place, entry, "cached", tasks=("zero_shot",), again=True)
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    (third,) = run(place, entry, "cached", tasks=("zero_shot",), again=True)
    assert first.metrics == second.metrics == third.metrics
    assert first.excluded == second.excluded == third.excluded


def test_a_dataset_that_is_not_there_is_skipped_with_a_reason_and_no_number(place, entry, tmp_path):
    address = parse_address(f"local-dir:{place / 'model'}")
    suite = Suite(Settings(results=tmp_path / "results", data_root=tmp_path))
    evaluations = plan([address], [entry], tasks=(), data_root=tmp_path)
    found = suite.run_all(evaluations)
    assert len(found) == len(ENTRY["tasks"])
    assert all(isinstance(record, SkippedRecord) and "drawn/table.csv" in record.skipped for record in found)
    assert {record.task for record in read_results(tmp_path / "results")} == set(ENTRY["tasks"])


def test_survival_of_a_table_needs_no_model_and_a_part_that_fails_is_a_record(place, tmp_path, monkeypatch):
    def too_few(*_, **__):
        raise EvaluationError("too few events for a network")

    monkeypatch.setattr("evaluate.suite.task_runs.survival_abmil", too_few)
    root = tmp_path / "data"
    (root / "drawn").mkdir(parents=True)
    rng = np.random.default_rng(3)
    lines = ["id,time,event,one,two"]
    for number in range(80):
        one, two = rng.normal(size=2)
        time = rng.exponential(np.exp(-1.5 * one)) + 0.01
        lines.append(f"q{number},{time},{int(rng.random() < 0.8)},{one},{two}")
    (root / "drawn/cohort.csv").write_text("\n".join(lines) + "\n")
    read = {"format": "survival_table", "files": ["drawn/cohort.csv"], "features": ["one", "two"]}
    write_entry(
        tmp_path,
        read=read,
        fields={"id": "id", "time": "time", "event": "event"},
        split={"rule": "digest", "by": "id", "salt": "drawn", "train": 0.7, "val": 0.0},
        tasks={"survival": {"primary": "harrell_c"}},
        classes=None,
        positive=None,
        templates=None,
        provenance={"choice": "ours", "split": "ours", "metrics": "ours"},
    )
    entry = read_registry([tmp_path / "drawn.yaml"])["drawn"]
    address = parse_address(f"local-dir:{place / 'model'}")
    evaluations = plan([address], [entry], tasks=(), data_root=root)
    assert [one.model for one in evaluations] == [OWN_FEATURES]
    suite = Suite(Settings(results=tmp_path / "results", data_root=root, resamples=100))
    found = {record.task: record for record in suite.run_all(evaluations)}
    assert found["survival_cox"].metrics["harrell_c"].value > 0.7
    # The split is the dataset's: only its test patients are tested, and the record has its digest.
    dataset = load_dataset(entry, root)
    assert found["survival_cox"].n == len(dataset.test) < 40
    assert read_predictions(tmp_path / "results", found["survival_cox"]).ids == dataset.test.ids
    assert found["survival_cox"].split_digest == dataset.split_digest
    assert found["survival_cox"].details["split"] == {"kind": "given", "num_val": 0}
    assert found["survival_abmil"].skipped == "too few events for a network"


def test_stored_features_stand_for_the_model_where_images_and_captions_are_the_same(place, tmp_path):
    from store.read.reader import FeatureStore
    from tests.store.make_fixture import FIXTURE

    store = FeatureStore(FIXTURE / "store")
    address = parse_address(f"store:{FIXTURE / 'store'}#alpha")
    encoder = StoreEncoder(store, "alpha", facts_of(address, teachers={}))
    table = store.pairs.read(0, store.info.rows, ["image_sha256", "caption"]).to_pylist()
    usable = [row for row in range(store.info.rows) if store.status("alpha")[row] == 1 and table[row]["image_sha256"]]
    asked = [table[usable[3]]["image_sha256"], "0" * 64, table[usable[0]]["image_sha256"]]
    found = encoder.embed_images(ImageSet(images=[], digests=asked))
    assert found.without == {1: "not in the store"}
    first = {row["image_sha256"]: number for number, row in reversed(list(enumerate(table))) if number in usable}
    rows = np.array([first[asked[0]], first[asked[2]]])
    np.testing.assert_array_equal(found.rows[[0, 2]], store.read(rows, teacher="alpha", side="image"))
    caption = table[usable[2]]["caption"]
    words = {row["caption"]: number for number, row in reversed(list(enumerate(table))) if number in usable}
    np.testing.assert_array_equal(
        encoder.embed_texts([caption, caption])[1],
        store.read(np.array([words[caption]]), teacher="alpha", side="text")[0],
    )


def test_a_folder_without_a_complete_run_and_an_unknown_teacher_are_refused(place):
    with pytest.raises(WeightsNotFoundError, match="not the folder of a complete training run"):
        entry_of(parse_address(f"checkpoint:{place / 'model'}"), teachers={})
    with pytest.raises(ConfigError, match="no teacher 'nobody'"):
        entry_of(parse_address("teacher:nobody"), teachers={})
    with pytest.raises(ConfigError, match=r"open_clip has no model 'ViT-B-23'; did you mean 'ViT-B-32'"):
        entry_of(parse_address("open_clip:ViT-B-23/openai"), teachers={})
    with pytest.raises(ConfigError, match="open_clip has no weights 'nothing' of ViT-B-32"):
        entry_of(parse_address("open_clip:ViT-B-32/nothing"), teachers={})


def test_weights_that_open_clip_cannot_fetch_are_named(monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(WeightsNotFoundError, match=r"open_clip:ViT-B-32/openai: the weights are not on this machine"):
        entry_of(parse_address("open_clip:ViT-B-32/openai"), teachers={})


def test_a_run_that_trained_without_teachers_has_another_role(place, tmp_path):
    import shutil

    shutil.copytree(place / "model", tmp_path / "plain")
    for recipe, role in (
        ("task_only", "task_only"),
        ("paper", "student"),
        ("improved", "student"),
        (None, "task_only"),
    ):
        (tmp_path / "plain/train.json").write_text(json.dumps({"run": {"recipe": recipe}}))
        assert facts_of(parse_address(f"checkpoint:{tmp_path / 'plain'}"), teachers={}).role == role
