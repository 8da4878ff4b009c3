"""A finished run as a folder of its own: open_clip computes the same from it, and its card says on whose terms."""

from __future__ import annotations

import json
import shutil

import open_clip
import pytest
import torch
import yaml
from typer.testing import CliRunner

from evaluate.models.addresses import parse_address
from evaluate.models.opening import facts_of
from store.errors import ConfigError, SpecMismatchError, TeacherError, WeightsNotFoundError
from tests.extract import authors_files as files
from train.cli.program import app
from train.config import ModelSection, TrainPipeline
from train.export.model_card import Card, TeacherTerms, is_restricted, render
from train.export.student_folder import begun_from, export
from train.models.model_folder import begin_model, save_weights
from train.recipes.fit_projections import project
from train.runtime.origin import Origin, read_origin
from train.trainer import stages as runs

CAPTIONS = ["A chest radiograph shows a pleural effusion", "Abdominal CT slice with a kidney stone"]
TEXTLESS = {"model_cfg": {"text_cfg": {}}}
NOTES = {
    "alpha": {"source": "hf someone/alpha", "licence": "CC-BY-NC-4.0"},
    "beta": {"source": "hf someone/beta", "licence": None},
}


@pytest.fixture
def trained(tmp_path, make_store, phantom, tiny_model):
    """The folder with a student, a model of stage 1 that it began with, and the store it was distilled from."""
    store = make_store()
    for teacher, notes in NOTES.items():
        path = tmp_path / "store/specs" / f"{teacher}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "notes": notes}))
    optimization = {"steps": 1, "batch_size": 16, "lr": 1e-3}
    stage_1 = {"corpus": "phantom", "out": str(tmp_path / "stage1"), "model": tiny_model}
    student = {"recipe": "paper", "out": str(tmp_path / "student"), "model": {"init": str(tmp_path / "stage1")}}
    pipeline = TrainPipeline.model_validate(
        {
            "corpora": {"phantom": {"files": phantom}},
            "store": {"path": str(store.location), "corpus": "phantom"},
            "train": {
                "pretrain": {"stage1": {**stage_1, "optimization": optimization}},
                "project": {
                    "out": str(tmp_path / "p"),
                    "latent_dim": 32,
                    "hidden_dim": 16,
                    "steps": 2,
                    "batch_size": 16,
                },
                "students": {"student": {**student, "optimization": optimization}},
            },
        }
    )
    runs.pretrain(pipeline, "stage1", pipeline.train.pretrain["stage1"])
    project(pipeline, pipeline.train.project)
    runs.distill(pipeline, "student", pipeline.train.students["student"])
    return tmp_path


def features(folder):
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        return model.eval().encode_image(pixels_BCHW), model.encode_text(tokenize(CAPTIONS))


