"""Every teacher in full size with random weights in its published form: loaded, compared with its authors', timed.

    python -m tests.benchmarks.extract.full_size_teachers --out DIR [--teacher pmcclip --teacher pmcclip/cls ...]

A variant of pipelines.yaml is named with its teacher, TEACHER/VARIANT.
Prints a line per teacher: size, smallest cosine of either side, seconds to load, images and captions per second.
Exits with 1 if a cosine is below 0.99999.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from extract.config import ExtractPipeline
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.weights import find_weights
from extract.teachers.loading import load_teacher
from store.cli.options import PIPELINES_FILE
from store.config.pipeline_file import read_pipeline
from tests.benchmarks.tables import table
from tests.extract import teacher_cases as cases
from tests.extract.teacher_inputs import CAPTIONS, normalized, pixels_of
from tests.extract.teacher_references import quick_gelu

COSINE = 0.99999
ALL = {
    **cases.CASES,
    "quiltnet/quick_gelu": partial(cases.open_clip_hub, act=quick_gelu),
    "quiltnet/b16": partial(cases.open_clip_hub, patch=16),
    "quiltnet/b16_pmb": cases.biomedclip,
    "genmedclip/quick_gelu": partial(cases.open_clip_hub, patch=16, act=quick_gelu),
    "pubmedclip/authors_file": cases.pubmedclip_authors,
    "pmcclip/heads32": partial(cases.pmcclip, heads=32),
    "pmcclip/cls": partial(cases.pmcclip, text_feature="cls"),
    "pmcclip/heads32_cls": partial(cases.pmcclip, heads=32, text_feature="cls"),
    "pmcclip/vit_l_14": partial(cases.open_clip_hub, patch=14, wide=True),
    "medclip/resnet50": partial(cases.medclip, tower="resnet50"),
}


def shipped(name: str, folder: Path) -> TeacherEntry:
    """Return the entry that pipelines.yaml has for a teacher or a variant, with another folder."""
    teacher, _, variant = name.partition("/")
    entry = read_pipeline(PIPELINES_FILE, "mmkd", ExtractPipeline).teachers[teacher]
    entry = entry.readings()[variant] if variant else entry
    return entry.model_copy(update={"folder": str(folder)})


def examine(name: str, folder: Path, rows: int) -> dict[str, float]:
    """Write, load, compare and time one teacher."""
    folder.mkdir(parents=True)
    case = ALL[name](folder, full=True)
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
    worst = 1.0

    def rows() -> Iterator[list[object]]:
        nonlocal worst
        for name in arguments.teacher or ALL:
            folder = arguments.out / name
            found = examine(name, folder, arguments.rows)
            shutil.rmtree(folder)
            worst = min(worst, found["cosine_image"], found["cosine_text"])
            yield [name, *(f"{cell:.7f}" if key.startswith("cosine") else cell for key, cell in found.items())]

    head = ("teacher", "D", "file MB", "cosine, image", "cosine, text", "plan s", "load s", "images/s", "captions/s")
    table(head, rows())
    sys.exit(0 if worst > COSINE else 1)


if __name__ == "__main__":
    main()
