"""A cluster's nodes each read a teacher's files: the same ones anywhere will do, and a node with others is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import socket

import numpy as np
import pytest
import torch

from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.states import convert
from extract.teachers.loading import load_teacher
from store.errors import TeacherError, WeightsNotFoundError
from tests.extract import teacher_cases as cases
from tests.extract.teacher_inputs import CAPTIONS, pixels_of


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A teacher as the planning node has it: entry and spec."""
    folder = tmp_path_factory.mktemp("planner") / "biomedclip"
    entry = cases.written("biomedclip", folder).entry
    return entry, teacher_spec("biomedclip", entry)


@pytest.fixture
def node(planned, tmp_path):
    """A node's own copy of the teacher's folder, which a test may change: folder and entry."""
    folder = tmp_path / "own"
    shutil.copytree(planned[0].folder, folder)
    return folder, planned[0].model_copy(update={"folder": str(folder)})


def test_a_node_with_a_copy_of_its_own_computes_the_same_features(planned, node):
    entry, spec = planned
    there, here = load_teacher(spec, entry), load_teacher(spec, node[1])
    pixels_BHWC = pixels_of(there.geometry.size_px)
    np.testing.assert_array_equal(here.encode_image(pixels_BHWC), there.encode_image(pixels_BHWC))
    np.testing.assert_array_equal(here.encode_text(CAPTIONS), there.encode_text(CAPTIONS))


def test_a_node_may_have_the_converted_file_instead_of_the_authors(planned, node):
    folder, entry = node
    convert("biomedclip", entry)
    (folder / "open_clip_pytorch_model.bin").unlink()
    assert load_teacher(planned[1], entry).spec == planned[1]


def _weights(folder):
    path = folder / "open_clip_pytorch_model.bin"
    state = torch.load(path)
    state["visual.head.proj.weight"][0, 0] += 1e-3
    torch.save(state, path)


def _vocabulary(folder):
    for path in folder.rglob("vocab.txt"):
        path.write_text(path.read_text().replace("lung\n", "long\n"))


def _configuration(folder):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"]["mean"][0] = 0.5
    path.write_text(json.dumps(config))


DOCTORED = {
    "weights": (_weights, "weights_sha256"),
    "tokenizer": (_vocabulary, "tokenizer.files_sha256"),
    "configuration": (_configuration, "preprocessing.mean"),
}


@pytest.mark.parametrize("what", DOCTORED)
def test_a_node_with_another_file_is_refused_by_name(planned, node, what):
    change, field = DOCTORED[what]
    folder, entry = node
    change(folder)
    with pytest.raises(TeacherError) as caught:
        load_teacher(planned[1], entry)
    message, *differences = str(caught.value).splitlines()
    assert message.startswith(f"teacher biomedclip: {socket.gethostname()} has other files in {folder} than the run")
    assert [line.split(":")[0].strip() for line in differences] == [field]
    # It comes from a worker, in another process on another machine.
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - dumped in this line
    assert (str(again), again.hint) == (str(caught.value), caught.value.hint)


def test_a_node_without_the_file_says_so(planned, node):
    folder, entry = node
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"missing"):
        load_teacher(planned[1], entry)
