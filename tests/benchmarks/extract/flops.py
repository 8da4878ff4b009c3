"""Counts the FLOPs of each teacher in full size for one image and one caption, and plans a corpus on a card.

Weights are random, which changes no count. A multiplication with its addition is two FLOPs. ``extract plan`` then says
the hours and the disk of a store of so many pairs without features, from the speed that a card of this rate would have.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from extract.config import ExtractPipeline
from extract.estimate.stand_in import captions, stand_in
from extract.teacher_files.entry import TeacherEntry
from store.config.pipeline_file import read_pipeline
from store.config.yaml_tree import parse
from tests.benchmarks.store.synthetic_store import make_store

BATCH = 8
"""Captions of a batch, of 6 to 110 words, are padded to the longest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="mmkd", help="the pipeline whose teachers are counted")
    parser.add_argument("--rows", type=int, default=2_900_000, help="pairs of the corpus")
    parser.add_argument("--sustained", type=float, default=50.0, help="TFLOP/s that the card keeps up: an assumption")
    options = parser.parse_args()
    # The fused attention of torch is one operation that the counter does not know.
    torch.backends.mha.set_fastpath_enabled(False)
    print("| teacher | GFLOP an image | GFLOP a caption |\n| --- | --- | --- |")
    entries = read_pipeline(Path("pipelines.yaml"), options.pipeline, ExtractPipeline).teachers
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        counts = {name: counted(name, entry, here / name) for name, entry in entries.items()}
        print(f"all: {sum(map(sum, counts.values())):,.0f} GFLOP a pair", flush=True)
        plan(here, counts, options)


def counted(name: str, entry: TeacherEntry, folder: Path) -> list[float]:
    """Return the GFLOP of an image and, if it encodes them, of a caption; leave a stand-in's files in a folder."""
    teacher = stand_in(name, entry, folder, device="cpu")
    side, texts = teacher.geometry.size_px, captions(BATCH)
    calls = [partial(teacher.encode_image, np.zeros((BATCH, side, side, 3), np.uint8))]
    calls += [partial(teacher.encode_text, texts)] if "text" in teacher.spec.sides else []
    found = []
    for call in calls:
        with FlopCounterMode(display=False) as counter:
            call()
        found.append(counter.get_total_flops() / BATCH / 1e9)
    print(f"| {name} | {' | '.join(f'{count:.1f}' for count in found)} |", flush=True)
    return found


def plan(here: Path, counts: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Run ``extract plan`` for a store of pairs without features."""
    profile = {
        name: dict(
            zip(("images_per_s", "captions_per_s"), (options.sustained * 1e3 / one for one in each), strict=False)
        )
        for name, each in counts.items()
    }
    (here / "assumed.json").write_text(json.dumps(profile))
    list(make_store(here / "store", rows=options.rows, widths={}, present={}))
    pipeline = parse(Path("pipelines.yaml").read_text()).data[options.pipeline]
    teachers = {name: entry | {"folder": str(here / name)} for name, entry in pipeline["teachers"].items()}
    store = {"path": str(here / "store"), "corpus": "pairs"}
    asked = {"corpora": {"pairs": {"files": ["*.tar"]}}, "store": store, "teachers": teachers}
    (here / "pipelines.yaml").write_text(yaml.safe_dump({"paper": asked}))
    chosen = ["--pipeline", "paper", "--config", str(here / "pipelines.yaml"), "--profile", str(here / "assumed.json")]
    subprocess.run([sys.executable, "-m", "extract", "plan", *chosen], check=True)


if __name__ == "__main__":
    main()
