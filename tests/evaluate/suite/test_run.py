"""A teacher and two students on a labelled corpus, against the same done with open_clip alone."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from evaluate.config import EvaluatePipeline
from evaluate.suite.results import ORACLE
from evaluate.suite.run import candidates, choose, evaluate
from extract.corpora.phantom.catalog import FINDINGS, MODALITIES
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from extract.teacher_files.model_folder import WEIGHTS_NAME
from store.errors import ConfigError, WeightsNotFoundError
from train.config import ModelSection
from train.models.model_folder import begin_model, save_weights

MODEL = {
    "vocabulary": 300,
    "config": {
        "embed_dim": 32,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 32},
        "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
    },
}
CLASSES = {modality: [finding.name for finding in FINDINGS[modality]] for modality in MODALITIES}
TEMPLATES = ["{group} showing {label}", "{label} seen on {group}"]
OPTIMIZATION = {"steps": 1, "batch_size": 2, "lr": 1e-3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus of 72 labelled pairs and three models of random weights."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_corpus(folder / "corpus", PhantomSettings(rows=72, seed=9, split="test", size_px=80))
    captions = [f"{modality} with {name}" for modality, names in CLASSES.items() for name in names]
    for seed, name in enumerate(["teacher", "distilled", "task_only"]):
        student = begin_model(folder / name, ModelSection(**MODEL), captions, seed=seed)
        with torch.no_grad():  # as in evaluation: batch statistics are of the images, not of nothing
            student.model.train().encode_image(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))
        save_weights(student, folder / name)
    return folder


def pipeline_of(place, *, out="results", students=("distilled", "task_only"), folder=None, templates=TEMPLATES):
    recipes = {name: "task_only" if name == "task_only" else "paper" for name in students}
    runs = {
        name: {"recipe": recipe, "out": str((folder or place) / name), "model": MODEL, "optimization": OPTIMIZATION}
        for name, recipe in recipes.items()
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
            "evaluate": {"out": str(place / out), "zero_shot": {"test": dataset}, "batch_size": 50, "threads": 1},
        }
    )


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


def test_candidates_are_teachers_and_students_with_their_roles(place):
    found = candidates(pipeline_of(place))
    assert {name: candidate.role for name, candidate in found.items()} == {
        "teacher": "teacher",
        "distilled": "student",
        "task_only": "task_only",
    }
    assert found["distilled"].entry().folder == str(place / "distilled")
    assert found["distilled"].entry().embed_dim == 32


@pytest.mark.parametrize(
    ("name", "message"),
    [("teacher", r"train\.students\.teacher: a teacher has that name"), ("oracle", "no model may be called oracle")],
)
def test_a_student_with_a_name_that_is_taken_is_refused(place, name, message):
    with pytest.raises(ConfigError, match=message):
        candidates(pipeline_of(place, students=(name,)))


def test_a_named_student_that_is_not_trained_yet_is_refused_with_the_command_that_trains_it(place):
    known = candidates(pipeline_of(place, students=("distilled", "absent", "later")))
    with pytest.raises(WeightsNotFoundError, match=r"absent: .*not a model folder") as caught:
        choose(known, ["distilled", "absent"])
    assert caught.value.hint == "python -m train distill --pipeline NAME --student absent"


def test_students_that_are_not_trained_yet_are_left_out_when_nobody_names_them(place, caplog):
    known = candidates(pipeline_of(place, students=("distilled", "absent", "later")))
    assert list(choose(known, None)) == ["teacher", "distilled"]
    assert "left out: absent, later" in caplog.text
    assert "python -m train distill --pipeline NAME --student absent --student later" in caplog.text


def test_only_the_models_that_are_named_are_read(place, caplog):
    pipeline = pipeline_of(place, out="named", students=("distilled", "absent"))
    assert list(evaluate(pipeline, "test", models=["distilled"])["models"]) == ["distilled"]
    assert "absent" not in caplog.text


def test_every_accuracy_is_what_open_clip_alone_gives(place):
    content = evaluate(pipeline_of(place), "test")
    assert content["excluded"] == {}
    assert json.loads((place / "results" / "test.json").read_text()) == content
    assert (content["dataset"], content["task"]) == ("test", "zero_shot")
    assert content["images"] == dict.fromkeys(CLASSES, 8)
    assert list(content["models"]) == ["teacher", "distilled", "task_only", ORACLE]
    for name in ("teacher", "distilled", "task_only"):
        entry = content["models"][name]
        assert entry["by_modality"] == by_open_clip(place, name)
        assert entry["macro_accuracy"] == pytest.approx(np.mean(list(entry["by_modality"].values())))
    assert content["models"]["teacher"]["by_modality"] != content["models"]["distilled"]["by_modality"]


def test_models_evaluated_one_by_one_make_the_same_file_as_all_at_once(place):
    pipeline = pipeline_of(place, out="one_by_one")
    assert ORACLE not in evaluate(pipeline, "test", models=["distilled"])["models"]
    evaluate(pipeline, "test", models=["teacher"])
    content = evaluate(pipeline, "test", models=["task_only"])
    assert content == evaluate(pipeline_of(place), "test")
    assert content["models"][ORACLE]["role"] == "oracle"
    assert content["models"][ORACLE]["by_modality"] == content["models"]["teacher"]["by_modality"]


def test_what_is_evaluated_already_is_not_evaluated_again(place, caplog):
    caplog.set_level(logging.INFO, logger="evaluate")
    pipeline = pipeline_of(place, out="again")
    first = evaluate(pipeline, "test", models=["teacher"])
    caplog.clear()
    assert evaluate(pipeline, "test", models=["teacher"]) == first
    assert [*caplog.messages] == [
        "test: 1 of 1 models are evaluated already: nothing to do (--overwrite evaluates them anew)"
    ]
    caplog.clear()
    assert evaluate(pipeline, "test", models=["teacher", "distilled"])["models"].keys() > first["models"].keys()
    assert caplog.messages[0] == "test: 1 of 2 models are evaluated already"
    assert [line.split(" on ")[0] for line in caplog.messages[1:]] == ["distilled"]
    caplog.clear()
    evaluate(pipeline, "test", models=["teacher"], overwrite=True)
    assert [line.split(" on ")[0] for line in caplog.messages] == ["teacher"]


def test_other_weights_or_other_prompts_are_evaluated_anew(place, tmp_path):
    shutil.copytree(place / "distilled", tmp_path / "distilled")
    same = {"out": "changed", "students": ("distilled",), "folder": tmp_path}
    pipeline = pipeline_of(place, **same)
    first = evaluate(pipeline, "test", models=["distilled"])
    shutil.copy2(place / "task_only" / WEIGHTS_NAME, tmp_path / "distilled")
    second = evaluate(pipeline, "test", models=["distilled"])
    assert second["models"]["distilled"] != first["models"]["distilled"]
    prompted = pipeline_of(
        place, out="changed", students=("distilled",), folder=tmp_path, templates=["{label} {label}"]
    )
    third = evaluate(prompted, "test", models=["distilled"])
    assert third["digests"]["models"] == second["digests"]["models"]
    assert third["digests"]["dataset"] != second["digests"]["dataset"]


def test_results_that_cannot_have_their_folder_are_noticed_before_anything_is_computed(place, caplog):
    caplog.set_level(logging.INFO, logger="evaluate")
    (place / "taken").write_text("precious")
    for out in ("taken", "taken/below"):
        with pytest.raises(ConfigError, match=r"evaluate\.out: .*taken.* cannot be a folder"):
            evaluate(pipeline_of(place, out=out), "test")
    assert caplog.messages == []
    assert (place / "taken").read_text() == "precious"


def test_an_unknown_model_is_refused_with_the_known_ones(place):
    with pytest.raises(ConfigError, match="no model absent in the pipeline; it has teacher, distilled, task_only"):
        evaluate(pipeline_of(place), "test", models=["absent", "teacher"])
