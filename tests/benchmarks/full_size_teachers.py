"""Every teacher in full size with random weights in its published form: loaded, compared with its authors', timed.

    python -m tests.benchmarks.full_size_teachers --out DIR [--teacher pmcclip ...] [--rows 8]

Prints one line per teacher: size, smallest cosine of either side, seconds to load, images and captions per second.
Exits with 1 if a cosine is below 0.99999.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional

from extract.config import ExtractPipeline
from extract.specs import teacher_spec
from extract.teacher import load_teacher
from extract.teacher_entry import TeacherEntry
from extract.weights import find_weights
from store.config import read_pipeline
from store.pipeline import PIPELINES_FILE
from tests.extract.teacher_cases import CASES, pubmedclip_authors, written
from tests.extract.teacher_inputs import CAPTIONS, normalized, pixels_of

COSINE = 0.99999
ALL = {**CASES, "pubmedclip_authors": pubmedclip_authors}


def shipped(name: str, folder: Path) -> TeacherEntry:
    """Return the entry that pipelines.yaml has for a teacher, with another folder."""
    teachers = read_pipeline(PIPELINES_FILE, "mmkd", ExtractPipeline).teachers
    entry = teachers[name] if name in teachers else teachers["pubmedclip"].readings()["authors_file"]
    return entry.model_copy(update={"folder": str(folder)})


def examine(name: str, folder: Path, rows: int) -> dict[str, object]:
    """Write, load, compare and time one teacher."""
    folder.mkdir(parents=True)
    case = written(name, folder, full=True) if name in CASES else ALL[name](folder, full=True)
    entry = shipped(name, folder)
    began = time.perf_counter()
    spec = teacher_spec(name, entry)
    planned = time.perf_counter()
    teacher = load_teacher(spec, entry)
    loaded = time.perf_counter()
    pixels_BHWC = pixels_of(teacher.geometry.size_px, count=2)
    with torch.inference_mode():
        image = functional.normalize(case.image(normalized(pixels_BHWC, case.normal)), dim=-1).numpy()
        text = functional.normalize(case.text(CAPTIONS), dim=-1).numpy()
    cosines = [
        (teacher.encode_image(pixels_BHWC) * image).sum(1).min(),
        (teacher.encode_text(CAPTIONS) * text).sum(1).min(),
    ]
    pixels_BHWC, captions = pixels_of(teacher.geometry.size_px, count=rows), [CAPTIONS[0]] * rows
    start = time.perf_counter()
    teacher.encode_image(pixels_BHWC)
    middle = time.perf_counter()
    teacher.encode_text(captions)
    end = time.perf_counter()
    return {
        "teacher": name,
        "width": spec.embed_dim,
        "file_mb": round(find_weights(name, entry).nbytes / 1e6, 1),
        "cosine_image": float(cosines[0]),
        "cosine_text": float(cosines[1]),
        "plan_s": round(planned - began, 1),
        "load_s": round(loaded - planned, 1),
        "images_per_s": round(rows / (middle - start), 1),
        "captions_per_s": round(rows / (end - middle), 1),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="An empty folder; emptied again teacher by teacher.")
    parser.add_argument("--teacher", choices=list(ALL), action="append")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    good = True
    for name in arguments.teacher or ALL:
        folder = arguments.out / name
        found = examine(name, folder, arguments.rows)
        shutil.rmtree(folder)
        good &= min(found["cosine_image"], found["cosine_text"]) > COSINE
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
