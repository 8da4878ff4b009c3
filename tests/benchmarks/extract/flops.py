"""Counts the FLOPs of each teacher in full size for one image and one caption, and the hours of a card for a corpus.

Weights are random, which changes no count. A multiplication with its addition is two FLOPs.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from extract.config import ExtractPipeline
from extract.estimate.stand_in import captions, stand_in
from store.config.pipeline_file import read_pipeline

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
    total = 0.0
    for name, entry in read_pipeline(Path("pipelines.yaml"), options.pipeline, ExtractPipeline).teachers.items():
        with tempfile.TemporaryDirectory() as folder:
            teacher = stand_in(name, entry, Path(folder), device="cpu")
        side, texts = teacher.geometry.size_px, captions(BATCH)
        calls = [partial(teacher.encode_image, np.zeros((BATCH, side, side, 3), np.uint8))]
        calls += [partial(teacher.encode_text, texts)] if "text" in teacher.spec.sides else []
        counts = []
        for call in calls:
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(counter.get_total_flops() / BATCH / 1e9)
        total += sum(counts)
        print(f"| {name} | {' | '.join(f'{count:.1f}' for count in counts)} |", flush=True)
    hours = total * 1e9 * options.rows / (options.sustained * 1e12) / 3600
    at = f"{hours:.1f} hours at {options.sustained:g} TFLOP/s"
    print(f"all: {total:,.0f} GFLOP a pair; {options.rows:,} pairs take {at}")


if __name__ == "__main__":
    main()
