"""Captions without their padding: the embeddings of the padded ones, or the whole width where they would differ."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.extract.authors_files import write_bert_folder
from tests.train.vit import vit_model
from train.config import ModelSection
from train.data.captions import Tokens
from train.models.model_folder import begin_model
from train.models.text_tower import encode_text, is_exact_without_padding
from train.models.towers import Towers

CAPTIONS = [
    "kidney",
    "a kidney stone in the left kidney of a man",
    "cyst",
    "normal brain of a woman",
    "",
    "two cysts and a nodule",
    "an axial image " * 9,
]

TEXT = {"context_length": 24, "width": 32, "heads": 2, "layers": 2}

BERT = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def student_of(folder, *, learned=True, custom=False, **text):
    """Return a student with a tower of CLIP, whose vocabulary is learned or CLIP's own."""
    section = vit_model()
    if not learned:
        del section["vocabulary"]
    section["config"] |= {"text_cfg": {**TEXT, **text}, **({"custom_text": True} if custom else {})}
    return begin_model(folder / "model", ModelSection(**section), CAPTIONS, seed=0)


def bert_student(folder, pooler="cls_last_hidden_state_pooler", **text):
    """Return a student with a BERT of transformers."""
    (folder / "bert").mkdir()
    write_bert_folder(folder / "bert", BERT)
    text = {"hf_pooler_type": pooler, "hf_proj_type": "mlp", "context_length": 24, **text}
    text |= dict.fromkeys(("hf_model_name", "hf_tokenizer_name"), str(folder / "bert")) | {"hf_model_pretrained": False}
    section = {"config": vit_model()["config"] | {"text_cfg": text}}
    return begin_model(folder / "model", ModelSection(**section), CAPTIONS, seed=0)


EXACT = {
    "eos": student_of,
    "argmax": lambda folder: student_of(folder, learned=False),
    "text module": lambda folder: student_of(folder, custom=True),
    "biased projection": lambda folder: student_of(folder, custom=True, proj_bias=True),
    "bert": bert_student,
    "bert's pooler": lambda folder: bert_student(folder, "cls_pooler"),
    "mean": lambda folder: bert_student(folder, "mean_pooler"),
}

INEXACT = {
    "class token behind the padding": lambda folder: student_of(folder, custom=True, embed_cls=True),
    "padding is attended to": lambda folder: student_of(folder, custom=True, no_causal_mask=True),
    "last column": lambda folder: student_of(folder, learned=False, custom=True, pool_type="last"),
}


def embed(student, ids_BL, encode=None):
    student.model.eval()
    with torch.no_grad():
        return encode(student.model, ids_BL) if encode else student.model.encode_text(ids_BL)


@pytest.mark.parametrize("kind", EXACT)
def test_a_cut_caption_has_the_embedding_of_the_padded_one(tmp_path, kind):
    student = EXACT[kind](tmp_path)
    # In float32 sums of other shapes differ in their last bits, and more where another test changed how they are made.
    student.model.double()
    tokens = Tokens.of(CAPTIONS, student.tokenizer)
    assert is_exact_without_padding(student.model, student.tokenizer)
    padded_BE = embed(student, tokens.ids_BL)
    torch.testing.assert_close(embed(student, tokens.ids_BL, encode_text), padded_BE, rtol=0, atol=1e-12)
    for row, length in enumerate(tokens.lengths_B.tolist()):
        cut_1E = embed(student, tokens.ids_BL[row : row + 1, :length], encode_text)
        torch.testing.assert_close(cut_1E, padded_BE[row : row + 1], rtol=0, atol=1e-12)
    towers = Towers(student, precision="fp32").double().eval()
    with torch.no_grad():
        _, text_BE, _ = towers(torch.zeros(7, 32, 32, 3, dtype=torch.uint8), tokens.ids_BL, tokens.lengths_B)
    torch.testing.assert_close(text_BE, padded_BE, rtol=0, atol=1e-12)
    assert towers.columns.share() < 0.7
    towers.columns.clear()
    assert towers.columns.share() == 1


@pytest.mark.parametrize("kind", INEXACT)
def test_a_tower_for_which_padding_matters_gets_it_and_says_so(tmp_path, caplog, kind):
    student = INEXACT[kind](tmp_path)
    tokens = Tokens.of(CAPTIONS, student.tokenizer)
    with caplog.at_level("INFO"):
        towers = Towers(student, precision="fp32").eval()
    assert "captions are computed with their padding" in caplog.text
    with torch.no_grad():
        _, text_BE, _ = towers(torch.zeros(7, 32, 32, 3, dtype=torch.uint8), tokens.ids_BL, tokens.lengths_B)
    assert torch.equal(text_BE, embed(student, tokens.ids_BL))
    assert towers.columns.share() == 1


def test_a_tokenizer_whose_padding_the_model_takes_for_text_is_not_cut(tmp_path):
    bert, clip, own = bert_student(tmp_path), student_of(tmp_path / "eos"), student_of(tmp_path / "own", learned=False)
    assert not is_exact_without_padding(bert.model, dataclasses.replace(bert.tokenizer, pad=5))
    assert not is_exact_without_padding(clip.model, dataclasses.replace(clip.tokenizer, suffix=()))
    assert not is_exact_without_padding(own.model, dataclasses.replace(own.tokenizer, pad=49407))


def test_a_column_behind_the_padding_counts_as_a_column_of_the_caption(tmp_path):
    """As the mode `clips` of open_clip's tokenizer appends one, where CLIPS pools."""
    student = bert_student(tmp_path, "mean_pooler")
    student.tokenizer = dataclasses.replace(student.tokenizer, last=7)
    tokens = Tokens.of(CAPTIONS, student.tokenizer)
    towers = Towers(student, precision="fp32").eval()
    with torch.no_grad():
        _, text_BE, _ = towers(torch.zeros(7, 32, 32, 3, dtype=torch.uint8), tokens.ids_BL, tokens.lengths_B)
    torch.testing.assert_close(text_BE, embed(student, tokens.ids_BL), rtol=1e-5, atol=1e-6)
    assert towers.columns.share() == 1
