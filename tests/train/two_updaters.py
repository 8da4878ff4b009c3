"""One of several processes that make a step of a real model together.

python -m tests.train.two_updaters RANK SIZE FOLDER; the same function with one process is what they are compared with.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from store.errors import TrainingDivergedError
from train.config import Optimization
from train.data.captions import Tokens
from train.losses.objective import TaskObjective
from train.models.towers import prepare_towers
from train.runtime.ranks import Agreement, Ranks
from train.trainer.train_step import Updater

from .vit import some_batch, vit_student

CAPTIONS = ["cyst", "nodule", "x", "a", "a kidney stone and a cyst", "", "two stones", "a b c d e f g h i j"]
"""The captions of the first process are of one or two lengths, so that it has fewer parts than the second one."""


class Poisoned(TaskObjective):
    """The task's loss, which is not finite in the last process from step 1 on."""

    def __init__(self, *, poisoned):
        super().__init__()
        self._poisoned = poisoned

    def forward(self, image_BE, text_BE, logit_scale, given):
        loss = super().forward(image_BE, text_BE, logit_scale, given)["loss"]
        return {"loss": loss * math.inf if self._poisoned and given.step else loss}


def updater_of(folder, ranks, objective):
    student = vit_student(folder / str(ranks.rank))
    settings = Optimization(steps=9, batch_size=8, lr=1e-3)
    return student, Updater(prepare_towers(student, settings, ranks), objective, settings, ranks)


def share_of(student, ranks, *, step=0):
    rows = 8 // ranks.world_size
    whole = dataclasses.replace(some_batch(8, step=step), tokens=Tokens.of(CAPTIONS, student.tokenizer))
    return whole.part(rows * ranks.rank, rows * (ranks.rank + 1))


def gradients(folder, ranks):
    """Return the gradients of one step, and how often the text tower ran for it."""
    student, updater = updater_of(folder, ranks, TaskObjective())
    passes, text = [], updater._towers._text
    updater._towers._text = lambda ids_BL: passes.append(ids_BL.shape) or text(ids_BL)
    updater.gradients(share_of(student, ranks))
    return {"parts": len(passes), "gradients": {name: p.grad for name, p in student.model.named_parameters()}}


def diverged(folder, ranks):
    """Return the weights after each of four steps, of which the second one diverges, and the message."""
    student, updater = updater_of(folder, ranks, Poisoned(poisoned=ranks.rank == ranks.world_size - 1))
    weights = []
    for step in range(4):
        updater.update(share_of(student, ranks, step=step))
        weights.append({name: p.detach().clone() for name, p in student.model.named_parameters()})
    try:
        updater.divergence.require_finite()
    except TrainingDivergedError as error:
        return {"weights": weights, "message": str(error)}
    return {"weights": weights, "message": None}


def compute(folder, ranks):
    """Return what this process found."""
    agreed = Agreement(ranks)
    flags = [agreed(flag=ranks.rank == 1 and call == 1) for call in range(4)]
    return {"step": gradients(folder, ranks), "diverged": diverged(folder, ranks), "flags": flags}


def main():
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    found = compute(folder, Ranks(rank=rank, world_size=size, control=dist.new_group(backend="gloo")))
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
