"""A pipeline's own set: teachers and students on a labelled corpus, against the same done with open_clip alone."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from evaluate.config import EvaluatePipeline
from evaluate.datasets.loading import load_dataset
from evaluate.datasets.pipeline_sets import pipeline_sets
from evaluate.metrics.registry import IN_GROUP
from evaluate.models.pipeline_models import addresses_of
from evaluate.report.table import by_group
from evaluate.results.files import read_predictions, read_results, results_on
from evaluate.results.record import ORACLE, ResultRecord
from evaluate.suite.plan import Settings, plan
from evaluate.suite.suite import Suite
from extract.corpora.phantom.catalog import FINDINGS, MODALITIES
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from extract.teacher_files.model_folder import WEIGHTS_NAME
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError, EvaluationError, WeightsNotFoundError
from tests.evaluate.dataset_files import entry_of, image_bytes, write_tar
from tests.evaluate.tiny_model import MODEL, write_model
from train.runtime.run_folder import RECORD

CLASSES = {modality: [finding.name for finding in FINDINGS[modality]] for modality in MODALITIES}
TEMPLATES = ["{group} showing {label}", "{label} seen on {group}"]
RECIPES = {"distilled": "improved", "task_only": "task_only"}
OPTIMIZATION = {"steps": 1, "batch_size": 2, "lr": 1e-3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus of 72 labelled pairs and three models of random weights."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_corpus(folder / "corpus", PhantomSettings(rows=72, seed=9, split="test", size_px=80))
    captions = [f"{modality} with {name}" for modality, names in CLASSES.items() for name in names]
    for seed, name in enumerate(["teacher", "distilled", "task_only"]):
        write_model(folder / name, captions, seed=seed)
    for name, recipe in RECIPES.items():
        (folder / name / RECORD).write_text(json.dumps({"run": {"recipe": recipe}}))
    return folder


def pipeline_of(place, *, students=("distilled", "task_only"), folder=None, templates=TEMPLATES):
    runs = {
        name: {
            "recipe": RECIPES.get(name, "paper"),
            "out": str((folder or place) / name),
            "model": MODEL,
            "optimization": OPTIMIZATION,
        }
        for name in students
    }
    dataset = {
        "corpus": "test",
        "label": "finding",
        "group": "modality",
        "classes": CLASSES,
        "group_names": {"ct": "CT slice"},
        "templates": templates,
    }
    return EvaluatePipeline.model_validate(
        {
            "corpora": {"test": {"files": [str(place / "corpus" / "*.tar")]}},
            "store": {"path": str(place / "store"), "corpus": "test"},
            "teachers": {"teacher": {"folder": str(place / "teacher"), "embed_dim": 32}},
            "train": {"students": runs},
            "evaluate": {"out": str(place / "out"), "zero_shot": {"test": dataset}, "batch_size": 50, "threads": 1},
        }
    )


def evaluate(pipeline, results, *, models=None, **settings):
    """Evaluate models of a pipeline on its set, and return accuracies as the table has them."""
    entries = pipeline_sets(pipeline).values()
    evaluations = plan(addresses_of(models, pipeline), entries, tasks=(), data_root=results)
    settings = {"teachers": pipeline.teachers, "batch_size": 50, "resamples": 40, **settings}
    Suite(Settings(results=results, data_root=results, **settings)).run_all(evaluations)
    return by_group(results_on(results, task="zero_shot", dataset="test"))


@pytest.fixture(scope="module")
def results(place):
    """The results of all models."""
    evaluate(pipeline_of(place), place / "results")
    return place / "results"


def found(results):
    return {one.model.name: one for one in read_results(results)}


def labelled_images(place):
    found = []
    for path in sorted((place / "corpus").glob("*.tar")):
        with tarfile.open(path) as tar:
            content = {member.name: tar.extractfile(member).read() for member in tar}
        for name in sorted(name for name in content if name.endswith(".jpg")):
            record = json.loads(content[name.replace(".jpg", ".json")])
            found.append((Image.open(io.BytesIO(content[name])), record["finding"], record["modality"]))
    return found


def by_open_clip(place, name):
    """Accuracy by modality, one image and one prompt at a time, with open_clip's own preprocessing."""
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{place / name}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{place / name}")
    model.eval()
    right: dict[str, list[bool]] = {group: [] for group in CLASSES}
    with torch.no_grad():
        classes = {}
        for group, labels in CLASSES.items():
            shown = "CT slice" if group == "ct" else group
            rows = [
                sum(
                    model.encode_text(tokenize([text.format(group=shown, label=label)]), normalize=True)[0]
                    for text in TEMPLATES
                )
                for label in labels
            ]
            classes[group] = torch.stack([row / row.norm() for row in rows])
        for image, label, group in labelled_images(place):
            feature = model.encode_image(transform(image)[None])[0]
            right[group].append(CLASSES[group][int((classes[group] @ feature).argmax())] == label)
    return {group: float(np.mean(answers)) for group, answers in right.items()}


