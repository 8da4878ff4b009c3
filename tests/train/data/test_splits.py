"""Pairs of other splits than the training one have no part in what a student becomes."""

from __future__ import annotations

import re

import pytest

from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from store.corpus.section import Corpus
from store.errors import CorpusError
from store.index.create import index_corpus
from store.read.chunks import ChunkReader
from tests.train.conftest import commit_random, spec_of
from tests.train.vit import loaded, vit_pipeline
from train.recipes.fit_projections import project
from train.trainer import stages as runs
from train.trainer.train_step import Updater
from train.trainer.validation import Validation

TRAIN, VAL = set(range(48)), set(range(48, 72))


@pytest.fixture
def pipeline(tmp_path):
    """A store whose first 48 pairs are to be trained on and whose last 24 are to be validated on."""
    for name, rows, seed in (("a", 48, 5), ("b", 24, 6)):
        write_corpus(
            tmp_path / name,
            PhantomSettings(rows=rows, seed=seed, shard_rows=48, split="train" if name == "a" else "val"),
        )
        for tar in (tmp_path / name).glob("*.tar"):
            tar.rename(tar.with_stem(f"{name}-{tar.stem}"))
    files = [str(tmp_path / name / "*.tar") for name in ("a", "b")]
    info, _ = index_corpus(tmp_path / "store", Corpus(files=files, qualify_keys=True), range_rows=24, chunk_rows=8)
    commit_random(tmp_path / "store", info, spec_of("alpha"), seed=1)
    commit_random(tmp_path / "store", info, spec_of("beta"), seed=2, without=TRAIN)

    def make(**changes):
        made = vit_pipeline(tmp_path, files, steps=6, validate_every=3, **changes)
        made["corpora"]["phantom"]["qualify_keys"] = True
        made["train"]["students"]["vit"]["improved"] = {"relational_weight": 0}
        return made

    return make


@pytest.fixture
def rows_used(monkeypatch):
    """Rows whose features are read, that are trained on, and that are validated on."""
    used = {"features": set(), "trained": set(), "validated": set()}
    read, update, validation = ChunkReader.read, Updater.update, Validation.__init__

    def reading(self, rows_B, **which):
        used["features"].update(rows_B.tolist())
        return read(self, rows_B, **which)

    def updating(self, batch):
        used["trained"].update(batch.rows_B.tolist())
        return update(self, batch)

    def validating(self, *arguments, rows, **others):
        used["validated"].update(rows.tolist())
        validation(self, *arguments, rows=rows, **others)

    monkeypatch.setattr(ChunkReader, "read", reading)
    monkeypatch.setattr(Updater, "update", updating)
    monkeypatch.setattr(Validation, "__init__", validating)
    return used


@pytest.mark.parametrize("recipe", ["paper", "improved"])
def test_what_is_validated_on_is_neither_trained_on_nor_fitted_to(pipeline, rows_used, recipe):
    section = loaded(pipeline(recipe=recipe))
    if recipe == "paper":
        assert project(section, section.train.project)
    # Beta has features of validation pairs alone: it needs neither a projection nor a head.
    assert runs.distill(section, "vit", section.train.students["vit"])
    assert rows_used == {"features": TRAIN, "trained": TRAIN, "validated": VAL}


def test_a_share_that_is_held_out_takes_no_pair_of_another_split(pipeline, rows_used):
    made = pipeline(recipe="task_only")
    made["train"]["students"]["vit"]["validation"] = {"holdout": 0.4}
    section = loaded(made)
    assert runs.distill(section, "vit", section.train.students["vit"])
    assert rows_used["validated"]
    assert rows_used["validated"] == TRAIN - rows_used["trained"]


def test_a_share_that_leaves_less_than_a_batch_is_refused_with_what_would_do(pipeline):
    made = pipeline(recipe="task_only")
    made["train"]["students"]["vit"]["validation"] = {"holdout": 0.97}
    section = loaded(made)
    with pytest.raises(CorpusError, match=r"vit: \d+ pairs can be trained on, fewer than") as caught:
        runs.distill(section, "vit", section.train.students["vit"])
    assert re.fullmatch(
        r"set optimization.batch_size to \d+ or less, or validation.holdout to less than 0.97", caught.value.hint
    )
