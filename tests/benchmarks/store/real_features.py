"""Features of real images for the benchmarks: the released cache, and what the demo's teachers make of a corpus."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import yaml
import zarr
from zarr.storage import LocalStore

Features: TypeAlias = npt.NDArray[np.floating[Any]]

CORPORA = ("medical_mnist_64", "vqa_rad", "lc25000_lung")


def released_features(data: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the released cache by teacher: (rows, D) float32, unit norm, its images' features and then its texts'."""
    import torch

    found: dict[str, dict[str, list[npt.NDArray[np.float32]]]] = defaultdict(lambda: {"img": [], "txt": []})
    for path in sorted((data / "mmkd_demo").glob("features/*/*/clips_output.pt")):
        for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items():
            teacher, side = key.rsplit("_", 1)
            found[teacher][side].append(tensor.float().numpy().reshape(-1))
    return {teacher: np.stack(sides["img"] + sides["txt"]) for teacher, sides in sorted(found.items())}


def tiny_features(data: Path, teachers: Path, out: Path) -> npt.NDArray[np.float16]:
    """Return image features of the tars by the demo's teachers, side by side: (N, teachers x 64) float16.

    Side by side they are about as wide as one real teacher. The store is made once, in ``out``.
    """
    names = sorted(folder.name for folder in teachers.iterdir() if (folder / "open_clip_config.json").exists())
    files = [str(path) for corpus in CORPORA for path in sorted((data / corpus).resolve().glob("*.tar"))]
    pipeline = {
        "corpora": {"images": {"files": files, "qualify_keys": True}},
        "teachers": {name: {"folder": str((teachers / name).resolve()), "embed_dim": 64} for name in names},
        "store": {"path": "store", "corpus": "images"},
        "extract": {"batch_size": 128},
    }
    out.mkdir(parents=True, exist_ok=True)
    config = out / "pipelines.yaml"
    config.write_text(yaml.safe_dump({"codecs": pipeline}))
    for step in (["index"], ["run", "--local"]):
        command = [sys.executable, "-m", "extract", *step, "--pipeline", "codecs", "--config", str(config)]
        subprocess.run(command, check=True, stdout=sys.stderr, env=os.environ | {"OMP_NUM_THREADS": "1"})
    arrays = zarr.open_group(LocalStore(out / "store" / "features.zarr", read_only=True), mode="r")
    usable_N = np.logical_and.reduce([arrays[f"{name}/status"][...] == 1 for name in names])
    return np.concatenate([arrays[f"{name}/image"][...] for name in names], axis=1)[usable_N]


def bits_by_field(parts: Iterable[Features]) -> list[float]:
    """Return the entropy of float16 values in bits: sign and exponent, mantissa, and the sum."""
    words = np.concatenate([part.reshape(-1).view(np.uint16) for part in parts])
    found = [entropy(words >> 10), entropy(words & 1023)]
    return [*found, sum(found)]


def entropy(symbols: npt.NDArray[np.integer[Any]]) -> float:
    """Return the entropy of symbols by their frequencies, in bits."""
    counts = np.bincount(symbols)
    share = counts[counts > 0] / len(symbols)
    return float(-np.sum(share * np.log2(share)))
