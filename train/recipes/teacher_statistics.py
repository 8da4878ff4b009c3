"""Statistics of teachers' features that are fitted before training, PHI-S and dispersion, in a file of the run.

Axes: N rows, D a teacher's width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch.distributed as dist

from store.errors import ConfigError, SpecMismatchError, StoreError
from store.files import write_atomic
from store.format.records import Side
from store.inspect.feature_statistics import draw_rows
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from train.losses.phi_s import Floats, PhiS, fit_phi_s

STATISTICS_FILE = "teacher_statistics.safetensors"
"""File name in the folder of a run."""

_METADATA_KEY = "mmkd_teacher_statistics"
_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class SideStatistics:
    """Statistics of one side of a teacher's features.

    Attributes:
        dispersion: mean squared angle between a feature and the mean feature, in square radians.
        phi_s: None if it was not asked for.
    """

    dispersion: float
    phi_s: PhiS | None


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TeacherStatistics:
    """Statistics of all teachers' features.

    Attributes:
        sides: by teacher and side.
        spec_hashes: by teacher, of the features they were fitted to.
    """

    sides: Mapping[tuple[str, Side], SideStatistics]
    spec_hashes: Mapping[str, str]

    def check_specs(self, spec_hashes: Mapping[str, str]) -> None:
        """Raise SpecMismatchError if they were fitted to other features."""
        differing = [name for name, found in spec_hashes.items() if self.spec_hashes.get(name) != found]
        if differing:
            raise SpecMismatchError(
                f"the statistics of teachers were fitted to features of other specs: {', '.join(differing)}",
                hint="train into another folder, or put the features back that they belong to",
            )

    def save(self, path: Path) -> None:
        """Write them as safetensors, atomically."""
        described = {
            "version": _VERSION,
            "spec_hashes": dict(self.spec_hashes),
            "dispersion": [[name, side, found.dispersion] for (name, side), found in self.sides.items()],
        }
        arrays = {}
        for (name, side), found in self.sides.items():
            if found.phi_s:
                arrays[f"{name}.{side}.mean"] = found.phi_s.mean_D
                arrays[f"{name}.{side}.matrix"] = np.ascontiguousarray(found.phi_s.matrix_DD)
        write_atomic(path, safetensors.numpy.save(arrays, {_METADATA_KEY: json.dumps(described, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: the file is damaged or holds something else.
        """
        try:
            with safetensors.safe_open(path, framework="np") as file:
                described: dict[str, Any] = json.loads((file.metadata() or {})[_METADATA_KEY])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return cls._from_file(described, arrays)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path}: no statistics of teachers, or damaged: {error!r}", hint="train into another folder"
            ) from error

    @classmethod
    def _from_file(cls, described: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Self:
        if described["version"] != _VERSION:
            raise ValueError(f"version {described['version']}, expected {_VERSION}")
        sides = {}
        for name, side, dispersion in described["dispersion"]:
            mean_D, matrix_DD = (arrays.get(f"{name}.{side}.{part}") for part in ("mean", "matrix"))
            phi_s = None if mean_D is None or matrix_DD is None else PhiS(mean_D=mean_D, matrix_DD=matrix_DD)
            sides[name, side] = SideStatistics(dispersion=dispersion, phi_s=phi_s)
        return cls(sides=sides, spec_hashes=described["spec_hashes"])


def fit_statistics(
    store: FeatureStore,
    teachers: Sequence[str],
    available_NT: npt.NDArray[np.bool_],
    *,
    rows: int,
    seed: int,
    phi_s: bool,
) -> TeacherStatistics:
    """Fit statistics to features of a store.

    Args:
        available_NT: rows that each teacher may teach.
        rows: largest number of features per teacher, in whole chunks drawn at random.

    Raises:
        ConfigError: a teacher has no feature, or PHI-S does not exist for its width.
    """
    reader, sides = ChunkReader(store), {}
    for number, name in enumerate(teachers):
        drawn = draw_rows(available_NT[:, number], chunk_rows=store.info.chunk_rows, rows=rows, seed=seed)
        for side in store.spec(name).sides:
            try:
                sides[name, side] = side_statistics(reader.read(drawn, teacher=name, side=side), phi_s=phi_s)
            except ValueError as error:
                raise ConfigError(
                    f"teacher {name}, {side} features: {error}",
                    hint="leave the teacher out by select:, or set improved.phi_s: false",
                ) from error
    return TeacherStatistics(sides=sides, spec_hashes={name: store.spec(name).hash for name in teachers})


def side_statistics(features_ND: npt.NDArray[np.floating[Any]], *, phi_s: bool = True) -> SideStatistics:
    """Fit statistics to unit-norm features.

    Raises:
        ValueError: they do not vary, or PHI-S does not exist for their width.
    """
    if not len(features_ND):
        raise ValueError("there are none that may be taught")
    wide_ND = features_ND.astype(np.float64)
    return SideStatistics(
        dispersion=_dispersion(wide_ND, wide_ND.mean(axis=0)), phi_s=fit_phi_s(wide_ND) if phi_s else None
    )


def _dispersion(features_ND: Floats, mean_D: Floats) -> float:
    lengths_N = np.linalg.norm(features_ND, axis=1) * np.linalg.norm(mean_D)
    cosines_N = features_ND @ mean_D / np.maximum(lengths_N, np.finfo(np.float64).tiny)
    return float(np.square(np.arccos(np.clip(cosines_N, -1, 1))).mean())


def kept_statistics(
    folder: Path, fit: Callable[[], TeacherStatistics], *, spec_hashes: Mapping[str, str]
) -> TeacherStatistics:
    """Return the statistics in a run's folder; if there are none, fit and save them first.

    With several processes, rank 0 does that for all; the others need not see its folder.

    Args:
        spec_hashes: of the features that will be read.

    Raises:
        SpecMismatchError: those in the folder were fitted to other features.
    """
    if not dist.is_initialized():
        found = _read_or_fit(folder / STATISTICS_FILE, fit)
    else:
        box = [_read_or_fit(folder / STATISTICS_FILE, fit) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(box)
        (received,) = box
        found = cast("TeacherStatistics", received)
    found.check_specs(spec_hashes)
    return found


def _read_or_fit(path: Path, fit: Callable[[], TeacherStatistics]) -> TeacherStatistics:
    if not path.exists():
        fit().save(path)
    # Read back from the file, so that a resumed run has bit-identical numbers.
    return TeacherStatistics.load(path)
