"""The paper's projections: one fixed linear map per teacher to the student's width, as a file.

They are applied to cached features before the losses; `autoencoder.py` fits them. A projection belongs to the specs
whose features it was fitted on.

Axes: B rows of a batch, D width of a teacher, E the student's width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
from torch import Tensor
from torch.nn import functional

from store.errors import FormatVersionError, SpecMismatchError, StoreError, WeightsNotFoundError
from store.files import write_atomic
from train.losses.contrastive import no_autocast

FORMAT_VERSION = 1
"""Version of the file that `Projection.save` writes."""

_METADATA_KEY = "mmkd_projection"  # A single key: safetensors writes several keys in no fixed order.


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """Fixed linear maps from each teacher's width to the student's, and the specs that they were fitted on.

    Args:
        weights: by teacher, (E, D) float32.
        biases: by teacher, (E,) float32.
        spec_hashes: by teacher, of the features that the maps were fitted to.
        settings: of the fit, JSON values.
    """

    weights: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]
    spec_hashes: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def latent_dim(self) -> int:
        """E, the width of projected features."""
        return len(next(iter(self.biases.values())))

    def check_specs(self, spec_hashes: Mapping[str, str]) -> None:
        """Raise SpecMismatchError that names every teacher of `spec_hashes` whose features were not fitted."""
        differing = [
            f"{teacher}: fitted on {self.spec_hashes.get(teacher, 'nothing')}, the store holds {spec_hash}"
            for teacher, spec_hash in spec_hashes.items()
            if self.spec_hashes.get(teacher) != spec_hash
        ]
        if differing:
            raise SpecMismatchError(
                "the projection was fitted on features of other specs:\n  " + "\n  ".join(differing),
                hint="fit it again on this store: python -m train project",
            )

    def save(self, path: Path) -> None:
        """Write the projection as safetensors, atomically."""
        described = {
            "version": FORMAT_VERSION,
            "latent_dim": self.latent_dim,
            "teachers": {
                teacher: {"width": weight.shape[1], "spec_hash": self.spec_hashes[teacher]}
                for teacher, weight in self.weights.items()
            },
            "settings": dict(self.settings),
        }
        tensors = {f"{teacher}.weight": weight.contiguous().cpu() for teacher, weight in self.weights.items()}
        tensors |= {f"{teacher}.bias": bias.contiguous().cpu() for teacher, bias in self.biases.items()}
        write_atomic(path, safetensors.torch.save(tensors, {_METADATA_KEY: json.dumps(described, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            WeightsNotFoundError: there is no such file.
            FormatVersionError: it was written in another version of the format.
            StoreError: the file is damaged or no projection.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {})[_METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            if described["version"] != FORMAT_VERSION:
                raise FormatVersionError(
                    f"{path}: projection of format version {described['version']}, expected {FORMAT_VERSION}"
                )
            return cls._from_file(described, tensors)
        except FileNotFoundError as error:
            raise WeightsNotFoundError(
                f"{path}: there is no projection", hint="fit one: python -m train project"
            ) from error
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path}: not a projection, or damaged: {error!r}", hint="fit it again: python -m train project"
            ) from error

    @classmethod
    def _from_file(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        teachers: Mapping[str, Mapping[str, Any]] = described["teachers"]
        for teacher, entry in teachers.items():
            expected = (described["latent_dim"], entry["width"])
            shapes = tensors[f"{teacher}.weight"].shape, tensors[f"{teacher}.bias"].shape
            if shapes != (expected, expected[:1]):
                raise ValueError(f"weights of {teacher} should have shape {expected}, not {(*shapes[0],)}")
        return cls(
            weights={teacher: tensors[f"{teacher}.weight"] for teacher in teachers},
            biases={teacher: tensors[f"{teacher}.bias"] for teacher in teachers},
            spec_hashes={teacher: entry["spec_hash"] for teacher, entry in teachers.items()},
            settings=described["settings"],
        )


def apply_projection(features_BD: Tensor, weight_ED: Tensor, bias_E: Tensor) -> Tensor:
    """Return features projected by one teacher's map, in the map's dtype, also inside an autocast region."""
    with no_autocast(features_BD):
        return functional.linear(features_BD.to(weight_ED.dtype), weight_ED, bias_E)
