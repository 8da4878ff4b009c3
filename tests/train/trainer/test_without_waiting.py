"""A step on a card, checked without one: no tensor stays on the host, and nothing makes the host wait.

Under FakeTensorMode an operation on tensors of different devices is an error, as on a card, and so is a question for a
tensor's content. Copies that wait for the device are looked for besides.
"""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.train.models.test_text_tower import bert_student, student_of
from tests.train.teacher_case import SCALES, WIDTHS, Case
from tests.train.vit import some_batch
from train.config import Optimization
from train.data.captions import Tokens
from train.data.targets import Targets
from train.losses.objective import TaskObjective
from train.models import towers as towers_module
from train.models.ema import Ema
from train.models.towers import prepare_towers
from train.recipe_sections import ImprovedRecipe, PaperRecipe
from train.recipes.improved import ImprovedObjective, TeacherFacts
from train.recipes.paper import PaperObjective
from train.recipes.projection import Projection
from train.runtime.ranks import Ranks
from train.trainer.train_step import Updater

CAPTIONS = ["cyst", "a kidney stone and a cyst", "normal brain", "", "nodule", "two stones", "a " * 20, "x"]

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class NoWaiting(TorchDispatchMode):
    """Refuses copies between host and device for which the host waits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        source = args[1] if func is COPIES[1] else args[0] if args else None
        result = func(*args, **kwargs)
        if func in COPIES and isinstance(source, Tensor) and isinstance(result, Tensor):
            waits = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            assert source.device == result.device or not waits, f"{func} from {source.device} to {result.device}"
        return result


class OneDevice(Ranks):
    """Ranks whose device is another one than a setting can name."""

    def device(self, kind):
        return torch.device("lazy")


def objective_of(name):
    case = Case(rows=8)
    if name == "task":
        return TaskObjective(), None
    given = case.given().targets.teachers
    targets = Targets(rows=8, teachers={key: part.mapped(Tensor.float, part.places_K) for key, part in given.items()})
    if name.startswith("paper"):
        projection = Projection(
            weights={teacher: torch.ones(32, width) for teacher, width in WIDTHS.items()},
            biases={teacher: torch.zeros(32) for teacher in WIDTHS},
            spec_hashes=dict.fromkeys(WIDTHS, "0"),
            settings={},
        )
        learned = {"interactive_scale": "learned", "teacher_sampling": "all"} if name == "paper learned" else {}
        return PaperObjective(PaperRecipe(**learned), projection), targets
    facts = {teacher: TeacherFacts(width=width, logit_scale=SCALES[teacher]) for teacher, width in WIDTHS.items()}
    recipe = ImprovedRecipe(**({"balance": "unic_drop", "interactive_weight": 1.0} if name == "improved more" else {}))
    return ImprovedObjective(recipe, facts, embed_dim=32, statistics=case.statistics), targets


NAMES = ["task", "paper", "paper learned", "improved", "improved more"]

WAYS = [{}, {"cached_rows": 3}, {"accumulate": 2}]

STEPS = [
    *((name, {}) for name in NAMES),
    *(("task", way) for way in (*WAYS[1:], {"gradient_checkpointing": True, "grad_clip": 1.0})),
]


def begun(card, folder, name, ranks, *, make=student_of, **settings):
    """Return an updater of a model without numbers, its batch, and its student."""
    student = make(folder)
    objective, targets = objective_of(name)
    tokens = Tokens.of(CAPTIONS, student.tokenizer)
    # Lengths stay real numbers on the host; under the mode a tensor of them would have none.
    tokens = dataclasses.replace(tokens, lengths_B=tokens.lengths_B.numpy())
    batch = dataclasses.replace(some_batch(8), tokens=tokens, targets=targets)
    settings = Optimization(steps=9, batch_size=8, lr=1e-3, device="cuda", **settings)
    with card:
        towers = prepare_towers(student, settings, ranks)
        objective.to(ranks.device("cuda"))
        return Updater(towers, objective, settings, ranks), batch, student


@pytest.fixture
def card(monkeypatch):
    """A card that is not there: pinned memory is plain memory, and small parts are worth while."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    for device in ("cuda", "lazy"):
        monkeypatch.setitem(towers_module.COSTS, device, towers_module.COSTS["cpu"])
    # Off in float32, and unknown to the other device.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    return FakeTensorMode(allow_non_fake_inputs=True)


def backward_without_a_card(monkeypatch, updater):
    """Leave gradients on the card: without one, torch's engine refuses to walk back on it."""

    def backward(roots, slopes):
        pairs = zip(roots, slopes, strict=True) if isinstance(roots, list) else [(roots, slopes)]
        assert {value.device.type for pair in pairs for value in pair} == {"cuda"}
        for parameter in updater._all:
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(torch.autograd, "backward", backward)


@pytest.mark.parametrize(("name", "way"), STEPS, ids=str)
def test_a_step_on_a_card_leaves_nothing_on_the_host_and_never_waits(tmp_path, card, monkeypatch, name, way):
    updater, batch, student = begun(card, tmp_path, name, Ranks(), **way)
    backward_without_a_card(monkeypatch, updater)
    with card, NoWaiting():
        average = Ema(student.model, decay=0.9)
        for step in range(2):
            terms = updater.update(dataclasses.replace(batch, step=step))
            average.update(step)
    assert {term.device.type for term in terms.values()} == {"cuda"}
    assert updater._towers.columns.share() < 0.7
    # What the steps leave to the lines of the log does wait.
    with card, pytest.raises(DataDependentOutputException):
        updater.divergence.require_finite()


# torch's checkpointing needs more of a device than its name.
@pytest.mark.parametrize(("name", "way"), STEPS[:-1], ids=str)
def test_the_way_back_leaves_nothing_on_the_host_and_never_waits(tmp_path, card, name, way):
    """On a device that torch's engine walks back without having it; fused optimizers do not know it."""
    updater, batch, _ = begun(card, tmp_path, name, OneDevice(), **way)
    with card, NoWaiting():
        updater.gradients(batch)
    for parameter in updater._all:
        assert parameter.grad.device.type == "lazy"


def test_a_bert_on_a_card_is_not_asked_what_its_mask_holds(tmp_path, card, monkeypatch):
    # transformers asks unless it takes the tensors for fake ones.
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda _tensor: False)
    updater, batch, _ = begun(card, tmp_path, "task", OneDevice(), make=bert_student)
    with card, NoWaiting():
        updater.gradients(batch)


@pytest.mark.parametrize(
    "fault",
    [
        lambda image_BE: image_BE.sum().item(),
        lambda image_BE: image_BE.cpu(),
        lambda image_BE: image_BE + torch.ones(8, 32),
        lambda image_BE: image_BE[image_BE > 0],
        lambda image_BE: torch.tensor([1.0, 2.0]).to(image_BE.device),
        lambda image_BE: bool(image_BE.isfinite().all()),
    ],
    ids=["a number", "a copy to the host", "a tensor of the host", "a mask", "a copy that waits", "a truth"],
)
def test_these_checks_find_a_loss_that_waits_or_mixes_devices(tmp_path, card, monkeypatch, fault):
    class Faulty(TaskObjective):
        def forward(self, image_BE, text_BE, logit_scale, given):
            fault(image_BE)
            return super().forward(image_BE, text_BE, logit_scale, given)

    updater, batch, _ = begun(card, tmp_path, "task", Ranks())
    backward_without_a_card(monkeypatch, updater)
    updater._objective = Faulty()
    with card, NoWaiting(), pytest.raises(Exception, match=r"aten\.|same device"):
        updater.update(batch)
