"""Beginning with a model that open_clip knows by name and tag."""

from __future__ import annotations

import json

import open_clip
import open_clip.pretrained
import pytest
import torch

from store.errors import ConfigError, WeightsNotFoundError
from tests.train.vit import WORDS, vit_model
from train.config import ModelSection
from train.models.model_folder import begin_model, save_weights
from train.models.pretrained import Tag, tag_of


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A tiny model among those that open_clip knows; its weights are not on this machine yet."""
    config = vit_model()["config"]
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "tiny-vit.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(folder)
    tags = {"here": {"url": "https://nowhere.invalid/tiny-weights.pt", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tags)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".cache" / "clip" / "tiny-weights.pt"


def test_a_tag_whose_weights_are_here_is_where_training_begins(tmp_path, known):
    torch.manual_seed(3)
    published = open_clip.create_model("tiny-vit")
    known.parent.mkdir(parents=True)
    torch.save(published.state_dict(), known)
    # As the configuration gives it: behind the folder of its file.
    student = begin_model(tmp_path / "out", ModelSection(init=f"{tmp_path}/tiny-vit/here"), WORDS, seed=0)
    expected = published.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in student.model.state_dict().items())
    assert (student.mean, student.size_px, student.embed_dim) == ((0.5, 0.4, 0.3), 32, 32)
    save_weights(student, tmp_path / "out")
    again, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(WORDS)
    assert torch.equal(tokens, open_clip.get_tokenizer("tiny-vit")(WORDS))
    torch.testing.assert_close(again.encode_text(tokens), published.eval().encode_text(tokens))


def test_weights_that_are_not_here_are_named_with_the_place_and_how_to_get_them(tmp_path, known):
    with pytest.raises(WeightsNotFoundError, match=r"weights here of tiny-vit are not on this machine") as caught:
        begin_model(tmp_path / "out", ModelSection(init=f"{tmp_path}/tiny-vit/here"), WORDS, seed=0)
    assert str(known) in str(caught.value)
    assert "create_model('tiny-vit', pretrained='here')" in caught.value.hint


def test_weights_of_the_hub_are_looked_for_in_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = f"{tmp_path}/ViT-B-16/datacomp_xl_s13b_b90k"
    with pytest.raises(WeightsNotFoundError, match=r"open_clip_pytorch_model\.bin of laion/CLIP-ViT-B-16-DataComp"):
        begin_model(tmp_path / "out", ModelSection(init=name), WORDS, seed=0)


def test_a_folder_is_a_folder_even_if_it_is_called_like_a_tag(tmp_path):
    (tmp_path / "ViT-B-32" / "openai").mkdir(parents=True)
    assert tag_of(str(tmp_path / "ViT-B-32" / "openai")) is None
    assert tag_of("somewhere/ViT-B-32/openai") == Tag("ViT-B-32", "openai")
    assert tag_of("somewhere/runs/stage1") is None


def test_an_image_tower_is_taken_from_a_tag_or_a_file_with_its_logit_scale(tmp_path, known):
    torch.manual_seed(4)
    published = open_clip.create_model("tiny-vit")
    published.logit_scale.data.fill_(4.6)
    known.parent.mkdir(parents=True)
    torch.save(published.state_dict(), known)
    for source in ("tiny-vit/here", f"tiny-vit/{known}"):
        student = begin_model(tmp_path / "out", ModelSection(**vit_model(), vision_from=source), WORDS, seed=0)
        expected, found = published.visual.state_dict(), student.model.visual.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
        # The released stage 1 loads the whole file, and what fits is the image tower and this.
        assert student.model.logit_scale.item() == pytest.approx(4.6)
    wider = vit_model(width=48)
    with pytest.raises(ConfigError, match=r"image tower of tiny-vit/here is not that of model\.config\.vision_cfg"):
        begin_model(tmp_path / "other", ModelSection(**wider, vision_from="tiny-vit/here"), WORDS, seed=0)


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("tiny-vit/here", WeightsNotFoundError, r"vision_from: the weights here of tiny-vit are not on this machine"),
        (
            "tiny-vit/no.pt",
            WeightsNotFoundError,
            r"'no\.pt' is neither a tag that open_clip knows of tiny-vit nor a file",
        ),
        ("no-vit/here", ConfigError, r"open_clip has no model 'no-vit'"),
    ],
)
def test_an_image_tower_that_is_not_here_is_never_fetched(tmp_path, known, source, error, said):
    with pytest.raises(error, match=said):
        begin_model(tmp_path / "out", ModelSection(**vit_model(), vision_from=source), WORDS, seed=0)
