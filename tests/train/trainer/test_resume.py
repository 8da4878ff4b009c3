"""A run that is interrupted and goes on ends with the weights of one that was left alone, bit by bit."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import safetensors.torch
import torch

from store.corpus.section import Corpus
from store.errors import ConfigError, IncompleteStoreError, SpecMismatchError, TrainingDivergedError
from store.format.commit import register_teacher
from store.format.records import Status
from store.index.create import index_corpus
from store.io.location import locate
from store.read.reader import FeatureStore
from tests.train.conftest import commit_random, spec_of
from tests.train.vit import loaded, vit_pipeline
from train.recipes.fit_projections import project
from train.runtime.run_folder import CHECKPOINTS
from train.trainer import stages as runs
from train.trainer.train_model import Circumstances
from train.trainer.train_step import Updater

OPTIONS = {
    "plain": {},
    "dropout": {"vision": {"patch_dropout": 0.5}},
    "ema": {"ema": 0.8},
    "parts": {"accumulate": 2},
    "cached": {"cached_rows": 5, "grad_clip": 1.0},
    "fp16": {"precision": "fp16"},
}


@pytest.fixture
def interrupted(monkeypatch):
    """Make the next run end as by SIGTERM, in the middle of its n-th step."""

    def at(step):
        update = Updater.update

        def updating(self, batch):
            if batch.step == step:
                monkeypatch.setattr(Updater, "update", update)
                os.kill(os.getpid(), signal.SIGTERM)
            return update(self, batch)

        monkeypatch.setattr(Updater, "update", updating)

    return at


def weights(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def pretrain(pipeline, **options):
    pipeline = loaded(pipeline)
    return runs.pretrain(pipeline, "vit", pipeline.train.pretrain["vit"], Circumstances(**options))


def distill(pipeline, **options):
    pipeline = loaded(pipeline)
    return runs.distill(pipeline, "vit", pipeline.train.students["vit"], Circumstances(**options))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_interrupted_run_goes_on_to_the_same_weights_and_metrics(tmp_path, phantom, interrupted, name):
    assert pretrain(vit_pipeline(tmp_path, phantom, out="whole", **OPTIONS[name]))
    cut = vit_pipeline(tmp_path, phantom, out="cut", **OPTIONS[name])
    interrupted(np.random.default_rng(len(name)).integers(1, 9))
    with pytest.raises(KeyboardInterrupt):
        pretrain(cut)
    assert not (tmp_path / "cut").exists()
    assert len(list((tmp_path / ".cut.partial" / CHECKPOINTS).iterdir())) == 1
    assert pretrain(cut)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert not (tmp_path / "cut" / CHECKPOINTS).exists()
    assert not (tmp_path / ".cut.partial").exists()


def test_heads_of_an_objective_and_their_optimizer_go_on_too(tmp_path, phantom, interrupted):
    store_of(tmp_path, phantom)
    improved = {"relational_weight": 0.0, "phi_s": False, "balance": "uncertainty"}

    def student(out):
        pipeline = vit_pipeline(tmp_path, phantom, out=out, recipe="improved")
        pipeline["train"]["students"]["vit"]["improved"] = improved
        return pipeline

    assert distill(student("whole"))
    interrupted(5)
    with pytest.raises(KeyboardInterrupt):
        distill(student("cut"))
    assert distill(student("cut"))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_ema_leaves_the_average_as_the_model_and_the_last_weights_beside_it(tmp_path, phantom):
    pretrain(vit_pipeline(tmp_path, phantom, out="plain"))
    pretrain(vit_pipeline(tmp_path, phantom, out="ema", ema=0.8))
    plain = safetensors.torch.load_file(tmp_path / "plain" / "open_clip_model.safetensors")
    last = safetensors.torch.load_file(tmp_path / "ema" / "without_ema.safetensors")
    average = safetensors.torch.load_file(tmp_path / "ema" / "open_clip_model.safetensors")
    assert all(torch.equal(last[name], tensor) for name, tensor in plain.items())
    assert any(not torch.equal(average[name], tensor) for name, tensor in plain.items())


def test_resume_never_drops_what_an_interrupted_run_left(tmp_path, phantom, interrupted):
    pipeline = vit_pipeline(tmp_path, phantom)
    interrupted(4)
    with pytest.raises(KeyboardInterrupt):
        pretrain(pipeline)
    other = vit_pipeline(tmp_path, phantom, lr=2e-3)
    with pytest.raises(ConfigError, match=r"run\.optimization\.lr: 0\.001 then, 0\.002 now") as caught:
        pretrain(other)
    assert "--resume never" in caught.value.hint
    assert pretrain(other, resume=False)
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(10))


def test_how_a_run_is_gone_about_may_change_between_its_halves(tmp_path, phantom, interrupted):
    pretrain(vit_pipeline(tmp_path, phantom, out="whole"))
    interrupted(4)
    with pytest.raises(KeyboardInterrupt):
        pretrain(vit_pipeline(tmp_path, phantom, out="cut", checkpoint_every=2))
    assert pretrain(vit_pipeline(tmp_path, phantom, out="cut", checkpoint_every=7, checkpoints_kept=9))
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path, phantom, monkeypatch):
    """It is found with the next checkpoint, which would have been that of step 9, and is not written."""
    terms_of = Updater._terms

    def poisoned(self, image_BE, text_BE, scale, batch):
        terms = terms_of(self, image_BE, text_BE, scale, batch)
        return {"loss": terms["loss"] * (float("nan") if batch.step == 7 else 1)}

    monkeypatch.setattr(Updater, "_terms", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"step 7: the loss is not finite \(loss nan\); rows \[") as caught:
        pretrain(vit_pipeline(tmp_path, phantom, checkpoint_every=3, checkpoints_kept=1, log_every=50))
    assert "--resume never" in caught.value.hint
    kept = sorted(path.name for path in (tmp_path / ".run.partial" / CHECKPOINTS).iterdir())
    assert kept == ["step-000000006.pt"]


def store_of(tmp_path, phantom, *, ranges=None):
    """Make a store of 64 rows in ranges of 16, of which only some are committed yet."""
    info, _ = index_corpus(tmp_path / "store", Corpus(files=phantom), range_rows=16, chunk_rows=8)
    commit_random(tmp_path / "store", info, spec_of("alpha"), seed=1)
    for number in range(info.ranges):
        if ranges is not None and number not in ranges:
            receipt(tmp_path, number).rename(tmp_path / f"r{number}")
    return FeatureStore(tmp_path / "store")


def receipt(tmp_path, number):
    return tmp_path / "store" / "receipts" / "alpha" / f"r{number:06d}.json"


def commit_later(tmp_path, number):
    (tmp_path / f"r{number}").rename(receipt(tmp_path, number))


@pytest.fixture
def rows_seen(monkeypatch):
    """The rows of each step, as they are trained on."""
    seen = {}
    update = Updater.update

    def noting(self, batch):
        seen[batch.step] = batch.rows_B.tolist()
        return update(self, batch)

    monkeypatch.setattr(Updater, "update", noting)
    return seen


def test_each_epoch_of_a_growing_store_has_the_ranges_committed_at_its_start(tmp_path, phantom, rows_seen, interrupted):
    store_of(tmp_path, phantom, ranges=[0, 2])
    pipeline = vit_pipeline(tmp_path, phantom, steps=8, recipe="paper", batch_size=16)
    section = loaded(pipeline)
    project(section, section.train.project)
    interrupted(0)
    with pytest.raises(KeyboardInterrupt):
        distill(pipeline)
    # The epoch has two steps: it goes on with its own ranges, whatever was committed meanwhile.
    commit_later(tmp_path, 1)
    interrupted(2)
    with pytest.raises(KeyboardInterrupt):
        distill(pipeline)
    commit_later(tmp_path, 3)
    assert distill(pipeline)
    epochs = [range(2), range(2, 5), range(5, 8)]
    found = [{row // 16 for step in epoch for row in rows_seen[step]} for epoch in epochs]
    assert found[:2] == [{0, 2}, {0, 1, 2}]
    assert 3 in found[2]
    for epoch in epochs[:2]:
        rows = [row for step in epoch for row in rows_seen[step]]
        assert len(set(rows)) == len(rows) == 16 * len(epoch)
    # The same command again: the store has grown since the run began, which makes it no other run.
    assert not distill(pipeline)
    assert distill(pipeline, overwrite=True)


@pytest.mark.parametrize("recipe", ["paper", "improved"])
def test_a_teacher_that_joins_a_growing_store_stays_out_of_the_runs_that_have_begun(
    tmp_path, phantom, interrupted, recipe
):
    store = store_of(tmp_path, phantom, ranges=[0, 2])
    register_teacher(store.location, spec_of("beta"), info=store.info)
    pipeline = vit_pipeline(tmp_path, phantom, steps=6, recipe=recipe)
    pipeline["train"]["students"]["vit"]["improved"] = {"relational_weight": 0}
    section = loaded(pipeline)
    project(section, section.train.project)
    interrupted(0)
    with pytest.raises(KeyboardInterrupt):
        distill(pipeline)
    vocabulary = (tmp_path / ".run.partial" / "tokenizer.json").read_text()
    commit_random(tmp_path / "store", store.info, spec_of("beta"), seed=2)
    commit_later(tmp_path, 1)
    assert distill(pipeline)
    assert len(lines(tmp_path / "run")) == 6
    # Nor are its rows' captions learned from: the ids of the words are those that the model began with.
    assert (tmp_path / "run" / "tokenizer.json").read_text() == vocabulary


def test_a_growing_store_that_lost_a_range_of_the_epoch_is_refused(tmp_path, phantom, interrupted):
    store_of(tmp_path, phantom, ranges=[0, 1, 2])
    pipeline = vit_pipeline(tmp_path, phantom, steps=8)
    interrupted(1)
    with pytest.raises(KeyboardInterrupt):
        distill(pipeline)
    receipt(tmp_path, 1).unlink()
    commit_later(tmp_path, 3)
    with pytest.raises(IncompleteStoreError, match="1 ranges of alpha that were committed no longer are, such as 1"):
        distill(pipeline)


def test_features_of_another_spec_than_the_checkpoints_are_refused_by_name(tmp_path, phantom, interrupted):
    store = store_of(tmp_path, phantom)
    pipeline = vit_pipeline(tmp_path, phantom)
    interrupted(3)
    with pytest.raises(KeyboardInterrupt):
        distill(pipeline)
    old, info = store.spec("alpha").hash, store.info
    new = spec_of("alpha", weights="1" * 64)
    specs = tmp_path / "store" / "specs" / "alpha.json"
    specs.unlink()
    for number in range(info.ranges):
        receipt(tmp_path, number).unlink()
    commit_random(tmp_path / "store", info, new, seed=2)
    with pytest.raises(SpecMismatchError, match=rf"store\.specs\.alpha: \"{old}\" then, \"{new.hash}\" now") as caught:
        distill(pipeline)
    assert "--resume never" in caught.value.hint
    assert distill(pipeline, resume=False)


def test_a_complete_store_needs_no_ranges_in_its_checkpoints(tmp_path, phantom, interrupted):
    store = store_of(tmp_path, phantom)
    assert locate(tmp_path / "store") == store.location
    assert (store.status("alpha") == Status.OK).all()
    pipeline = vit_pipeline(tmp_path, phantom)
    interrupted(3)
    with pytest.raises(KeyboardInterrupt):
        distill(pipeline)
    (file,) = (tmp_path / ".run.partial" / CHECKPOINTS).iterdir()
    state = torch.load(file, weights_only=True)
    assert state["data"] == {}
    assert json.loads(state["run"])["store"]["specs"] == {"alpha": store.spec("alpha").hash}
    assert (state["step"], state["seed"]) == (4, 0)
