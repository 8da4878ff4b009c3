"""A pipeline's own pairs for retrieval: captions are those that the corpus maps, whatever its files are."""

from __future__ import annotations

import csv

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from evaluate.config import EvaluatePipeline, EvaluateSection
from evaluate.datasets.loading import load_dataset
from evaluate.datasets.pipeline_sets import pipeline_sets
from evaluate.models.pipeline_models import addresses_of
from evaluate.results.files import results_on
from evaluate.suite.plan import Settings, plan
from evaluate.suite.suite import Suite
from tests.evaluate.tiny_model import write_model

CAPTIONS = [f"a {size} {colour} disc" for size in ("small", "large") for colour in ("red", "green", "blue", "grey")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of eight images with captions beside them, and a table of the same with other names of columns."""
    folder = tmp_path_factory.mktemp("retrieval")
    (folder / "scans").mkdir()
    generator = np.random.default_rng(5)
    with (folder / "table.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "report", "txt"])
        for number, caption in enumerate(CAPTIONS):
            path = folder / "scans" / f"{number}.png"
            Image.fromarray(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
            path.with_suffix(".txt").write_text(caption)
            table.writerow([f"scans/{number}.png", caption, "another text"])
    write_model(folder / "teacher", CAPTIONS)
    return folder


def pipeline_of(place):
    teacher = {"folder": str(place / "teacher"), "embed_dim": 32}
    corpora = {
        "folder": {"files": [f"{place}/scans/"]},
        "table": {"files": [str(place / "table.csv")], "fields": {"caption": "report"}},
    }
    sets = {"of_folder": {"corpus": "folder"}, "of_table": {"corpus": "table"}}
    return EvaluatePipeline.model_validate(
        {
            "corpora": corpora,
            "store": {"path": str(place / "store"), "corpus": "folder"},
            "teachers": {"teacher": teacher},
            "train": {},
            "evaluate": {"out": str(place / "out"), "retrieval": sets},
        }
    )


@pytest.mark.parametrize("name", ["of_folder", "of_table"])
def test_the_captions_are_those_of_the_corpus(place, name):
    loaded = load_dataset(pipeline_sets(pipeline_of(place))[name], place)
    assert sorted(loaded.splits["test"].captions) == sorted(CAPTIONS)


def test_recall_is_what_open_clip_alone_gives(place, tmp_path):
    pipeline = pipeline_of(place)
    evaluations = plan(addresses_of(None, pipeline), pipeline_sets(pipeline).values(), tasks=(), data_root=tmp_path)
    Suite(Settings(results=tmp_path, data_root=tmp_path, teachers=pipeline.teachers, resamples=20)).run_all(evaluations)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{place / 'teacher'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{place / 'teacher'}")
    images = torch.stack([transform(Image.open(place / "scans" / f"{number}.png")) for number in range(len(CAPTIONS))])
    with torch.no_grad():
        image_ND = model.eval().encode_image(images, normalize=True)
        text_ND = model.encode_text(tokenize(CAPTIONS), normalize=True)
    score_NN = image_ND @ text_ND.T
    first = (score_NN.argmax(1) == torch.arange(len(CAPTIONS))).double().mean().item()
    for name in ("of_folder", "of_table"):
        (record,) = results_on(tmp_path, task="retrieval", dataset=name)
        assert record.metrics["i2t_recall_at_1"].value == pytest.approx(first)


def test_a_set_of_both_sections_is_for_both_tasks_over_one_corpus():
    labelled = {"corpus": "c", "label": "l", "group": "g", "classes": {"ct": ["cyst"]}, "templates": ["{label}"]}

    def read(corpus):
        sets = {"zero_shot": {"test": labelled}, "retrieval": {"test": {"corpus": corpus}}}
        return EvaluateSection.model_validate({"out": "out", **sets})

    assert read("c").own_sets == ["test"]
    with pytest.raises(ValidationError, match=r"zero_shot\.test has another corpus; sets of one name are one set"):
        read("d")
