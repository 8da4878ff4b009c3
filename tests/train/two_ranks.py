"""One of several processes that compute losses and gradients of a batch together, with gloo and DDP.

python -m tests.train.two_ranks RANK SIZE FOLDER; the same function with one process is what they are compared with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from train.losses.gather import Across
from train.losses.objective import TaskObjective
from train.recipe_sections import PaperRecipe
from train.recipes.paper import PaperObjective
from train.recipes.projection import Projection
from train.runtime.ranks import Ranks

from .teacher_case import STUDENT, WIDTHS, Case

ROWS = 9
SHARES = {1: [np.arange(ROWS)], 2: [np.arange(5), np.arange(5, ROWS)]}
"""Rows of each process; uneven, as after an image that could not be read."""

IMPROVED = {
    "improved": {},
    "improved_everything": {"interactive_weight": 1.0, "heads": "mlp", "distance": "angular"},
    "improved_uncertainty": {"balance": "uncertainty", "phi_s": False},
    "improved_unic_drop": {"balance": "unic_drop"},
    "improved_one_sided": {"interactive_weight": 1.0, "balance": "unic_drop"},
}
PAPER = {
    "paper": {},
    "paper_global": {"local_loss": False},
    "paper_learned_all": {"interactive_scale": "learned", "teacher_sampling": "all"},
    "paper_one_sided": {"interactive_scale": "learned", "local_loss": False},
    "paper_global_learned_all": {"interactive_scale": "learned", "teacher_sampling": "all", "local_loss": False},
}
NAMES = ["task", *PAPER, *IMPROVED]


class Towers(nn.Module):
    """Two linear towers and a logit scale."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(8)
        self.image = nn.Parameter(torch.randn(STUDENT, STUDENT, generator=generator, dtype=torch.float64))
        self.text = nn.Parameter(torch.randn(STUDENT, STUDENT, generator=generator, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, image, text):
        return image @ self.image, text @ self.text, self.log_scale.exp()


def objective_of(name, case):
    if name == "task":
        return TaskObjective()
    if name in IMPROVED:
        return case.objective(**IMPROVED[name])
    generator = torch.Generator().manual_seed(2)
    projection = Projection(
        weights={teacher: torch.randn(STUDENT, width, generator=generator) for teacher, width in WIDTHS.items()},
        biases={teacher: torch.randn(STUDENT, generator=generator) for teacher in WIDTHS},
        spec_hashes=dict.fromkeys(WIDTHS, "0"),
        settings={},
    )
    return PaperObjective(PaperRecipe(feature_dtype="fp32", **PAPER[name]), projection).double()


def compute(name, rank, size):
    """Return the loss and the gradients that this process sees, those of DDP averaged."""
    case = Case(seed=4, rows=ROWS, one_sided=("b",) if name.endswith("one_sided") else ())
    # The last process has no row of the first teacher at all.
    case.mask["a"][5:] = False
    rows = SHARES[size][rank]
    towers, objective = Towers(), objective_of(name, case)
    shared = DistributedDataParallel(towers) if size > 1 else towers
    image, text = (torch.from_numpy(case.student[side][rows]) for side in ("image", "text"))
    terms = objective(*shared(image, text), case.given(order=rows))
    terms["loss"].backward()
    Ranks(rank=rank, world_size=size).average(objective.parameters())
    parameters = {**dict(towers.named_parameters()), **dict(objective.named_parameters())}
    return {
        "terms": {key: value.detach() for key, value in terms.items()},
        "gradients": {key: parameter.grad for key, parameter in parameters.items()},
    }


def weighted_mean(rank):
    """Return the mean that this process sees of the totals 1, 2, ... with these weights, and its weight afterwards."""
    weight = torch.tensor(rank + 1.0)
    return {"mean": Across.current().mean(torch.tensor(rank + 1.0), weight), "weight": weight}


def main():
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    found = {name: compute(name, rank, size) for name in NAMES} | {"weighted": weighted_mean(rank)}
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
