"""The paper's auto-encoder, whose first layers become the projections of `projection.py`.

The reconstruction loss neither aligns the teachers' spaces nor fixes the norms of projected features, so norms differ
between teachers, as they do in the features that the authors published.
This module sees features as arrays; it reads no store.

Axes: B rows of a batch, D width of a teacher, E latent width (the student's), N rows of a teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from store.errors import TrainingDivergedError
from train.data.batch_order import BatchOrder

from .projection import Projection

EVALUATION_ROWS = 4096
"""Number of held-out rows per forward pass; does not affect the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFeatures:
    """One teacher's features of the rows where it is available.

    Args:
        rows: distinct store rows, (N,).
        image: image features, (N, D), of any float type, as stored.
        text: None if the teacher encodes images alone.
        spec_hash: of the spec of these features; the projection is bound to it.
    """

    rows: NDArray[np.int64]
    image: NDArray[np.floating[Any]]
    text: NDArray[np.floating[Any]] | None
    spec_hash: str

    def __post_init__(self) -> None:
        text_shape = self.image.shape if self.text is None else self.text.shape
        if self.image.ndim != 2 or self.image.shape != text_shape:
            raise ValueError(f"image and text features differ in shape: {self.image.shape}, {text_shape}")
        if self.rows.shape != self.image.shape[:1] or len(np.unique(self.rows)) != len(self.rows):
            raise ValueError(f"expected {len(self.image)} distinct rows, got {len(np.unique(self.rows))}")


class TeacherBatch(NamedTuple):
    """One teacher's part of a batch: two (B, D) sides, and a bool per row.

    Unavailable rows may hold anything, NaN included. The text is None if the teacher encodes images alone.
    """

    image: Tensor
    text: Tensor | None
    available: Tensor


