"""A teacher and two students on a labelled corpus, against the same done with open_clip alone."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from evaluate.config import EvaluatePipeline
from evaluate.run import ORACLE, candidates, evaluate, read_labelled
from extract.phantom import FINDINGS, MODALITIES, write_corpus
from store.errors import ConfigError, CorpusError, WeightsNotFoundError
from train.config import ModelSection
from train.model import begin_model, save_weights

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
    write_corpus(folder / "corpus", rows=72, seed=9, split="test", size_px=80)
    captions = [f"{modality} with {name}" for modality, names in CLASSES.items() for name in names]
    for seed, name in enumerate(["teacher", "distilled", "task_only"]):
        student = begin_model(folder / name, ModelSection(**MODEL), captions, seed=seed)
        with torch.no_grad():  # as in evaluation: batch statistics are of the images, not of nothing
            student.model.train().encode_image(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))
        save_weights(student, folder / name)
    return folder


def pipeline_of(place, *, label="finding", students=("distilled", "task_only"), names=("paper", "task_only")):
    runs = {
        name: {"recipe": recipe, "out": str(place / name), "model": MODEL, "optimization": OPTIMIZATION}
        for name, recipe in zip(students, names, strict=True)
    }
    dataset = {
        "corpus": "test",
        "label": label,
        "group": "modality",
        "classes": CLASSES,
        "group_names": {"ct": "CT slice"},
        "templates": TEMPLATES,
    }
    return EvaluatePipeline.model_validate(
        {
            "corpora": {"test": {"files": [str(place / "corpus" / "*.tar")]}},
            "store": {"path": str(place / "store"), "corpus": "test"},
            "teachers": {"teacher": {"folder": str(place / "teacher"), "embed_dim": 32}},
            "train": {"students": runs},
            "evaluate": {"out": str(place / "results"), "zero_shot": {"test": dataset}, "batch_size": 50, "threads": 1},
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
    assert found["distilled"].entry.folder == str(place / "distilled")
    assert found["distilled"].entry.embed_dim == 32


def test_a_student_with_the_name_of_a_teacher_is_refused(place):
    with pytest.raises(ConfigError, match=r"train\.students\.teacher: a teacher has that name"):
        candidates(pipeline_of(place, students=("teacher",), names=("paper",)))


def test_a_student_that_is_not_trained_yet_is_refused(place):
    with pytest.raises(WeightsNotFoundError, match="absent"):
        candidates(pipeline_of(place, students=("absent",), names=("paper",)))


def test_every_accuracy_is_what_open_clip_alone_gives(place):
    content = evaluate(pipeline_of(place), "test")
    assert json.loads((place / "results" / "test.json").read_text()) == content
    assert (content["dataset"], content["task"]) == ("test", "zero_shot")
    assert content["images"] == dict.fromkeys(CLASSES, 8)
    assert list(content["models"]) == ["teacher", "distilled", "task_only", ORACLE]
    for name in ("teacher", "distilled", "task_only"):
        entry = content["models"][name]
        assert entry["by_modality"] == by_open_clip(place, name)
        assert entry["macro_accuracy"] == pytest.approx(np.mean(list(entry["by_modality"].values())))
    assert content["models"]["teacher"]["by_modality"] != content["models"]["distilled"]["by_modality"]


def test_the_oracle_is_of_teachers_only(place):
    models = evaluate(pipeline_of(place), "test")["models"]
    assert models[ORACLE]["role"] == "oracle"
    assert models[ORACLE]["by_modality"] == models["teacher"]["by_modality"]
    assert ORACLE not in evaluate(pipeline_of(place), "test", models=["distilled"])["models"]


def test_an_unknown_model_is_refused_with_the_known_ones(place):
    with pytest.raises(ConfigError, match="no model absent in the pipeline; it has teacher, distilled, task_only"):
        evaluate(pipeline_of(place), "test", models=["absent", "teacher"])


def test_a_corpus_without_the_label_field_is_refused(place):
    pipeline = pipeline_of(place, label="diagnosis")
    with pytest.raises(CorpusError, match="expected an image and the text fields 'diagnosis' and 'modality'"):
        read_labelled(pipeline.corpora["test"], pipeline.evaluate.zero_shot["test"])
