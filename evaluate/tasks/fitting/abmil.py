"""Attention-based multiple-instance learning (ABMIL): from a bag of patch features to a few numbers.

Ilse, Tomczak and Welling 2018, with their gate: h = ReLU(W x) of every patch, its attention a = softmax over the bag of
w^T (tanh(V h) * sigmoid(U h)), and a linear layer on the sum of a h. Before it every feature is standardized by the
patches of the training bags: entries of unit-norm embeddings are small, columns of tables of any size.

Axes: N bags, B bags of a batch, P patches of the largest bag, D feature width, H hidden width, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from evaluate.tasks.inputs import Array

from .early_stopping import Stopped, seeded, train_until_no_better

Loss = Callable[[torch.Tensor, npt.NDArray[np.int64]], torch.Tensor]
"""Maps outputs (B, K) and the numbers of their bags to a mean loss."""

PATCHES = 16_384
"""Patches that are scored together: 64 MiB of hidden activations of width 1,024."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Abmil:
    """Architecture and training of the network.

    Attributes:
        attention: width of the attention's own layer.
        dropout: after the first layer and before the last.
        batch: bags per step.
        epochs: at most; exactly if there is no validation.
        patience: epochs without a better validation score before it stops.
        seeds: one network each.
        max_patches: patches of a bag in training, drawn anew in every epoch; scoring uses every patch.
    """

    hidden: int = 128
    attention: int = 128
    dropout: float = 0.0
    lr: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 32
    epochs: int = 100
    patience: int = 10
    max_patches: int = 2048
    seeds: Sequence[int] = (0,)
    device: str = "cpu"


class GatedAttention(torch.nn.Module):
    """The network.

    Args:
        bags: training bags, for the mean and spread of every feature.
        outputs: K.
    """

    mean_D: torch.Tensor
    scale_D: torch.Tensor

    def __init__(self, bags: Sequence[Array], outputs: int, settings: Abmil) -> None:
        super().__init__()
        mean_D, scale_D = _moments(bags)
        self.register_buffer("mean_D", torch.from_numpy(mean_D))
        self.register_buffer("scale_D", torch.from_numpy(scale_D))
        width = bags[0].shape[1]
        self.project = torch.nn.Sequential(
            torch.nn.Linear(width, settings.hidden), torch.nn.ReLU(), torch.nn.Dropout(settings.dropout)
        )
        self.value = torch.nn.Linear(settings.hidden, settings.attention)
        self.gate = torch.nn.Linear(settings.hidden, settings.attention)
        self.weigh = torch.nn.Linear(settings.attention, 1)
        self.output = torch.nn.Sequential(torch.nn.Dropout(settings.dropout), torch.nn.Linear(settings.hidden, outputs))

    def forward(self, bag_BPD: torch.Tensor, there_BP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs, (B, K), and the attention of every patch, (B, P), 0 where a shorter bag has none."""
        hidden_BPH = self.project((bag_BPD - self.mean_D) / self.scale_D)
        weight_BP = self.weigh(torch.tanh(self.value(hidden_BPH)) * torch.sigmoid(self.gate(hidden_BPH))).squeeze(-1)
        attention_BP = torch.softmax(weight_BP.masked_fill(~there_BP, -torch.inf), dim=1)
        return self.output(torch.einsum("bp,bph->bh", attention_BP, hidden_BPH)), attention_BP


def train_abmil(
    bags: Sequence[Array],
    loss: Loss,
    *,
    outputs: int,
    settings: Abmil,
    seed: int,
    validate: Callable[[GatedAttention], float] | None = None,
) -> tuple[GatedAttention, Stopped]:
    """Train the network on bags.

    Args:
        bags: N arrays (P, D), each with its own P.
        seed: decides weights, order, dropout and drawn patches.
        validate: returns the network's score on other bags, higher is better.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    order = np.random.default_rng(seed)
    with seeded(seed):
        model = GatedAttention(bags, outputs, settings).to(settings.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

        def epoch(_: int) -> float:
            losses = []
            for numbers_B in np.array_split(order.permutation(len(bags)), -(-len(bags) // settings.batch)):
                drawn = [_some_patches(bags[number], settings.max_patches, order) for number in numbers_B]
                output_BK, _ = model(*padded(drawn, settings.device))
                value = loss(output_BK, numbers_B)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(value.item())
            return float(np.mean(losses))

        stopped = train_until_no_better(
            model,
            epoch=epoch,
            validate=None if validate is None else lambda: validate(model),
            epochs=settings.epochs,
            patience=settings.patience,
        )
    return model, stopped


@torch.no_grad()
def outputs_of(model: GatedAttention, bags: Sequence[Array], *, device: str) -> npt.NDArray[np.float64]:
    """Return the outputs of every bag, (N, K), all patches counted.

    Small bags go together, as many as make PATCHES with their padding, a larger one goes alone.
    """
    model.eval()
    found, together = [], list[Array]()
    for place, bag in enumerate(bags):
        together.append(bag)
        longest = max(len(own) for own in [*together, *bags[place + 1 : place + 2]])
        if (len(together) + 1) * longest > PATCHES or place + 1 == len(bags):
            found.append(model(*padded(together, device))[0].double().cpu().numpy())
            together = []
    return np.concatenate(found)


def padded(bags: Sequence[Array], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bags as one tensor, (B, P, D) float32, filled up with zeros, and which patches are there, (B, P)."""
    longest = max(len(bag) for bag in bags)
    bag_BPD = torch.zeros(len(bags), longest, bags[0].shape[1])
    there_BP = torch.zeros(len(bags), longest, dtype=torch.bool)
    for place, bag in enumerate(bags):
        bag_BPD[place, : len(bag)] = torch.from_numpy(np.asarray(bag, np.float32))
        there_BP[place, : len(bag)] = True
    return bag_BPD.to(device), there_BP.to(device)


def _some_patches(bag: Array, count: int, rng: np.random.Generator) -> Array:
    """Return a bag, or so many patches of a larger one."""
    return bag if len(bag) <= count else bag[np.sort(rng.choice(len(bag), count, replace=False))]


def _moments(bags: Sequence[Array]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return mean and standard deviation of every feature over all patches; 1 for one that never varies."""
    count = sum(len(bag) for bag in bags)
    mean_D = sum(bag.sum(axis=0, dtype=np.float64) for bag in bags) / count
    variance_D = sum(((bag - mean_D) ** 2).sum(axis=0) for bag in bags) / count
    scale_D = np.sqrt(np.where(variance_D > 1e-12 * np.maximum(1, mean_D**2), variance_D, 1))
    return np.asarray(mean_D, np.float32), np.asarray(scale_D, np.float32)
