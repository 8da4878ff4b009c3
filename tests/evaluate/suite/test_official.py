"""``--official`` against MMKD-CLIP's released protocol, written down anew with scikit-learn and torch."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image
from sklearn import metrics as sk
from typer.main import get_command

from evaluate.cli import commands_run
from evaluate.datasets.official import PROMPTS_FILE, official_entry
from evaluate.datasets.registry import SHIPPED, read_registry
from evaluate.results.files import read_results
from store.errors import ConfigError
from tests.evaluate.dataset_files import write_entry, write_folders
from tests.evaluate.tiny_model import write_model

WORDS = ("lung", "adenocarcinoma", "benign", "tissue", "squamous", "cell", "carcinoma", "colon", "slide", "image")
SETS = {"LC25000_lung": ["lung_aca", "lung_n", "lung_scc"], "LC25000_colon": ["colon_aca", "colon_n"]}
OURS = {"LC25000_lung": "lc25000_lung_official", "LC25000_colon": "lc25000_colon_official"}

RESAMPLES = 100
"""The released code takes 1,000; these are the first of them."""


def prompts_of(name):
    """Prompts as the released file has them: three of each class, under the class's name; these are drawn."""
    words = [label.replace("_", " ") for label in SETS[name]]
    return {f"Class {text}": [f"{form} {text}" for form in ("slide", "image", "tissue")] for text in words}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, test lists in an order that is not that of the names, images, and a clone of the released code."""
    folder = tmp_path_factory.mktemp("official")
    write_model(folder / "model", WORDS)
    root, rng = folder / "data", np.random.default_rng(5)
    path = root / PROMPTS_FILE
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{name} = {prompts_of(name)!r}\n" for name in SETS) + "IMG_SIZE = 224\n")
    for name, labels in SETS.items():
        below = root / "zeroshotclassification" / name
        (below / "test").mkdir(parents=True)
        lines = []
        for number in rng.permutation(48):
            # Rare classes, so that the way of drawing a resample matters.
            label = labels[0 if number % 6 else 1 + number // 6 % (len(labels) - 1)]
            pixels = rng.integers(0, 90, (40, 44, 3)) + 60 * labels.index(label)
            Image.fromarray(pixels.astype(np.uint8)).save(below / "test" / f"{label}{number}.png")
            lines.append(f"{label}{number}.png {label}")
        (below / "test.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def records(place):
    line = ["run", "--model", f"local-dir:{place / 'model'}", "--official", "--data-root", str(place / "data")]
    line += ["--resamples", str(RESAMPLES)]
    line += [part for name in OURS.values() for part in ("--dataset", name)]
    app = get_command(commands_run.app)
    app([*line[1:], "--results", str(place / "results")], prog_name="evaluate", standalone_mode=False)
    return {record.dataset.name: record for record in read_results(place / "results")}


def released(place, name):
    """Each metric with its interval, by the released rules."""
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{place / 'model'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{place / 'model'}")
    model.eval()
    below = place / "data/zeroshotclassification" / name
    listed = [line.split() for line in (below / "test.txt").read_text().splitlines()]
    target = np.array([SETS[name].index(label) for _, label in listed])
    with torch.no_grad():
        image = torch.cat(
            [
                model.encode_image(transform(Image.open(below / "test" / file))[None], normalize=True)
                for file, _ in listed
            ]
        )
        text = torch.stack(
            [model.encode_text(tokenize(own), normalize=True).mean(dim=0) for own in prompts_of(name).values()]
        )
        cosine = image @ torch.nn.functional.normalize(text, dim=1).T
    share = cosine.softmax(dim=1).numpy()
    two = len(SETS[name]) == 2
    average = {"average": "binary" if two else "macro", "zero_division": 0}

    def auroc(target, share):
        if two:
            return sk.roc_auc_score(target, share[:, 1] - share[:, 0])
        return sk.roc_auc_score(target, share, multi_class="ovr")

    rules = {
        "accuracy": lambda target, share: sk.accuracy_score(target, share.argmax(axis=1)),
        "official_f1": lambda target, share: sk.f1_score(target, share.argmax(axis=1), **average),
        "official_precision": lambda target, share: sk.precision_score(target, share.argmax(axis=1), **average),
        "official_recall": lambda target, share: sk.recall_score(target, share.argmax(axis=1), **average),
        "auroc": auroc,
    }
    found = {}
    for metric, rule in rules.items():
        generator, samples = np.random.default_rng(42), []
        for _ in range(RESAMPLES):
            first = [generator.choice(np.flatnonzero(target == label)) for label in np.unique(target)]
            rows = np.array([*first, *generator.integers(0, len(target), len(target) - len(first))])
            samples.append(rule(target[rows], share[rows]))
        found[metric] = (rule(target, share), *np.percentile(samples, [2.5, 97.5]))
    return found


@pytest.mark.parametrize("name", SETS)
def test_numbers_and_intervals_are_those_of_the_released_protocol(name, place, records):
    record = records[OURS[name]]
    for metric, expected in released(place, name).items():
        found = record.metrics[metric]
        assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-6), metric
        assert found.failed == 0
    assert record.metrics["official_f1"].value != record.metrics["macro_f1"].value or len(SETS[name]) > 2
    assert (record.bootstrap.mode, record.bootstrap.seed, record.logit_scale) == ("official", 42, 1.0)
    assert [each["template"] for each in record.details["prompts"]["templates"]] == ["prompt 1", "prompt 2", "prompt 3"]


def test_the_first_of_several_labels_counts_as_the_class_where_the_released_code_takes_it(place):
    rng = np.random.default_rng(3)
    labels = [("a", "b"), ("b",), ("c",), ("b", "c"), ()] * 6
    rows = [f"{number}.png,{'|'.join(own)}" for number, own in enumerate(labels)]
    root = place / "several"
    write_folders(root, {f"d/{number}.png": rng.integers(1 << 30) for number in range(30)})
    (root / "d/table.csv").write_text("\n".join(["image,label", *rows]))
    path = write_entry(
        root,
        read={"format": "table", "files": ["d/table.csv"], "image": "image"},
        fields={"label": "label", "id": "image"},
        split={"rule": "all_test"},
        classes={"a": "lung", "b": "colon", "c": "cell"},
        positive=None,
        multi_label={"by": "text", "none": [""]},
        template_sets=["xray"],
        released={"first_label": True},
    )
    line = ["--model", f"local-dir:{place / 'model'}", "--dataset", "drawn", "--datasets", str(path), "--official"]
    line += ["--data-root", str(root), "--results", str(root / "results"), "--resamples", "50"]
    get_command(commands_run.app)(line, prog_name="evaluate", standalone_mode=False)
    (record,) = read_results(root / "results")
    # An image without a label counts as one of the first class, since argmax of zeros is the first.
    assert record.details["class_items"] == [12, 12, 6]
    assert record.bootstrap.mode == "official"
    assert "official_f1" in record.metrics


def test_every_set_that_the_released_catalogue_names_has_an_entry_with_its_list():
    entries = read_registry()
    for name, ours in OURS.items():
        assert list(entries[ours].classes) == SETS[name]
        assert entries[ours].released.prompts == name
        assert entries[ours].read.files == [f"zeroshotclassification/{name}/test.txt"]


def test_released_prompts_that_are_not_there_are_said_with_what_to_fetch(tmp_path, place):
    entry = read_registry()["lc25000_lung_official"]
    with pytest.raises(ConfigError, match="which is not there") as caught:
        official_entry(entry, tmp_path)
    assert "git clone https://github.com/wangshansong1/MMKD-CLIP" in caught.value.hint
    path = tmp_path / PROMPTS_FILE
    path.parent.mkdir(parents=True)
    for text in ("LC25000_lung = print('run')\n", "other = {}\n", "LC25000_lung = {'one': ['a prompt']}\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="no dictionary of the prompts of 3 classes"):
            official_entry(entry, tmp_path)
    path.write_text("LC25000_lung = {\n")
    with pytest.raises(ConfigError, match="cannot be read as the released prompts"):
        official_entry(entry, tmp_path)


def test_a_set_that_the_released_code_does_not_name_keeps_its_prompts(tmp_path):
    entry = read_registry()["breastmnist"]
    assert official_entry(entry, tmp_path) is entry


def test_no_entry_holds_prompts_of_the_released_code():
    """They are read from the authors' file."""
    for path in SHIPPED.glob("lc25000_*.yaml"):
        assert "prompts" not in str(yaml.safe_load(path.read_text())["classes"])