def test_an_exported_student_computes_the_same_in_plain_open_clip_wherever_it_lies(trained, tmp_path_factory):
    before = features(trained / "student")
    export(trained / "student", trained / "out", store=str(trained / "store"))
    moved = shutil.move(trained / "out", tmp_path_factory.mktemp("elsewhere") / "model")
    shutil.rmtree(trained / "student")
    for ours, theirs in zip(features(moved), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    names = {path.name for path in moved.iterdir()}
    assert {"README.md", "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"} <= names
    assert not names & {"train.json", "metrics.jsonl"}
    facts = facts_of(parse_address(f"local-dir:{moved}"), teachers={})
    assert (facts.role, facts.teachers) == ("student", ("alpha", "beta"))


def test_the_card_of_a_student_says_teachers_terms_recipe_and_where_it_began(trained):
    (trained / "results.json").write_text('{"zero_shot": {"accuracy": 0.5}}')
    export(trained / "student", trained / "out", store=str(trained / "store"), results=trained / "results.json")
    card = (trained / "out/README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["library_name"], header["license"]) == ("open_clip", "other")
    assert "**Not for commercial use, or for research alone:** it was distilled from alpha (CC-BY-NC-4.0)" in card
    assert "No licence is stated for the weights of beta" in card
    assert "| alpha | hf someone/alpha | CC-BY-NC-4.0 |" in card
    assert '"recipe": "paper"' in card
    assert "\n- stage1\n" in card
    assert "- 64 pairs of 2 files: " in card
    assert '"accuracy": 0.5' in card


def test_a_student_is_not_exported_without_its_teachers_terms(trained):
    with pytest.raises(ConfigError, match="distilled from alpha, beta, whose terms travel on with it") as caught:
        export(trained / "student", trained / "out")
    assert "--store" in caught.value.hint
    spec = trained / "store/specs/beta.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "weights_sha256": "1" * 64}))
    with pytest.raises(SpecMismatchError, match="other features of beta than"):
        export(trained / "student", trained / "out", store=str(trained / "store"))
    assert not (trained / "out").exists()


def test_a_model_of_stage_one_has_no_teachers_and_says_its_corpus(trained):
    export(trained / "stage1", trained / "out")
    card = (trained / "out/README.md").read_text()
    assert "## Teachers" not in card
    assert "No other model had a part in it" in card
    assert "- pairs of 2 files: " in card
    assert read_origin(trained / "out") == Origin(role="task_only")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"role": "teacher"}', "role: expected one of 'student', 'task_only', got 'teacher'"),
        ('{"role": "student", "teachers": [1]}', "teachers.0: expected text, got 1"),
        ("[" * 100_000, "mmkd.json: "),
        ("", "mmkd.json: "),
    ],
)
def test_a_damaged_origin_is_refused_by_file_and_key(tmp_path, text, message):
    (tmp_path / "mmkd.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_origin(tmp_path)


def test_a_folder_without_an_origin_has_none(tmp_path):
    assert read_origin(tmp_path) is None


@pytest.fixture
def bert_run(tmp_path):
    """A finished run whose text tower is one of transformers, from a folder of this machine."""
    sizes = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    files.write_bert_folder(tmp_path / "bert", {**sizes, "intermediate_size": 64})
    text = {"hf_model_name": str(tmp_path / "bert"), "hf_tokenizer_name": str(tmp_path / "bert"), "context_length": 20}
    text |= {"hf_model_pretrained": False, "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    vision = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 64}
    section = ModelSection(config={"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})
    run = tmp_path / "run"
    save_weights(begin_model(run, section, [], seed=1), run)
    record = {"run": {"optimization": {"steps": 1}, "model": json.loads(section.model_dump_json())}}
    (run / "train.json").write_text(json.dumps(record))
    return run


def test_a_text_tower_of_this_machine_goes_along_and_the_card_says_what_to_change_after_a_move(bert_run, tmp_path):
    before = features(bert_run)
    export(bert_run, tmp_path / "out")
    shutil.rmtree(tmp_path / "bert")
    for ours, theirs in zip(features(tmp_path / "out"), before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    card = (tmp_path / "out/README.md").read_text()
    assert f"read from `{tmp_path}/out/text`: after moving this folder" in card


def test_a_text_tower_on_the_hub_keeps_its_name_or_is_given(bert_run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = bert_run / "open_clip_config.json"
    path.write_text(path.read_text().replace(str(tmp_path / "bert"), "someone/their-bert"))
    with pytest.raises(TeacherError, match="open_clip cannot build the model") as caught:
        export(bert_run, tmp_path / "out")
    assert caught.value.hint == "without a network --text FOLDER gives config.json and tokenizer of someone/their-bert"
    export(bert_run, tmp_path / "out", text=tmp_path / "bert")
    assert all(feature.isfinite().all() for feature in features(tmp_path / "out"))


def _no_record(run):
    (run / "train.json").unlink()


def _no_weights(run):
    (run / "open_clip_model.safetensors").unlink()


def _cut_weights(run):
    path = run / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _no_tower(run):
    shutil.rmtree(run.parent / "bert")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (_no_record, ConfigError, r"not the folder of a finished run: train\.json missing"),
        (_no_weights, ConfigError, r"open_clip_model\.safetensors missing"),
        (_cut_weights, TeacherError, "not a readable safetensors file"),
        (_no_tower, WeightsNotFoundError, r"config\.json: missing, but the text tower is built from it"),
    ],
)
def test_what_is_no_finished_run_is_refused_and_nothing_is_left(bert_run, tmp_path, change, error, says):
    change(bert_run)
    with pytest.raises(error, match=says):
        export(bert_run, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_a_card_names_the_tag_and_the_teachers_of_the_student_that_a_run_began_with(trained):
    assert begun_from({"init": "somewhere/ViT-B-32/openai"}, TEXTLESS) == ["open_clip ViT-B-32/openai"]
    student, stage_1 = begun_from({"init": str(trained / "student")}, TEXTLESS)
    assert student.startswith("student, distilled from alpha, beta: their terms travel on too")
    assert stage_1 == "stage1"


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("CC-BY-NC-4.0", True),
        ("MIT; research use", True),
        ("Non-Commercial", True),
        ("MIT", False),
        ("weights not stated; code MIT", False),
        ("CC0-1.0", False),
        ("public domain, in sync", False),
    ],
)
def test_licences_that_forbid_something_are_told_from_others(licence, restricted):
    assert is_restricted(licence) == restricted


def test_a_card_lists_common_licences_of_pairs_and_adds_up_the_rest():
    model = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
    licences = {f"licence {number:02d}": 100 - number for number in range(23)}
    teachers = [TeacherTerms(name="a", source="hf a/a", licence="MIT", spec_hash="ab" * 32)]
    text = render(Card(name="x", architecture=model, pair_licences=licences, teachers=teachers))
    assert "- 100 pairs: licence 00" in text
    assert "licence 20" not in text
    assert f"- {80 + 79 + 78} pairs: other licences" in text
    assert "Not for commercial use" not in text


def test_the_command_exports_and_refuses_a_folder_that_is_there(bert_run, tmp_path):
    arguments = ["export", str(bert_run), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    before = (tmp_path / "out/README.md").read_bytes()
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)
    assert (tmp_path / "out/README.md").read_bytes() == before


def test_a_licence_of_a_corpus_is_no_structure_of_the_card():
    evil = "CC BY\n# Approved for clinical use\n[x](http://host) | <script>"
    text = render(
        Card(name="s", architecture={"vision_cfg": {}, "text_cfg": {}, "embed_dim": 4}, pair_licences={evil: 3})
    )
    [line] = [line for line in text.splitlines() if "CC BY" in line]
    assert line == r"- 3 pairs: CC BY\\n\# Approved for clinical use\\n\[x\](http://host) \| \<script\>"
    assert not [line for line in text.splitlines() if line.startswith("# Approved")]
