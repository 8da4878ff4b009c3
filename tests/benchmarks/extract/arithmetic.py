"""Measures how half precision, layout and kernels of attention change features and time, on a CPU.

    python -m tests.benchmarks.extract.arithmetic [--trained runs/demo/teachers]

Three of the nine architectures in full size with random weights (a ViT and a BERT of open_clip, a CLIP of transformers,
a ResNet), and trained teachers such as the demo makes. TF32 needs a card.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from extract.config import ExtractPipeline
from extract.estimate.stand_in import captions, stand_in
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import COMPUTE_DTYPES, teacher_spec
from extract.teachers.base import FrozenTeacher
from extract.teachers.loading import load_teacher
from store.cli.options import PIPELINES_FILE
from store.config.pipeline_file import read_pipeline

NINE = ("biomedclip", "plip", "pmcclip")
SETTINGS = {
    "channels_last: true": {"channels_last": True},
    "attention: math": {"attention": "math"},
    "precision: fp16": {"precision": "fp16"},
    "precision: bf16": {"precision": "bf16"},
    "precision: bf16, channels_last: true": {"precision": "bf16", "channels_last": True},
    "precision: bf16, attention: math": {"precision": "bf16", "attention": "math"},
}


def chosen(teacher: FrozenTeacher, settings: dict[str, object]) -> FrozenTeacher:
    """Return the teacher as it is when its entry has these settings; building it anew takes most of a minute."""
    dtype = COMPUTE_DTYPES[str(settings.get("precision", "fp32"))]
    teacher.spec = teacher.spec.model_copy(update={"compute_dtype": dtype})
    teacher._attention = settings.get("attention")
    layout = torch.channels_last if settings.get("channels_last") else torch.contiguous_format
    teacher._model.to(memory_format=layout)
    return teacher


def measured(teacher: FrozenTeacher, rows: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return features of images and captions, and the CPU milliseconds per row of each in the second of two passes."""
    rng, side = np.random.default_rng(0), teacher.geometry.size_px
    coarse = torch.from_numpy(rng.integers(0, 256, (rows, 3, 14, 14), np.uint8)).float()
    drawn = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 255)
    pixels_BHWC = drawn.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    found, times = [], []
    for encode, inputs in ((teacher.encode_image, pixels_BHWC), (teacher.encode_text, captions(rows))):
        encode(inputs)
        began = time.process_time()
        found.append(encode(inputs))
        times.append((time.process_time() - began) / rows * 1e3)
    return *found, times


def compare(teacher: FrozenTeacher, rows: int) -> None:
    """Print one line per setting."""
    exact = measured(chosen(teacher, {}), rows)
    print(f"| {teacher.name} | fp32 | 1 | 1 | {exact[2][0]:.0f} | {exact[2][1]:.0f} |")
    for name, settings in SETTINGS.items():
        image_BD, text_BD, times = measured(chosen(teacher, settings), rows)
        cosines = [(image_BD * exact[0]).sum(1).min(), (text_BD * exact[1]).sum(1).min()]
        cells = " | ".join(f"{cosine:.7f}" for cosine in cosines)
        print(f"| {teacher.name} | {name} | {cells} | {times[0]:.0f} | {times[1]:.0f} |", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path)
    parser.add_argument("--rows", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{arguments.rows} rows, one thread; {os.cpu_count()} cores, load {os.getloadavg()}")
    print("\n| teacher | setting | image | text | image ms | text ms |\n|---|---|---|---|---|---|")
    entries = read_pipeline(PIPELINES_FILE, "mmkd", ExtractPipeline).teachers
    for name in NINE:
        with TemporaryDirectory() as folder:
            compare(stand_in(name, entries[name], Path(folder), device="cpu"), arguments.rows)
    for folder in sorted(arguments.trained.iterdir()) if arguments.trained else ():
        entry = TeacherEntry(folder=str(folder.absolute()))
        compare(load_teacher(teacher_spec(folder.name, entry), entry), arguments.rows)


if __name__ == "__main__":
    main()