class ProjectionAutoEncoder(nn.Module):
    """The auto-encoder of MMKD-CLIP (``MultiCLIP_AE`` of the released code), for all teachers of a batch at once.

    A feature passes its teacher's linear projection, gains Gaussian noise (in training only), passes an encoder and a
    decoder that the teachers share, one pair of them per side, and a linear map back to the teacher's width.

    Args:
        widths: D by teacher.
        latent_dim: width after the projection, the student's.
        hidden_dim: width inside encoder and decoder; the paper does not state it.
        dropout: after each layer of the encoders.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        latent_dim: int,
        hidden_dim: int,
        dropout: float = 0.2,
        noise_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.noise_std = noise_std
        self.project = nn.ModuleDict({teacher: nn.Linear(width, latent_dim) for teacher, width in widths.items()})
        self.restore = nn.ModuleDict({teacher: nn.Linear(latent_dim, width) for teacher, width in widths.items()})
        self.image_layers = _encoder_and_decoder(latent_dim, hidden_dim, dropout)
        self.text_layers = _encoder_and_decoder(latent_dim, hidden_dim, dropout)

    def forward(self, batch: Mapping[str, TeacherBatch]) -> Tensor:
        """Return the reconstruction loss: mean over all available (row, teacher, side) of the mean squared error."""
        error_sum, count = self.error_sum(batch)
        return error_sum / max(count, 1)

    def error_sum(self, batch: Mapping[str, TeacherBatch]) -> tuple[Tensor, int]:
        """Return the summed mean squared errors of the available features, and their number."""
        images = {teacher: part.image[part.available].float() for teacher, part in batch.items()}
        texts = {name: part.text[part.available].float() for name, part in batch.items() if part.text is not None}
        error_sum = self._side_error(images, self.image_layers)
        if texts:
            error_sum = error_sum + self._side_error(texts, self.text_layers)
        return error_sum, sum(len(feature_BD) for side in (images, texts) for feature_BD in side.values())

    def _side_error(self, features: Mapping[str, Tensor], layers: nn.Module) -> Tensor:
        latent = torch.cat([self.project[teacher](feature_BD) for teacher, feature_BD in features.items()])
        if self.training:
            latent = latent + self.noise_std * torch.randn_like(latent)
        parts = layers(latent).split([len(feature_BD) for feature_BD in features.values()])
        errors = [
            (self.restore[teacher](part) - feature_BD).square().mean(dim=1).sum()
            for (teacher, feature_BD), part in zip(features.items(), parts, strict=True)
        ]
        return torch.stack(errors).sum()


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class FittedProjection:
    """A projection with the auto-encoder's reconstruction errors on held-out rows.

    The errors are means over all (row, teacher, side) of the mean squared error. For comparison, `mse_of_mean` is the
    error of predicting the mean feature of each teacher and side: every error of unit-norm features is small.
    """

    projection: Projection
    mse_before: float
    mse_after: float
    mse_of_mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSettings:
    """Settings of an auto-encoder's fit.

    Attributes:
        latent_dim: width to project to, the student's.
        hidden_dim: width inside encoder and decoder.
        batch_size: rows of a step, each with all its teachers; at most as many as there are.
        seed: decides initial weights, noise, held-out rows and order.
        holdout: share of the rows that are kept for the report.
    """

    latent_dim: int
    hidden_dim: int
    steps: int
    batch_size: int
    lr: float
    seed: int
    holdout: float = 0.1


def fit_projection(
    features: Mapping[str, TeacherFeatures],
    settings: FitSettings,
    *,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> FittedProjection:
    """Fit the auto-encoder with Adam on a part of the rows and return its projections.

    On one device type, thread count and set of versions the result depends on the arguments only; global random states
    stay.

    Args:
        device: where to compute; the features stay where they are.
        on_step: called after each step with its number from 0 and its loss.

    Raises:
        TrainingDivergedError: the error on held-out rows is not finite.
    """
    rows = _RowTable(features)
    train, held = rows.divide(seed=settings.seed, holdout=settings.holdout)
    batch_size = min(settings.batch_size, len(train))
    order = BatchOrder(train, seed=settings.seed, batch_size=batch_size, block_rows=len(rows), window_blocks=1)
    with _local_randomness(settings.seed, torch.device(device)):
        widths = {teacher: part.image.shape[1] for teacher, part in features.items()}
        model = ProjectionAutoEncoder(widths, latent_dim=settings.latent_dim, hidden_dim=settings.hidden_dim).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
        mse_before = _holdout_mse(model, rows, held, device)
        for step, positions in islice(order.steps(), settings.steps):
            loss = model(rows.batch(positions, device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if on_step is not None:
                on_step(step, loss.item())
        mse_after = _holdout_mse(model, rows, held, device)
    if not math.isfinite(mse_after):
        raise TrainingDivergedError(
            f"the projection's error on held-out rows is {mse_after} after {settings.steps} steps with learning rate "
            f"{settings.lr}",
            hint="lower the learning rate, and check that the features are finite",
        )
    weights = model.state_dict()
    kept = {name: getattr(settings, name) for name in ("hidden_dim", "steps", "batch_size", "lr", "seed", "holdout")}
    errors = {"mse_before": mse_before, "mse_after": mse_after}
    return FittedProjection(
        projection=Projection(
            weights={teacher: weights[f"project.{teacher}.weight"].cpu() for teacher in features},
            biases={teacher: weights[f"project.{teacher}.bias"].cpu() for teacher in features},
            spec_hashes={teacher: part.spec_hash for teacher, part in features.items()},
            settings={"kind": "auto-encoder", **kept, **errors},
        ),
        mse_before=mse_before,
        mse_after=mse_after,
        mse_of_mean=rows.mse_of_mean(train, held),
    )


class _RowTable:
    """The rows that any teacher has, numbered as positions, with the index of each in each teacher's arrays."""

    def __init__(self, features: Mapping[str, TeacherFeatures]) -> None:
        if not features:
            raise ValueError("there must be at least one teacher to fit a projection")
        self._features = features
        self._rows = np.unique(np.concatenate([part.rows for part in features.values()]))
        self._index = {teacher: np.full(len(self._rows), -1) for teacher in features}
        for teacher, part in features.items():
            self._index[teacher][np.searchsorted(self._rows, part.rows)] = np.arange(len(part.rows))

    def __len__(self) -> int:
        return len(self._rows)

    def divide(self, *, seed: int, holdout: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions to fit on and those held out; neither is empty, and each teacher has some to fit on."""
        if not 0 < holdout < 1:
            raise ValueError(f"holdout must lie between 0 and 1, got {holdout}")
        positions = np.random.default_rng(seed).permutation(len(self))
        num_held = max(1, round(holdout * len(self)))
        train, held = positions[num_held:], positions[:num_held]
        poor = [teacher for teacher, index in self._index.items() if not np.any(index[train] >= 0)]
        if poor:
            raise ValueError(f"no rows to fit on, after {num_held} were held out: {', '.join(poor)}")
        return train, held

    def batch(self, positions: NDArray[np.int64], device: torch.device | str) -> dict[str, TeacherBatch]:
        """Return the features at `positions`; absent ones (index -1) hold another row's."""
        parts = {}
        for teacher, part in self._features.items():
            index = self._index[teacher][positions]
            image, available = (torch.from_numpy(array).to(device) for array in (part.image[index], index >= 0))
            text = None if part.text is None else torch.from_numpy(part.text[index]).to(device)
            parts[teacher] = TeacherBatch(image, text, available)
        return parts

    def mse_of_mean(self, train: NDArray[np.int64], held: NDArray[np.int64]) -> float:
        """Return the held-out error of predicting each teacher's and side's mean over the fitted rows."""
        errors = []
        for teacher, part in self._features.items():
            fitted_on, held_out = (
                index[index >= 0] for index in (self._index[teacher][train], self._index[teacher][held])
            )
            for side in (part.image, part.text) if part.text is not None else (part.image,):
                mean = side[fitted_on].mean(axis=0, dtype=np.float64)
                errors.append(((side[held_out] - mean) ** 2).mean(axis=1))
        return float(np.concatenate(errors).mean())


def _encoder_and_decoder(latent_dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(latent_dim, hidden_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, latent_dim),
    )


@torch.no_grad()
def _holdout_mse(
    model: ProjectionAutoEncoder, rows: _RowTable, held: NDArray[np.int64], device: torch.device | str
) -> float:
    model.eval()
    error_sum, count = 0.0, 0
    for start in range(0, len(held), EVALUATION_ROWS):
        part_sum, part_count = model.error_sum(rows.batch(held[start : start + EVALUATION_ROWS], device))
        error_sum, count = error_sum + part_sum.item(), count + part_count
    model.train()
    return error_sum / count


@contextmanager
def _local_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators of `device` and the CPU, which dropout and initial weights use, and restore them."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