def test_models_are_teachers_and_students_with_their_roles_whatever_the_recipe(results):
    assert {name: record.model.role for name, record in found(results).items()} == {
        "teacher": "teacher",
        "distilled": "student",
        "task_only": "task_only",
        ORACLE: "oracle",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [("teacher", r"train\.students\.teacher: a teacher has that name"), ("oracle", "no model may be called oracle")],
)
def test_a_student_with_a_name_that_is_taken_is_refused(place, name, message, tmp_path):
    shutil.copytree(place / "distilled", tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        addresses_of(None, pipeline_of(place, students=(name,), folder=tmp_path))


def test_a_named_student_that_is_not_trained_yet_is_refused_with_the_command_that_trains_it(place):
    pipeline = pipeline_of(place, students=("distilled", "absent", "later"))
    with pytest.raises(WeightsNotFoundError, match=r"absent: not trained yet") as caught:
        addresses_of(["distilled", "absent"], pipeline)
    assert caught.value.hint == "python -m train distill --pipeline NAME --student absent"


def test_students_that_are_not_trained_yet_are_left_out_when_nobody_names_them(place, caplog):
    pipeline = pipeline_of(place, students=("distilled", "absent", "later"))
    assert [address.name for address in addresses_of(None, pipeline)] == ["teacher", "distilled"]
    assert "left out: absent, later" in caplog.text
    assert "python -m train distill --pipeline NAME --student absent --student later" in caplog.text


def test_only_the_models_that_are_named_are_read(place, caplog, tmp_path):
    pipeline = pipeline_of(place, students=("distilled", "absent"))
    assert list(evaluate(pipeline, tmp_path, models=["distilled"])) == ["distilled"]
    assert "absent" not in caplog.text


def test_every_accuracy_is_what_open_clip_alone_gives(place, results):
    models = by_group(read_results(results))
    assert list(models) == ["teacher", ORACLE, "task_only", "distilled"]
    for name in ("teacher", "distilled", "task_only"):
        record = found(results)[name]
        assert (record.excluded, record.task, record.n) == ({}, "zero_shot", 72)
        assert record.details["groups"] == dict.fromkeys(CLASSES, 8)
        assert models[name]["by_modality"] == by_open_clip(place, name)
        assert models[name]["macro_accuracy"] == pytest.approx(np.mean(list(models[name]["by_modality"].values())))
    assert models["teacher"]["by_modality"] != models["distilled"]["by_modality"]


def test_the_mean_over_groups_and_each_group_have_intervals_like_every_metric(results):
    record = found(results)["distilled"]
    assert record.primary == "group_accuracy"
    for name in ("group_accuracy", *(f"{IN_GROUP}{group}" for group in CLASSES)):
        metric = record.metrics[name]
        assert metric.low <= metric.value <= metric.high
        assert (metric.resamples, metric.failed) == (40, 0)
    assert record.cite("accuracy@ct").startswith("accuracy, ct 0.")


def test_models_evaluated_one_by_one_make_the_same_table_as_all_at_once(place, results, tmp_path):
    pipeline = pipeline_of(place)
    assert ORACLE not in evaluate(pipeline, tmp_path, models=["distilled"])
    evaluate(pipeline, tmp_path, models=["teacher"])
    models = evaluate(pipeline, tmp_path, models=["task_only"])
    assert models == by_group(read_results(results))
    assert models[ORACLE]["by_modality"] == models["teacher"]["by_modality"]


def test_what_is_evaluated_already_is_not_evaluated_again(place, caplog, tmp_path):
    def evaluated(models, **settings):
        caplog.clear()
        evaluate(pipeline_of(place), tmp_path, models=models, **settings)
        return [line.split(" on ")[0] for line in caplog.messages if "zero_shot: " in line]

    caplog.set_level(logging.INFO, logger="evaluate.suite")
    assert evaluated(["teacher"]) == ["teacher"]
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*/*.json")}
    assert evaluated(["teacher"]) == []
    assert "teacher: zero_shot on test is there already" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*/*.json")} == before
    assert evaluated(["teacher", "distilled"]) == ["distilled"]
    assert evaluated(["teacher"], again=True) == ["teacher"]


def test_other_weights_prompts_or_bound_of_pixels_are_evaluated_anew(place, tmp_path):
    shutil.copytree(place / "distilled", tmp_path / "distilled")
    same = {"students": ("distilled",), "folder": tmp_path}
    out = tmp_path / "results"

    def record(**settings):
        evaluate(pipeline_of(place, **same), out, models=["distilled"], **settings)
        return found(out)["distilled"]

    first = record()
    shutil.copy2(place / "task_only" / WEIGHTS_NAME, tmp_path / "distilled")
    second = record()
    assert second.metrics != first.metrics
    same["templates"] = ["{label} {label}"]
    third = record()
    assert third.model.digest == second.model.digest
    assert third.prompts_digest != second.prompts_digest
    assert record(max_pixels=10**6).request_digest != third.request_digest


@pytest.mark.parametrize("name", ["demo", "quick", "mmkd"])
def test_the_sets_of_a_shipped_pipeline_are_entries_with_the_same_prompts(name):
    pipeline = read_pipeline(Path(__file__).parents[3] / "pipelines.yaml", name, EvaluatePipeline)
    for key, entry in pipeline_sets(pipeline).items():
        section = pipeline.evaluate.zero_shot[key]
        assert list(entry.groups) == list(section.classes)
        for group, labels in section.classes.items():
            shown = section.group_names.get(group, group)
            filled = [[text.format(group=shown, label=label) for text in section.templates] for label in labels]
            assert entry.prompts(group=group) == filled


def test_a_set_whose_corpus_the_pipeline_does_not_have_is_refused(place):
    pipeline = pipeline_of(place)
    section = pipeline.evaluate.zero_shot["test"].model_copy(update={"corpus": "absent"})
    evaluate_section = pipeline.evaluate.model_copy(update={"zero_shot": {"test": section}})
    with pytest.raises(ConfigError, match=r"zero_shot\.test\.corpus: the pipeline has no corpus 'absent'"):
        pipeline_sets(pipeline.model_copy(update={"evaluate": evaluate_section}))


def test_results_that_cannot_have_their_folder_are_noticed_before_anything_is_computed(place, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="evaluate")
    (tmp_path / "taken").write_text("precious")
    for out in ("taken", "taken/below"):
        with pytest.raises(ConfigError, match=r"taken.*: expected a folder for results"):
            evaluate(pipeline_of(place), tmp_path / out)
    assert caplog.messages == []
    assert (tmp_path / "taken").read_text() == "precious"


def test_an_unknown_model_is_refused_with_the_known_ones(place):
    with pytest.raises(ConfigError, match="no model 'absent'; it has teacher, distilled, task_only"):
        addresses_of(["absent", "teacher"], pipeline_of(place))


PAIRS = {
    "p0": (0, {"finding": "cyst", "modality": "ct"}),
    "p1": (1, {"finding": "stone", "modality": "ct"}),
    "p2": (2, {"finding": "tumor", "modality": "mri"}),
    "p3": (3, {"finding": "cyst", "modality": "ct"}),
}
SMALL = {
    "corpus": "test",
    "label": "finding",
    "group": "modality",
    "classes": {"ct": ["cyst", "stone"], "mri": ["tumor"]},
    "templates": ["{label}"],
}


def small_set(place, folder, pairs, **changes):
    """The entry of a set of four pairs."""
    write_tar(folder / "a.tar", pairs)
    pipeline = pipeline_of(place).model_dump() | {"corpora": {"test": {"files": [str(folder / "*.tar")], **changes}}}
    pipeline["evaluate"] |= {"zero_shot": {"test": SMALL}}
    return pipeline_sets(EvaluatePipeline.model_validate(pipeline))["test"]


def test_each_item_has_its_label_and_group_and_the_same_digest_wherever_the_corpus_lies(place, tmp_path):
    loaded = load_dataset(small_set(place, tmp_path, PAIRS), tmp_path)
    assert loaded.test.ids == list(PAIRS)
    assert loaded.test.groups == ["ct", "ct", "mri", "ct"]
    assert [loaded.entry.class_names[number] for number in loaded.test.targets] == ["cyst", "stone", "tumor", "cyst"]
    assert loaded.test.image_bytes(1) == image_bytes(1)
    again = load_dataset(small_set(place, tmp_path / "moved", PAIRS), tmp_path)
    assert (again.digest, again.split_digest) == (loaded.digest, loaded.split_digest)
    changed = load_dataset(small_set(place, tmp_path / "new", PAIRS | {"p0": (9, PAIRS["p0"][1])}), tmp_path)
    assert changed.digest != loaded.digest


def test_a_corpus_of_another_kind_is_read_as_extraction_reads_it(place, tmp_path):
    lines = []
    for key, (seed, record) in PAIRS.items():
        (tmp_path / f"{key}.png").write_bytes(image_bytes(seed))
        lines.append(json.dumps({"key": key, "image": f"{key}.png", **record}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    entry = small_set(place, tmp_path / "tars", PAIRS)
    files = {"files": [str(tmp_path / "a.jsonl")], "qualify_keys": True}
    table = small_set(place, tmp_path / "tars", PAIRS, **files)
    loaded, expected = load_dataset(table, tmp_path), load_dataset(entry, tmp_path)
    assert loaded.test.ids == [f"a/{key}" for key in PAIRS]
    assert loaded.test.image_digests == expected.test.image_digests
    assert loaded.test.image_bytes(2) == image_bytes(2)


def test_images_that_cannot_be_used_are_left_out_and_counted_by_reason(place, tmp_path):
    damaged = {f"q{number}": (image_bytes(number)[:60], PAIRS["p0"][1]) for number in range(2)}
    entry = small_set(place, tmp_path, PAIRS | damaged | {"r": (None, PAIRS["p1"][1])})
    evaluations = plan(addresses_of(["distilled"], pipeline_of(place)), [entry], tasks=(), data_root=tmp_path)
    (record,) = Suite(Settings(results=tmp_path / "r", data_root=tmp_path, resamples=20)).run_all(evaluations)
    assert record.n == 4
    assert record.excluded == {"there is no image": 1, "the image cannot be decoded": 2}


def test_a_group_whose_images_are_all_damaged_is_a_skipped_result(place, tmp_path):
    entry = small_set(place, tmp_path, PAIRS | {"p2": (b"no image", PAIRS["p2"][1])})
    evaluations = plan(addresses_of(["distilled"], pipeline_of(place)), [entry], tasks=(), data_root=tmp_path)
    (record,) = Suite(Settings(results=tmp_path / "r", data_root=tmp_path)).run_all(evaluations)
    assert "no image belongs to the groups mri" in record.skipped


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p1": (1, {}), "p2": (2, {}), "p3": (3, {})}, r"3 labels are not among its classes: '' \(3\)"),
        ({"p0": (0, {"finding": "tumor", "modality": "ct"})}, "'tumor' in group 'ct'"),
        ({"p0": (0, {"finding": "cyst", "modality": "oct"})}, "'cyst' in group 'oct'"),
        ({"p2": PAIRS["p0"]}, "no test item belongs to the groups mri"),
    ],
)
def test_labels_and_groups_that_are_not_listed_are_refused(place, tmp_path, changes, message):
    with pytest.raises(EvaluationError, match=message):
        load_dataset(small_set(place, tmp_path, PAIRS | changes), tmp_path)


def test_a_dataset_file_can_have_groups_too(tmp_path, place):
    write_tar(tmp_path / "data/drawn/a.tar", PAIRS)
    entry = entry_of(
        tmp_path,
        read={"format": "webdataset", "files": ["drawn/*.tar"]},
        fields={"id": "key", "label": "json.finding", "group": "json.modality"},
        split={"rule": "all_test"},
        tasks={"zero_shot": {"primary": "group_accuracy"}},
        classes={"cyst": "a cyst", "stone": "a stone", "tumor": "a tumor"},
        positive=None,
        groups={"ct": {"name": "CT slice", "classes": ["cyst", "stone"]}, "mri": {"classes": ["tumor"]}},
        templates=["{group} with {label}"],
    )
    assert entry.prompts(group="ct") == [["CT slice with a cyst"], ["CT slice with a stone"]]
    assert entry.prompts(group="mri") == [["mri with a tumor"]]
    evaluations = plan(addresses_of(["distilled"], pipeline_of(place)), [entry], tasks=(), data_root=tmp_path / "data")
    (record,) = Suite(Settings(results=tmp_path / "r", data_root=tmp_path / "data", resamples=20)).run_all(evaluations)
    assert isinstance(record, ResultRecord)
    assert record.metrics["accuracy@mri"].value == 1.0
    counts = Counter(read_predictions(tmp_path / "r", record).columns["group"].tolist())
    assert counts == {"ct": 3, "mri": 1}
