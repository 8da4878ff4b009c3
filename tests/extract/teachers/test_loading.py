"""Wrong, damaged, hostile or foreign files are refused as teachers, each by name, and none is run."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from extract.teacher_files.entry import Download, TeacherEntry
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.states import checked_logit_scale, convert, read_checkpoint, state_dict
from extract.teacher_files.weights import find_weights
from extract.teachers.loading import load_teacher
from store.errors import TeacherError, WeightsNotFoundError
from tests.extract import authors_files as files
from tests.extract import teacher_cases as cases

WEIGHTS = {
    "bmca": "BMC_CLIP_CF.pt",
    "biomedclip": "open_clip_pytorch_model.bin",
    "plip": "pytorch_model.bin",
    "pmcclip": "text_encoder.pth",
    "medclip": "pytorch_model.bin",
}


def load(name, entry):
    return load_teacher(teacher_spec(name, entry), entry)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html>\n<html><title>404</title></html>", "an HTML page, not weights"),
        (b"<html><body>Sign in</body></html>", "an HTML page, not weights"),
        (b'{"error": "Repository not found"}', "JSON text, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605156676\n", "a Git-LFS pointer"),
        (b"these are no weights at all", "not a"),
    ],
)
def test_what_is_saved_in_place_of_weights_is_refused_by_what_it_is(tmp_path, name, content, says):
    case = cases.written(name, tmp_path)
    (tmp_path / WEIGHTS[name]).write_bytes(content)
    with pytest.raises(TeacherError, match=says) as caught:
        load(name, case.entry)
    assert WEIGHTS[name] in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path, share):
    case = cases.open_clip_hub(tmp_path)
    path = tmp_path / "open_clip_pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(TeacherError, match=r"open_clip_pytorch_model\.bin: not a"):
        load("quiltnet", case.entry)


class Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, legacy):
    path, witness = tmp_path / "weights.pt", tmp_path / "ran"
    torch.save({"state_dict": Hostile(witness)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(TeacherError, match=r"refused: its pickle asks for .*open"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Hostile(witness)))
    with pytest.raises(TeacherError, match=r"weights\.pt"):
        read_checkpoint(path)
    assert not witness.exists()


def test_numbers_that_training_left_in_a_checkpoint_are_no_obstacle(tmp_path):
    path = tmp_path / "epoch.pt"
    loss = {"f8": np.float64(1.5), "f4": np.float32(2), "i8": np.int64(3), "b": np.bool_(True)}
    torch.save({"state_dict": {"module.a": torch.ones(2)}, **loss}, path)
    loaded = read_checkpoint(path)
    assert {name: loaded[name].item() for name in loss} == {"f8": 1.5, "f4": 2, "i8": 3, "b": True}
    assert list(state_dict(loaded, path)) == ["a"]


@pytest.mark.parametrize("content", [torch.ones(2), [1, 2], {"epoch": 3}, {"state_dict": {"epoch": 3}}])
def test_a_checkpoint_without_tensors_by_name_is_refused(tmp_path, content):
    with pytest.raises(TeacherError, match="a checkpoint without tensors by name"):
        state_dict(content, tmp_path / "x.pt")


def edited(path, change):
    """Change the state dict in a file."""
    content = torch.load(path, weights_only=False)
    change(content.get("state_dict", content))
    torch.save(content, path)


def _drop(state):
    del state[next(name for name in state if name.endswith("position_embeddings.weight"))]


def _add(state):
    state["text_model.head.weight"] = torch.ones(2)


def _reshape(state):
    name = next(name for name in state if name.endswith("layernorm.weight"))
    state[name] = torch.ones(3)


def _not_finite(state):
    state["text_model.projection_head.weight"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop, r"1 missing: .*position_embeddings\.weight"),
        (_add, r"1 not the model's: text_model\.head\.weight"),
        (_reshape, r"1 of another shape: .*layernorm\.weight \(3,\) instead of \(24,\)"),
        (_not_finite, "holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_to_the_last_tensor_are_refused(tmp_path, change, says):
    case = cases.medclip(tmp_path)
    edited(tmp_path / "pytorch_model.bin", change)
    with pytest.raises(TeacherError, match=says):
        load("medclip", case.entry)


def test_another_teachers_weights_are_refused(tmp_path):
    """UniMed-CLIP's own loader takes MetaCLIP's file without a word and leaves the text tower random."""
    case = cases.unimedclip(tmp_path)
    state = files.clip(cases.clip_sizes(full=False), seed=0)
    files.write_training_checkpoint(tmp_path / "unimed-clip-vit-b16.pt", state)
    with pytest.raises(TeacherError, match=r"missing: text\.transformer.*not the model's: positional_embedding"):
        load("unimedclip", case.entry)


@pytest.mark.parametrize("log_scale", [-1.0, 4.7, 100.0, float("nan")])
def test_a_logit_scale_that_no_clip_model_has_is_refused(log_scale):
    with pytest.raises(TeacherError, match="logit_scale is"):
        checked_logit_scale(log_scale, teacher="x")


@pytest.mark.parametrize("name", ["bmca", "biomedclip", "plip", "pmcclip", "medclip"])
def test_another_width_than_the_entry_says_is_refused(tmp_path, name):
    case = cases.written(name, tmp_path)
    entry = case.entry.model_copy(update={"embed_dim": 32})
    with pytest.raises(TeacherError):
        load(name, entry)


@pytest.mark.parametrize("name", ["biomedclip", "unimedclip", "pmcclip", "medclip"])
def test_a_tokenizer_with_another_vocabulary_is_refused(tmp_path, name):
    case = cases.written(name, tmp_path)
    for folder in (tmp_path, tmp_path / "text"):
        if (folder / "vocab.txt").is_file():
            files.write_vocabulary(folder, 201)
    with pytest.raises(TeacherError, match="has 201 tokens, the model 200"):
        load(name, case.entry)


def test_a_tokenizer_that_is_missing_is_said(tmp_path):
    case = cases.pmcclip(tmp_path)
    for file in (tmp_path / "text").iterdir():
        file.unlink()
    with pytest.raises(WeightsNotFoundError, match="no tokenizer there"):
        load("pmcclip", case.entry)


def test_a_missing_file_is_named_with_where_it_comes_from(tmp_path):
    download = (Download(repo="axiong/pmc_oa", kind="dataset", files=("text_encoder.pth",)),)
    entry = cases.pmcclip(tmp_path).entry.model_copy(update={"download": download})
    (tmp_path / "text_encoder.pth").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"text_encoder\.pth missing") as caught:
        load("pmcclip", entry)
    assert caught.value.hint == (
        "python -m extract fetch --pipeline PIPELINE pmcclip, or put text_encoder.pth of hf dataset axiong/pmc_oa there"
    )


def test_authors_files_that_were_copied_anew_are_still_those_that_were_converted(tmp_path):
    case = cases.open_clip_hub(tmp_path)
    convert("quiltnet", case.entry)
    path = tmp_path / "open_clip_pytorch_model.bin"
    path.write_bytes(path.read_bytes())
    assert find_weights("quiltnet", case.entry).conversion is not None


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"family": "open_clip", "heads": 8}, "family open_clip has no heads; it has quick_gelu"),
        ({"transformers": "a/b", "architecture": "ViT-B-32"}, "family transformers has no architecture"),
        ({"family": "open_clip_file", "architecture": "ViT-B-32"}, "needs checkpoint"),
        ({"family": "open_clip_file", "checkpoint": "x.pt"}, r"needs architecture \(a name\) or config"),
        ({"variants": {"b": {"heads": 3}}}, "variants.b: family open_clip has no heads"),
        ({"variants": {"b": {"family": "open_clip_file"}}}, "variants.b: family open_clip_file needs checkpoint"),
        ({"download": [{"files": ["x"]}]}, r"give repo \(of the Hugging Face Hub\) or url"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(entry, says):
    with pytest.raises(ValueError, match=says):
        TeacherEntry.model_validate_json(json.dumps({"folder": "x", "embed_dim": 8, **entry}))


def test_an_architecture_that_open_clip_does_not_know_is_refused(tmp_path):
    files.write_training_checkpoint(tmp_path / "x.pt", {"a": torch.ones(1)})
    entry = TeacherEntry(
        folder=str(tmp_path), embed_dim=8, family="open_clip_file", checkpoint="x.pt", architecture="ViT-Q-7"
    )
    with pytest.raises(ValueError, match="open_clip has no model 'ViT-Q-7'"):
        teacher_spec("x", entry)
