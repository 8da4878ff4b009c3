"""A query that a store's teacher encodes: a row's own caption and image find what the row finds, and itself first."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from store.cli.program import app
from store.errors import ConfigError, PairDecodeError, SpecMismatchError, StoreError, WeightsNotFoundError
from store.format.records import Spec, spec_key, write_record
from store.read.reader import FeatureStore

ROW, ROWS = 17, 60

DOCUMENT = (Path(__file__).parents[3] / "docs/store.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory, teachers, corpus, write_pipeline, extract_here):
    """A store of 60 pairs by two teachers, and the file of its pipeline; one may be changed."""
    folder = tmp_path_factory.mktemp("stored")
    path = write_pipeline(folder, files=[corpus / "*.tar"], teachers=teachers)
    return extract_here(path)[0], path


def ask(*arguments, capsys):
    get_command(app)([*map(str, arguments)], prog_name="store", standalone_mode=False)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("teacher", ["small", "wide"])
@pytest.mark.parametrize("side", ["text", "image"])
def test_a_rows_own_caption_and_image_find_what_the_row_finds(made, tmp_path, capsys, teacher, side):
    store, path = made
    pair = FeatureStore(store).pairs.read(ROW, ROW + 1).to_pylist()[0]
    if side == "text":
        query = ("--text", pair["caption"])
    else:
        get_command(app)(["row", str(store), str(ROW), "--image", str(tmp_path / "own")], standalone_mode=False)
        capsys.readouterr()
        query = ("--image", tmp_path / "own")
    of_row = ask("neighbors", store, ROW, "--teacher", teacher, "--side", side, "-k", ROWS, "--json", capsys=capsys)
    options = ("--teacher", teacher, "--side", side, "--pipeline", "tiny", "--config", path, "-k", ROWS, "--json")
    of_query = ask("neighbors", store, *query, *options, capsys=capsys)
    cosines = {one["row"]: one["cosine"] for one in of_query["neighbors"]}
    assert cosines.pop(ROW) == pytest.approx(1, abs=1e-6)
    # Stored features are rounded to float16, the query's is not.
    wanted = {one["row"]: one["cosine"] for one in of_row["neighbors"]}
    assert cosines == pytest.approx(wanted, abs=1e-3)
    assert len(wanted) == ROWS - 1
    found = [one["cosine"] for one in of_query["neighbors"]]
    assert found == sorted(found, reverse=True)
    assert of_query["query"] == {"teacher": teacher, "side": side, query[0].removeprefix("--"): str(query[1])}


@pytest.mark.parametrize("width", [80, 160])
def test_a_query_is_printed_under_the_heads_that_the_document_shows(made, capsys, monkeypatch, width):
    store, path = made
    [shown] = re.findall(r"^\$ python -m store neighbors .* --text .*\n((?:.+\n)*?)```", DOCUMENT, re.MULTILINE)
    monkeypatch.setenv("COLUMNS", str(width))
    query = ("--text", "nodule in the left lung", "--teacher", "wide", "-k", "3")
    get_command(app)(
        ["neighbors", str(store), *query, "--pipeline", "tiny", "--config", str(path)], standalone_mode=False
    )
    heads, given, *_ = capsys.readouterr().out.splitlines()
    assert heads.split()[:4] == shown.split()[:4]
    assert given.split()[:3] == shown.splitlines()[1].split()


def test_a_text_finds_images_by_the_cosine_of_both(made, capsys):
    from extract.config import ExtractPipeline
    from extract.teacher_files.specs import teacher_spec
    from extract.teachers.loading import load_teacher
    from store.config.pipeline_file import read_pipeline

    store, path = made
    entry = read_pipeline(path, "tiny", ExtractPipeline).teachers["wide"]
    text_D = load_teacher(teacher_spec("wide", entry), entry).encode_text(["a nodule"])[0]
    image_ND = FeatureStore(store).read(slice(None), teacher="wide", side="image").astype(np.float64)
    cosine_N = image_ND @ text_D / np.linalg.norm(image_ND, axis=1)
    options = ("--teacher", "wide", "--pipeline", "tiny", "--config", path, "-k", 3, "--json")
    found = ask("neighbors", store, "--text", "a nodule", *options, capsys=capsys)["neighbors"]
    assert [one["cosine"] for one in found] == pytest.approx(np.sort(cosine_N)[:-4:-1], abs=1e-5)
    assert [cosine_N[one["row"]] for one in found] == pytest.approx(np.sort(cosine_N)[:-4:-1], abs=1e-5)


@pytest.fixture
def refused(made, capsys):
    def refuse(error, match, *options, store=made[0], path=made[1]):
        with pytest.raises(error, match=match) as raised:
            ask("neighbors", store, *options, "--pipeline", "tiny", "--config", path, capsys=capsys)
        return raised.value

    return refuse


def test_what_cannot_be_encoded_is_refused_by_name(made, tmp_path, refused):
    refused(StoreError, "no teacher 'smal' in this store; did you mean 'small'", "--text", "x", "--teacher", "smal")
    (tmp_path / "none").write_bytes(b"no image")
    refused(PairDecodeError, "not an image", "--image", tmp_path / "none", "--teacher", "small")
    with pytest.raises(FileNotFoundError):
        refused(StoreError, "-", "--image", tmp_path / "nothing", "--teacher", "small")


def test_another_teacher_of_that_name_or_none_is_refused(made, tmp_path, teachers, corpus, write_pipeline, refused):
    files, small = [corpus / "*.tar"], ("--text", "x", "--teacher", "small")
    other = write_pipeline(tmp_path / "a", files=files, teachers={"small": teachers["wide"]}, widths={"small": 48})
    error = refused(SpecMismatchError, "another small than the pipeline's", *small, path=other)
    assert "embed_dim" in str(error)
    refused(ConfigError, "the pipeline has no teacher 'wide'", "--text", "x", "--teacher", "wide", path=other)
    shutil.copytree(teachers["small"], tmp_path / "small")
    next((tmp_path / "small").glob("*.safetensors")).unlink()
    gone = write_pipeline(tmp_path / "b", files=files, teachers={"small": tmp_path / "small"})
    error = refused(WeightsNotFoundError, "small", *small, path=gone)
    assert "open_clip_model.safetensors" in str(error)
    assert error.hint.startswith("put the model's")


def test_a_caption_for_a_teacher_of_images_alone_is_refused(made, tmp_path, refused):
    shutil.copytree(made[0], tmp_path / "store")
    spec = FeatureStore(made[0]).spec("small")
    write_record(
        FeatureStore(tmp_path / "store").location, spec_key("small"), Spec(**{**dict(spec), "sides": ("image",)})
    )
    options = ("--text", "x", "--teacher", "small")
    refused(StoreError, "teacher small encodes images alone", *options, store=tmp_path / "store")


def test_one_query_at_a_time_and_a_pipeline_for_it(made):
    for arguments in ([], ["3", "--text", "x"], ["--text", "x", "--image", "y"], ["--text", "x"]):
        with pytest.raises(Exception, match=r"give one of|need --pipeline"):
            get_command(app)(["neighbors", str(made[0]), *arguments, "--teacher", "small"], standalone_mode=False)
