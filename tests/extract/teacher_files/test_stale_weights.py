"""A converted file counts for the authors' file that it was made from, and for no other of its size and time."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.states import convert
from extract.teacher_files.weights import CONVERTED_NAME, RECORD_NAME, find_weights
from store.errors import TeacherError, WeightsNotFoundError
from tests.extract import teacher_cases as cases

WEIGHTS = "open_clip_pytorch_model.bin"


@pytest.fixture
def converted(tmp_path):
    """QuiltNet, converted: (entry, folder, spec)."""
    folder = tmp_path / "weights"
    folder.mkdir()
    entry = cases.open_clip_hub(folder).entry
    assert convert("quiltnet", entry)
    return entry, folder, teacher_spec("quiltnet", entry)


def replace_quietly(path, seed):
    """Put weights of another seed in place, of the same size, and set the times of the former file."""
    before = path.stat()
    state = torch.load(path)
    generator = torch.Generator().manual_seed(seed)
    torch.save({name: value + torch.rand(value.shape, generator=generator) for name, value in state.items()}, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_weights_that_were_replaced_with_size_and_time_are_refused_and_then_converted(converted):
    entry, folder, spec = converted
    replace_quietly(folder / WEIGHTS, 1)
    with pytest.raises(TeacherError, match=rf"{WEIGHTS} was replaced after it was converted: its sha256 is") as caught:
        teacher_spec("quiltnet", entry)
    assert spec.weights_sha256 in str(caught.value)
    assert "let python -m extract fetch --pipeline PIPELINE quiltnet compare" in caught.value.hint
    assert convert("quiltnet", entry)
    after = teacher_spec("quiltnet", entry)
    assert after.hash != spec.hash
    # An entry that reads the authors' file itself has the same spec.
    for name in (CONVERTED_NAME, RECORD_NAME):
        (folder / name).unlink()
    assert teacher_spec("quiltnet", entry).hash == after.hash


def test_a_converted_file_that_was_replaced_with_size_and_time_is_refused_and_made_again(converted):
    entry, folder, spec = converted
    path = folder / CONVERTED_NAME
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(TeacherError, match=r"damaged or replaced, not the file that converted\.json") as caught:
        teacher_spec("quiltnet", entry)
    assert (
        caught.value.hint
        == "python -m extract fetch --pipeline PIPELINE quiltnet makes it again from the authors' file"
    )
    assert convert("quiltnet", entry)
    assert teacher_spec("quiltnet", entry).hash == spec.hash


@pytest.mark.parametrize("content", ["", "{", '{"files": 3}', "null"])
def test_a_damaged_record_is_refused_and_made_again(converted, content):
    entry, folder, spec = converted
    (folder / RECORD_NAME).write_text(content)
    with pytest.raises(TeacherError, match=r"converted\.json: not a record of a conversion") as caught:
        teacher_spec("quiltnet", entry)
    assert caught.value.hint.startswith("python -m extract fetch --pipeline PIPELINE quiltnet makes it")
    assert convert("quiltnet", entry)
    assert teacher_spec("quiltnet", entry).hash == spec.hash


def test_a_record_of_another_conversion_does_not_vouch_for_this_one(converted, tmp_path):
    entry, folder, _ = converted
    other = tmp_path / "other"
    other.mkdir()
    convert("quiltnet", cases.open_clip_hub(other, seed=12).entry)
    (folder / WEIGHTS).unlink()
    shutil.copy2(other / CONVERTED_NAME, folder / CONVERTED_NAME)
    with pytest.raises(TeacherError, match=r"damaged or replaced, not the file that converted\.json"):
        teacher_spec("quiltnet", entry)


def test_without_the_authors_file_the_converted_one_has_its_spec(converted):
    entry, folder, spec = converted
    (folder / WEIGHTS).unlink()
    assert teacher_spec("quiltnet", entry).hash == spec.hash
    assert not convert("quiltnet", entry)
    (folder / RECORD_NAME).write_text("{")
    with pytest.raises(WeightsNotFoundError, match="missing"):
        convert("quiltnet", entry)


def test_a_copy_of_the_folder_has_the_same_spec(converted, tmp_path):
    entry, folder, spec = converted
    shutil.copytree(folder, tmp_path / "node", copy_function=shutil.copyfile)
    copied = entry.model_copy(update={"folder": str(tmp_path / "node")})
    assert teacher_spec("quiltnet", copied).hash == spec.hash
    assert find_weights("quiltnet", copied).conversion is not None


def test_a_form_that_comes_first_counts_before_a_conversion_of_another(converted):
    entry, folder, spec = converted
    shutil.copy(folder / CONVERTED_NAME, folder / "open_clip_model.safetensors")
    assert [path.name for path in find_weights("quiltnet", entry).paths] == ["open_clip_model.safetensors"]
    assert teacher_spec("quiltnet", entry).hash != spec.hash
    assert not convert("quiltnet", entry)


def test_two_readings_of_a_folder_do_not_take_each_others_conversion(tmp_path):
    entry = cases.pmcclip(tmp_path).entry
    whole = tmp_path / "whole"
    whole.mkdir()
    variant = cases.pmcclip(whole, seed=13, whole=True).entry.model_copy(update={"folder": str(tmp_path)})
    shutil.move(whole / "checkpoint.pt", tmp_path / "checkpoint.pt")
    assert convert("pmcclip", entry)
    before = [teacher_spec("pmcclip", one).hash for one in (entry, variant)]
    assert not convert("pmcclip", variant)
    assert len(set(before)) == 2
    assert [teacher_spec("pmcclip", one).hash for one in (entry, variant)] == before


def test_a_file_that_changes_while_it_is_converted_is_not_recorded(tmp_path, monkeypatch):
    entry = cases.open_clip_hub(tmp_path).entry

    def reading(*arguments):
        state = original(*arguments)
        replace_quietly(tmp_path / WEIGHTS, 2)
        return state

    from extract.teacher_files import states

    original = states.read_state
    monkeypatch.setattr(states, "read_state", reading)
    with pytest.raises(TeacherError, match=rf"{WEIGHTS} changed while it was converted"):
        convert("quiltnet", entry)
    assert not (tmp_path / CONVERTED_NAME).exists()


def test_a_record_of_an_earlier_release_is_read(converted):
    entry, folder, spec = converted
    record = json.loads((folder / RECORD_NAME).read_text())
    record["files"][WEIGHTS]["mtime_ns"] = 1
    (folder / RECORD_NAME).write_text(json.dumps(record))
    assert teacher_spec("quiltnet", entry).hash == spec.hash
