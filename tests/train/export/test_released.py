"""The authors' released student, on files of its layout with random weights: converted, open_clip computes it."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import basic_clean, whitespace_clean
from torch.nn import functional
from transformers import BertTokenizer
from typer.testing import CliRunner

from store.errors import ConfigError, TeacherError, WeightsNotFoundError
from tests.extract import authors_files as files
from tests.extract import teacher_references as reference
from train.cli.program import app
from train.export.released import RELEASED_MODEL, convert_released, read_released

BERT = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
EMBED, INNER = 24, 28
TINY = {
    **RELEASED_MODEL,
    "embed_dim": EMBED,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16},
}
CAPTIONS = ["Axial CT of the chest showing a left lung nodule", "liver", "effusion (arrow) &amp; 3.5 cm " * 40]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A checkpoint as the authors' fork of open_clip writes it, the text tower's folder, and its plain tensors."""
    root, draw = tmp_path_factory.mktemp("released"), files.Draw(5)
    vision, text = files.vit(draw, TINY), files.bert(draw, BERT, pooler=False)
    projection = draw.matrix(INNER, 32), draw.matrix(EMBED, INNER)
    state = vision | {f"text_encoder.transformer.{name}": value for name, value in text.items()}
    state |= {"text_encoder.proj.0.weight": projection[0], "text_encoder.proj.2.weight": projection[1]}
    state |= {"text_encoder.transformer.embeddings.position_ids": torch.arange(512)[None]}
    state |= {"logit_scale": torch.tensor(4.5)}
    files.write_training_checkpoint(root / "MMKD_B16.pth", state, numpy_scalars=True)
    files.write_bert_folder(root / "text", BERT)
    return root, vision, text, projection


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    """The folder made of it."""
    out = tmp_path_factory.mktemp("converted") / "student"
    convert_released(released[0] / "MMKD_B16.pth", out, text=released[0] / "text", model=TINY)
    return out


def test_open_clip_loads_the_folder_and_computes_what_the_authors_network_does(released, converted):
    root, vision, text, projection = released
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{converted}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{converted}")
    pixels_BCHW = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    tokenizer = BertTokenizer.from_pretrained(str(root / "text"))
    cleaned = [whitespace_clean(basic_clean(caption)) for caption in CAPTIONS]
    encoded = tokenizer(cleaned, padding="max_length", truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        image = reference.vit_image(vision, TINY, pixels_BCHW, act=reference.quick_gelu)
        caption = reference.bert_mlp(text, BERT, projection, encoded["input_ids"])
        ours = model.eval().encode_image(pixels_BCHW), model.encode_text(tokenize(CAPTIONS))
    for found, expected in zip(ours, (image, caption), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert functional.cosine_similarity(found[0], found[1], dim=0) < 0.999
    assert model.logit_scale.item() == pytest.approx(4.5)
    normalize = preprocess.transforms[-1]
    assert list(normalize.mean) == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_the_folder_holds_weights_as_safetensors_and_says_whose_they_are(converted):
    assert not list(converted.rglob("*.pth")) + list(converted.rglob("*.bin"))
    card = (converted / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: open_clip\n")
    assert "MMKD-CLIP's authors released" in card
    assert "CC-BY-NC-4.0" in card
    config = json.loads((converted / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == f"{converted}/text"
    assert not list(converted.parent.glob(".*"))


BAD = {
    "an HTML page": (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "an HTML page"),
    "a Git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git-LFS pointer"),
    "nothing": (b"", "empty"),
    "noise": (b"\x80\x02abc" * 40, "not a"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_checkpoint_is_refused_by_what_it_is(tmp_path, what):
    content, says = BAD[what]
    (tmp_path / "MMKD_B16.pth").write_bytes(content)
    with pytest.raises(TeacherError, match=says):
        read_released(tmp_path / "MMKD_B16.pth")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"state_dict": Hostile(tmp_path / "ran")}, tmp_path / "MMKD_B16.pth")
    with pytest.raises(TeacherError, match=r"refused: its pickle asks for .*open"):
        read_released(tmp_path / "MMKD_B16.pth")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_is_cut_short_is_refused(released, tmp_path):
    content = (released[0] / "MMKD_B16.pth").read_bytes()
    (tmp_path / "MMKD_B16.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(TeacherError, match="not a"):
        read_released(tmp_path / "MMKD_B16.pth")


def _drop(state):
    del state["module.visual.proj"]


def _another(state):
    state["module.visual.head.weight"] = torch.ones(2)


def _reshape(state):
    state["module.text_encoder.proj.0.weight"] = torch.ones(3, 3)


def _not_finite(state):
    state["module.visual.proj"][0, 0] = np.inf


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop, r"1 missing: visual\.proj"),
        (_another, r"1 not the model's: visual\.head\.weight"),
        (_reshape, r"1 of another shape: text\.proj\.0\.weight \(3, 3\) instead of \(28, 32\)"),
        (_not_finite, r"1 not finite: visual\.proj"),
    ],
)
def test_weights_of_another_model_are_refused_and_leave_nothing(released, tmp_path, change, says):
    content = torch.load(released[0] / "MMKD_B16.pth", weights_only=False)
    change(content["state_dict"])
    torch.save(content, tmp_path / "MMKD_B16.pth")
    with pytest.raises(TeacherError, match=says):
        convert_released(tmp_path / "MMKD_B16.pth", tmp_path / "out", text=released[0] / "text", model=TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MMKD_B16.pth"]


def test_a_folder_that_is_there_is_left_alone(released, tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ConfigError, match="is there already and not empty"):
        convert_released(released[0] / "MMKD_B16.pth", tmp_path, text=released[0] / "text", model=TINY)
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_missing_file_and_a_missing_text_tower_are_said(released, tmp_path):
    with pytest.raises(WeightsNotFoundError, match="no such file"):
        read_released(tmp_path / "MMKD_B16.pth")
    with pytest.raises(WeightsNotFoundError, match=r"config\.json: missing, but the text tower is built from it"):
        convert_released(released[0] / "MMKD_B16.pth", tmp_path / "out", text=tmp_path, model=TINY)


def test_the_command_refuses_a_checkpoint_of_another_size_by_its_tensors(released, tmp_path):
    """The command knows the released size alone, which the tiny file is not."""
    arguments = ["convert-released", str(released[0] / "MMKD_B16.pth"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--text", str(released[0] / "text")])
    assert isinstance(done.exception, TeacherError)
    assert "of another shape: " in str(done.exception)
