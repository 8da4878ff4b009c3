"""A model folder is what open_clip loads, before training and after."""

from __future__ import annotations

import json
import os

import open_clip
import pytest
import safetensors.torch
import torch

from store.errors import ConfigError, TeacherError, WeightsNotFoundError
from train.config import ModelSection
from train.data.captions import Tokens
from train.models.model_folder import begin_model, save_weights

CAPTIONS = ["A chest radiograph shows a pleural effusion", "Abdominal CT slice with a kidney stone", "Normal brain MRI"]


def same_weights(first, second):
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def tokens_of(student, captions=CAPTIONS):
    return Tokens.of(captions, student.tokenizer).ids_BL


def features(model, tokens_BL, size_px=64):
    pixels_BCHW = torch.randn(3, 3, size_px, size_px, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return model.encode_image(pixels_BCHW), model.encode_text(tokens_BL)


def test_a_saved_folder_loads_in_plain_open_clip_with_the_same_features(tmp_path, tiny_model):
    student = begin_model(tmp_path, ModelSection(**tiny_model), CAPTIONS, seed=3)
    save_weights(student, tmp_path)
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert torch.equal(tokenize(CAPTIONS), tokens_of(student))
    found, expected = features(model.eval(), tokenize(CAPTIONS)), features(student.model.eval(), tokens_of(student))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == (3, 32)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_saved_weights_may_be_read_by_whom_the_umask_allows(tmp_path, tiny_model, umask, mode):
    before = os.umask(umask)
    try:
        save_weights(begin_model(tmp_path, ModelSection(**tiny_model), CAPTIONS, seed=3), tmp_path)
    finally:
        os.umask(before)
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_student_says_what_its_images_and_features_must_be(tmp_path, tiny_model):
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    student = begin_model(tmp_path, ModelSection(**tiny_model, preprocess=preprocess), CAPTIONS, seed=0)
    assert (student.size_px, student.embed_dim) == (64, 32)
    assert (student.mean, student.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    save_weights(student, tmp_path)
    _, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    assert transform.transforms[-1].mean == [0.5, 0.4, 0.3]


def test_the_seed_decides_the_weights_and_leaves_torchs_own_generator_alone(tmp_path, tiny_model):
    section = ModelSection(**tiny_model)
    first = begin_model(tmp_path / "first", section, CAPTIONS, seed=3)
    before = torch.random.get_rng_state()
    again = begin_model(tmp_path / "again", section, CAPTIONS, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = begin_model(tmp_path / "other", section, CAPTIONS, seed=4)
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_captions_decide_the_vocabulary_whatever_their_order(tmp_path, tiny_model):
    section = ModelSection(**tiny_model)
    begin_model(tmp_path / "first", section, CAPTIONS, seed=0)
    begin_model(tmp_path / "again", section, CAPTIONS[::-1], seed=0)
    vocabularies = [(tmp_path / name / "tokenizer.json").read_text() for name in ("first", "again")]
    assert vocabularies[0] == vocabularies[1]
    config = json.loads((tmp_path / "first" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["vocab_size"] == len(json.loads(vocabularies[0])["model"]["vocab"]) <= 300


def test_a_caption_ends_with_the_token_at_which_the_text_tower_pools(tmp_path, tiny_model):
    student = begin_model(tmp_path, ModelSection(**tiny_model), CAPTIONS, seed=0)
    tokens_BL = tokens_of(student, [*CAPTIONS, "kidney " * 100])
    assert tokens_BL.shape == (4, 24)
    assert ((tokens_BL == 3).sum(dim=1) == 1).all()


def test_a_tokenizer_that_is_not_here_is_asked_for_by_file_and_repository(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as the variable of that name does
    name = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    config = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"hf_model_name": name, "hf_tokenizer_name": name}}
    with pytest.raises(
        WeightsNotFoundError, match=rf"hf_tokenizer_name: {name} is no folder with a tokenizer"
    ) as caught:
        begin_model(tmp_path, ModelSection(config=config), [], seed=0)
    assert (
        f"put config.json and vocab.txt (or tokenizer.json and tokenizer_config.json) of hf {name}" in caught.value.hint
    )


def test_init_starts_from_the_weights_and_tokenizer_of_another_folder(tmp_path, tiny_model):
    source = begin_model(tmp_path / "source", ModelSection(**tiny_model), CAPTIONS, seed=7)
    save_weights(source, tmp_path / "source")
    (tmp_path / "source" / "train.json").write_text("{}")
    started = begin_model(tmp_path / "next", ModelSection(init=str(tmp_path / "source")), ["other words"], seed=1)
    assert same_weights(source, started)
    assert torch.equal(tokens_of(source), tokens_of(started))
    assert not (tmp_path / "next" / "train.json").exists()
    assert not (tmp_path / "next" / "open_clip_model.safetensors").exists()


def test_init_from_a_folder_without_weights_says_so(tmp_path, tiny_model):
    begin_model(tmp_path / "source", ModelSection(**tiny_model), CAPTIONS, seed=7)
    with pytest.raises(
        WeightsNotFoundError, match=r"source: not a model folder.*open_clip_model\.safetensors"
    ) as caught:
        begin_model(tmp_path / "next", ModelSection(init=str(tmp_path / "source")), CAPTIONS, seed=1)
    assert "model.init" in caught.value.hint


def test_init_from_weights_that_are_cut_or_another_models_says_so(tmp_path, tiny_model):
    source = begin_model(tmp_path / "source", ModelSection(**tiny_model), CAPTIONS, seed=7)
    save_weights(source, tmp_path / "source")
    file = tmp_path / "source" / "open_clip_model.safetensors"
    whole = file.read_bytes()
    other = safetensors.torch.save({"logit_scale": torch.ones(())})
    for content in (whole[:-10], other):
        file.write_bytes(content)
        with pytest.raises(TeacherError, match=r"model\.init: .*damaged, or not the weights of the model"):
            begin_model(tmp_path / "next", ModelSection(init=str(tmp_path / "source")), CAPTIONS, seed=1)


@pytest.mark.parametrize(
    "broken",
    [
        {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 32, "widht": 3}},
        {"text_cfg": {"context_length": 24, "width": 32, "heads": 3, "layers": 1}},
    ],
    ids=["unknown field", "heads that do not divide the width"],
)
def test_a_configuration_that_open_clip_cannot_build_is_a_config_error(tmp_path, tiny_model, broken):
    section = ModelSection(config={**tiny_model["config"], **broken}, vocabulary=300)
    with pytest.raises(ConfigError, match="open_clip cannot build the configured model") as caught:
        begin_model(tmp_path, section, CAPTIONS, seed=0)
    assert "model_cfg" in caught.value.hint


def test_a_model_without_embed_dim_is_a_config_error(tmp_path, tiny_model):
    config = {name: value for name, value in tiny_model["config"].items() if name != "embed_dim"}
    with pytest.raises(ConfigError, match="embed_dim"):
        begin_model(tmp_path, ModelSection(config=config, vocabulary=300), CAPTIONS, seed=0)


def test_a_student_with_clips_tokenizer_reads_words_of_any_length_and_ordinary_captions_as_open_clip_does(
    tmp_path, tiny_model
):
    config = {**tiny_model["config"], "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1}}
    student = begin_model(tmp_path, ModelSection(config=config), CAPTIONS, seed=3)
    plain = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    captions = [*CAPTIONS, "pneumothorax" * 30]
    assert torch.equal(tokens_of(student, captions), plain(captions))
    ids_BL = tokens_of(student, ["pneumothorax" * 30, "pneumothorax" * 10_000])
    assert torch.equal(ids_BL[0], ids_BL[1])
