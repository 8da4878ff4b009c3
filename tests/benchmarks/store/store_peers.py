"""Make the data of other formats that a user may pick, and time their shuffled batches.

Runs in an environment of its own (numpy, torch, mosaicml-streaming, webdataset, litdata), started by `store_speed.py`.
Reads one JSON request per line: {"make": LOADER} or {"time": LOADER, "workers": W, "pairs": M}; answers one per line.
Every loader gives batches of (B, 2 T, D) float16, all teachers' features of a pair, image and text.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import itertools
import json
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

PACKAGES = {"mosaicml_streaming": "mosaicml-streaming", "webdataset": "webdataset", "litdata": "litdata"}
PER_TAR = 8192


class ReleasedPairs(Dataset):
    """One ``torch.load`` per pair, as MMKD-CLIP's loader reads its cache."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(str(path) for path in folder.glob("*.pt"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        pair = torch.load(self._paths[number], weights_only=False)
        return torch.stack([features for teacher in pair["clips"].values() for features in teacher.values()])


class Features:
    """One pair of the features, by number; importable, because litdata's writers are processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, number: int) -> dict[str, Any]:
        return {"features": np.load(self._path, mmap_mode="r")[number].copy()}


def make(loader: str, features: np.ndarray, folder: Path, *, source: Path) -> None:
    """Write features (N, 2 T, D) as a loader wants them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if loader == "released":
        for number, pair in enumerate(features):
            tensors = torch.from_numpy(pair.copy())
            clips = {
                f"teacher{t}": {"image": tensors[2 * t], "text": tensors[2 * t + 1]} for t in range(len(pair) // 2)
            }
            torch.save(
                {"clips": {t: {s: f.clone() for s, f in v.items()} for t, v in clips.items()}},
                folder / f"{number:07d}.pt",
            )
    elif loader == "mosaicml_streaming":
        from streaming import MDSWriter

        shape = ",".join(map(str, features.shape[1:]))
        with MDSWriter(out=str(folder), columns={"features": f"ndarray:float16:{shape}"}) as writer:
            for pair in features:
                writer.write({"features": pair})
    elif loader == "webdataset":
        for first in range(0, len(features), PER_TAR):
            with tarfile.open(folder / f"{first:07d}.tar", "w") as tar:
                for number, pair in enumerate(features[first : first + PER_TAR], first):
                    buffer = io.BytesIO()
                    np.save(buffer, pair)
                    entry = tarfile.TarInfo(f"{number:07d}.npy")
                    entry.size = buffer.tell()
                    buffer.seek(0)
                    tar.addfile(entry, buffer)
    else:
        from litdata import optimize

        optimize(
            fn=Features(source),
            inputs=list(range(len(features))),
            output_dir=str(folder),
            num_workers=2,
            chunk_bytes="64MB",
        )


def as_tensor(sample: dict[str, Any]) -> torch.Tensor:
    value = sample["features"] if "features" in sample else sample["npy"]
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))


def collate(samples: list[dict[str, Any]]) -> torch.Tensor:
    """Return a batch of a loader's samples."""
    return torch.stack([as_tensor(sample) for sample in samples])


def batches(loader: str, folder: Path, *, workers: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Return the shuffled batches of an epoch, by a loader's own way to shuffle."""
    common: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "drop_last": True}
    if loader == "released":
        generator = torch.Generator().manual_seed(seed)
        return iter(DataLoader(ReleasedPairs(folder), shuffle=True, generator=generator, **common))
    if loader == "mosaicml_streaming":
        from streaming import StreamingDataset

        dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch_size, shuffle_seed=seed)
        return iter(DataLoader(dataset, collate_fn=collate, **common))
    if loader == "webdataset":
        import webdataset

        tars = sorted(str(path) for path in folder.glob("*.tar"))
        dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=seed).shuffle(5000).decode()
        return iter(DataLoader(dataset, collate_fn=collate, **common))
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder), shuffle=True, seed=seed, drop_last=True)
    return iter(StreamingDataLoader(dataset, collate_fn=collate, **common))


def pairs_per_s(loader: str, folder: Path, *, workers: int, batch_size: int, pairs: int, seed: int) -> float:
    """Return pairs per second after the first batch, which starts workers, of at most ``pairs``."""
    stream = batches(loader, folder, workers=workers, batch_size=batch_size, seed=seed)
    # With workers, the batches that they prepared while the first was awaited would come for nothing.
    for _ in range(1 + 4 * workers):
        next(stream)
    start, count = time.perf_counter(), 0
    for batch in itertools.islice(stream, max(1, pairs // batch_size)):
        count += len(batch)
    return count / (time.perf_counter() - start)


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--released-pairs", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    answers, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), sys.stderr
    os.dup2(2, 1)
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        try:
            if loader := request.get("make"):
                features = np.load(options.features, mmap_mode="r")
                few = features[: options.released_pairs] if loader == "released" else features
                make(loader, few, options.folder / loader, source=options.features)
                answer: dict[str, Any] = {"version": importlib.metadata.version(PACKAGES.get(loader, "torch"))}
            else:
                # litdata's `optimize` sets it to spawn for the whole process.
                torch.multiprocessing.set_start_method("fork", force=True)
                name = request["time"]
                answer = {
                    "pairs_per_s": pairs_per_s(
                        name,
                        options.folder / name,
                        workers=request["workers"],
                        batch_size=options.batch_size,
                        pairs=request["pairs"],
                        seed=number,
                    )
                }
        except Exception as error:  # noqa: BLE001 - a peer that fails is a result
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
