"""The training loop: learning rate, weight decay, metrics, and what a loss that is not finite says."""

from __future__ import annotations

import itertools
import json
import math
import re
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from store import console
from store.errors import TrainingDivergedError
from train.config import ModelSection, Optimization
from train.data.batches import Batch
from train.data.captions import Tokens
from train.losses.objective import Objective, TaskObjective
from train.models.model_folder import begin_model
from train.runtime.checkpoint import Checkpoints
from train.trainer.train_step import learning_rate, make_optimizer
from train.trainer.trainer import RunFiles, fit

WORDS = ["kidney stone", "normal brain", "colon polyp", "gallstone"]


class Function(Objective):
    """An objective that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image_BE, text_BE, logit_scale, given):
        return self.function(image_BE, text_BE, logit_scale, given)


def settings_of(**changes):
    return Optimization(**{"steps": 7, "batch_size": 4, "lr": 2e-3, "log_every": 3, **changes})


@pytest.fixture
def student(tmp_path, tiny_model):
    return begin_model(tmp_path / "model", ModelSection(**tiny_model), WORDS, seed=0)


class Batches:
    """The same four pairs in every step."""

    def __init__(self, student):
        self.student = student

    def batches(self, start):
        return itertools.islice(batches(self.student, 99), start, None)

    def state(self):
        return {}


def batches(student, count):
    pixels = torch.from_numpy(np.random.default_rng(1).integers(256, size=(4, 64, 64, 3), dtype=np.uint8))
    tokens = Tokens.of(WORDS, student.tokenizer)
    for step in range(count):
        yield Batch(step=step, rows_B=np.arange(4) + 20, pixels_BHWC=pixels, tokens=tokens, targets=None)


def test_the_learning_rate_warms_up_in_a_line_and_falls_as_a_cosine():
    settings = settings_of(steps=10, warmup_steps=4, lr=2.0)
    found = [learning_rate(step, settings) for step in range(10)]
    assert found[:4] == [0.5, 1.0, 1.5, 2.0]
    assert found[4:] == pytest.approx([1 + math.cos(math.pi * part / 6) for part in range(6)])
    assert learning_rate(10, settings) == pytest.approx(0)
    assert learning_rate(0, settings_of(lr=2.0)) == 2.0


def test_only_matrices_decay(student):
    optimizer = make_optimizer(student.model, settings_of(weight_decay=0.3))
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {parameter.ndim for parameter in plain["params"]} <= {0, 1}
    assert min(parameter.ndim for parameter in decayed["params"]) == 2
    assert any(parameter is student.model.logit_scale for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(student.model.parameters()))


def test_training_lowers_the_loss_and_writes_a_line_every_few_steps_and_at_the_end(student, tmp_path, caplog):
    settings = settings_of(steps=15, log_every=6)
    with caplog.at_level("INFO"):
        fit(student, Batches(student), TaskObjective(), settings, files=RunFiles(folder=tmp_path, label="test"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 6, 12, 14]
    assert [line["lr"] for line in lines] == pytest.approx([learning_rate(line["step"], settings) for line in lines])
    assert set(lines[0]) == {"step", "loss", "lr", "logit_scale", "text_columns", "step_flops", "seconds"}
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    # Captions this short are one part, as wide as the longest.
    longest = int(Tokens.of(WORDS, student.tokenizer).lengths_B.max())
    assert lines[0]["text_columns"] == pytest.approx(longest / 24, abs=1e-4)
    assert lines[0]["text_columns"] < lines[0]["step_flops"] < 1
    (told,) = [text for text in caplog.messages if "padded columns" in text]
    assert told.startswith(f"test: captions take {100 * lines[0]['text_columns']:.0f} % of")
    assert not student.model.training


def test_the_share_of_columns_is_told_once_also_by_a_run_shorter_than_its_metrics_interval(student, tmp_path, caplog):
    caplog.set_level("INFO")
    settings = settings_of(steps=3, log_every=50)
    fit(student, Batches(student), TaskObjective(), settings, files=RunFiles(folder=tmp_path, label="test"))
    assert len([text for text in caplog.messages if "padded columns" in text]) == 1


def test_the_progress_line_has_loss_learning_rate_and_pairs_per_second(student, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(console, "FIRST_S", 0.0)
    monkeypatch.setattr(console, "PROGRESS_INTERVAL_S", 0.0)
    caplog.set_level("INFO", logger="store.console")
    settings = settings_of(steps=7, log_every=3)
    fit(student, Batches(student), TaskObjective(), settings, files=RunFiles(folder=tmp_path, label="test"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shown = [record.getMessage() for record in caplog.records if record.name == "store.console"]
    assert len(shown) == 7
    for step, told in enumerate(shown):
        line = lines[step // 3]
        assert re.fullmatch(
            rf"test: {step + 1} of 7 steps, [\d.]+/s, \d+ s left; "
            rf"loss {line['loss']:.4g}, lr {line['lr']:.3g}, [\d,]+ pairs/s",
            told,
        )


def test_the_logit_scale_starts_where_it_is_told_and_stays_below_its_bound(student, tmp_path):
    settings = settings_of(steps=1, logit_scale_init=99.99, lr=0.5)
    fit(
        student,
        Batches(student),
        Function(lambda image, text, scale, given: {"loss": -scale + 0 * image.sum() + 0 * text.sum()}),
        settings,
        files=RunFiles(folder=tmp_path, label="test"),
    )
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["loss"] == pytest.approx(-99.99, rel=1e-4)
    assert line["logit_scale"] == pytest.approx(100, rel=1e-5)


@pytest.mark.parametrize(
    "poison",
    [lambda loss, now: loss * (math.nan if now else 1.0), lambda loss, now: loss + (math.inf if now else 0.0)],
    ids=["its gradient is not finite either", "its gradient is finite"],
)
def test_a_loss_that_is_not_finite_names_step_terms_and_rows_and_changes_no_weight(student, tmp_path, poison):
    seen = {}

    def objective(image_BE, text_BE, logit_scale, given):
        if given.step == 2:
            seen.update({name: tensor.clone() for name, tensor in student.model.named_parameters()})
        return {"loss": poison(image_BE.sum(), given.step == 2), "task_loss": torch.tensor(0.25)}

    with pytest.raises(
        TrainingDivergedError, match=r"step 2: .*loss (nan|inf), task_loss 0\.25.*rows \[20, 21, 22, 23\]"
    ) as e:
        fit(
            student, Batches(student), Function(objective), settings_of(), files=RunFiles(folder=tmp_path, label="test")
        )
    assert "optimization.lr" in e.value.hint
    assert all(torch.equal(tensor, seen[name]) for name, tensor in student.model.named_parameters())


@pytest.mark.parametrize("changes", [{"steps": 1}, {"checkpoint_every": 1}, {"checkpoint_every": 1, "grad_clip": 1.0}])
def test_a_gradient_that_is_not_finite_is_never_kept(student, tmp_path, changes):
    def objective(image_BE, text_BE, logit_scale, given):
        # The slope of a root is infinite at 0.
        return {"loss": (0 * image_BE.sum()).abs().sqrt() + 0 * text_BE.sum() + 0 * logit_scale}

    checkpoints = Checkpoints(tmp_path / "checkpoints", kept=1)
    with pytest.raises(TrainingDivergedError, match=r"step 0: the gradient is not finite, .*; rows \[20, 21, 22, 23\]"):
        fit(
            student,
            Batches(student),
            Function(objective),
            settings_of(**changes),
            files=RunFiles(folder=tmp_path, label="test", checkpoints=checkpoints),
        )
    assert checkpoints.latest() is None


def test_a_run_that_goes_on_holds_no_tensor_of_the_checkpoint_that_it_began_from(student, tmp_path):
    files = RunFiles(folder=tmp_path, label="test", checkpoints=Checkpoints(tmp_path / "checkpoints", kept=1))
    settings = settings_of(ema=0.5, checkpoint_every=4, validate_every=6)
    fit(student, Batches(student), TaskObjective(), settings, files=files)
    saved, seen = files.checkpoints.latest(), []
    weights = [weakref.ref(tensor) for tensor in (*saved["model"].values(), *saved["ema"].values())]
    fit(
        student,
        Batches(student),
        TaskObjective(),
        settings,
        files=files,
        saved=saved,
        validate=lambda _: seen.append(sum(weight() is not None for weight in weights)) or {},
    )
    assert seen[0] == 0
    assert set(saved) <= {"step", "seed", "data", "run", "format"}


def test_a_fused_update_is_the_plain_one_and_its_flag_leaves_weights_and_their_history_alone():
    def weights_after(steps, *, fused, stopped_at=None):
        module = nn.Linear(5, 3, dtype=torch.float64)
        with torch.no_grad():
            for place, parameter in enumerate(module.parameters(), 1):
                parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape).sin() * place)
        optimizer = make_optimizer(module, settings_of(weight_decay=0.3))
        if not fused:
            plain = [{**group, "fused": False, "foreach": False} for group in optimizer.param_groups]
            optimizer = torch.optim.AdamW(plain)
        for step in range(steps):
            for parameter in module.parameters():
                parameter.grad = (parameter.detach() + step).cos()
            if fused:
                optimizer.found_inf = torch.tensor(float(step == stopped_at))
            optimizer.step()
        return [parameter.detach() for parameter in module.parameters()]

    for ours, plain in zip(weights_after(20, fused=True), weights_after(20, fused=False), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-13, atol=1e-15)
    for ours, before in zip(weights_after(6, fused=True, stopped_at=5), weights_after(5, fused=True), strict=True):
        assert torch.equal(ours, before)
