"""A store that holds pixels is enough to train from: without its corpus, and without naming one."""

from __future__ import annotations

import shutil
from pathlib import Path

import open_clip
import pytest
import yaml
from typer.testing import CliRunner

from extract.run.pixels import make_pixels
from store.corpus.section import Corpus
from store.format.pixels import Pixels, PixelSpec
from store.index.create import index_corpus
from tests.train.conftest import commit_random, spec_of
from train.cli.program import app


@pytest.fixture
def alone(tmp_path, phantom, tiny_model):
    """A pipeline without corpora, and its store, whose corpus is gone."""
    (tmp_path / "corpus").mkdir()
    for tar in Path(phantom[0]).parent.glob("*.tar"):
        shutil.copy(tar, tmp_path / "corpus")
    corpus = Corpus(files=[str(tmp_path / "corpus/*.tar")])
    info, _ = index_corpus(tmp_path / "store", corpus, range_rows=24, chunk_rows=8)
    commit_random(tmp_path / "store", info, spec_of("alpha"), seed=1)
    make_pixels(tmp_path / "store", PixelSpec.of(Pixels(short_side_px=64)), threads=1)
    shutil.rmtree(tmp_path / "corpus")
    student = {
        "recipe": "paper",
        "out": str(tmp_path / "student"),
        "model": tiny_model,
        "optimization": {"steps": 2, "batch_size": 16, "lr": 1e-3},
        "validation": {"holdout": 0.2},
    }
    project = {"out": str(tmp_path / "projection"), "latent_dim": 32, "hidden_dim": 16, "steps": 3, "batch_size": 16}
    train = {"project": project, "students": {"student": student}}
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"mine": {"store": {"path": "store"}, "train": train}}))
    return tmp_path / "pipelines.yaml"


def run(command, pipelines):
    done = CliRunner().invoke(app, [command, "--pipeline", "mine", "--config", str(pipelines)])
    assert done.exit_code == 0, (done.output, done.exception)


def test_projections_and_a_student_are_made_of_a_store_alone(alone):
    run("project", alone)
    run("distill", alone)
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{alone.parent / 'student'}")
    assert model.encode_text(open_clip.get_tokenizer(f"local-dir:{alone.parent / 'student'}")(["a"])).shape == (1, 32)
