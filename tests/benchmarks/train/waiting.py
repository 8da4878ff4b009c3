"""Measures for how much of the time a simulated device waits for batches, with an earlier trainer beside if need be.

python -m tests.benchmarks.train.waiting [--before COMMIT]

The loop is the real one: rows, images of the corpus or of the pixel cache, tokens, targets of nine teachers. First the
host's CPU time per pair is measured with a device that takes no time. The device's step then takes `DEVICE` times that
per core, and each trainer runs with it. Ideal is min(1 / device time, cores / host CPU time) with each trainer's own
CPU time. The first steps do not count. `peers` measures images and tokens per CPU second beside other libraries.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from extract.run.pixels import make_pixels
from store.corpus.section import Corpus
from store.format.pixels import Pixels, PixelSpec
from store.index.create import index_corpus
from store.io.location import locate
from tests.benchmarks.before_and_now import codes_of, parser_of
from tests.benchmarks.extract.mixes import Mix, write_corpus
from tests.benchmarks.rounds import add_packages
from tests.benchmarks.store.synthetic_store import commit_features
from tests.benchmarks.tables import table
from tests.benchmarks.train import peers

CHILD = Path(__file__).with_name("simulated_run.py")
CORES = os.cpu_count() or 1
ROWS, DEVICE = 4096, 1.15
MIX = Mix(rows=ROWS, range_rows=1024, batch_size=0, size_px=(384, 288), captions_per_image=1, joined=4, device=DEVICE)
STEPS = {"calibration": 6, "run": 9}
TEACHERS = {f"teacher{number}": 768 if number < 3 else 512 for number in range(9)}

Figures = dict[str, dict[str, dict[str, float]]]
"""Figures by recipe, trainer and name."""

SHOWN = {
    "step_s": "step s",
    "host_cpu_ms_per_pair": "host CPU ms/pair",
    "trainer_cpu_ms_per_pair": "of it the trainer's process",
    "waiting": "device waits %",
    "longest_step_s": "longest step s",
    "others_busy": "cores others took %",
    "pairs_per_s": "pairs/s",
    "of_ideal": "of ideal %",
}
"""Figures of the table and their headings."""


def pipeline_of(work: Path, batch: int) -> dict[str, Any]:
    """Return the pipeline with a student for each recipe and source of images."""
    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 224, "layers": 1, "width": 32, "patch_size": 32, "head_width": 16},
        "text_cfg": {"context_length": 256, "width": 32, "heads": 2, "layers": 1},
    }
    run = {
        "model": {"vocabulary": 8192, "config": config},
        "optimization": {"steps": 1, "batch_size": batch, "lr": 1e-4, "image_workers": CORES, "log_every": 1000},
        "window_blocks": 8,
        "out": "set",
    }
    # Statistics of the features are fitted before the first step, and take no part in what is measured.
    improved = {"phi_s": False, "balance": "uniform", "logit_scales": dict.fromkeys(TEACHERS, 100.0)}
    return {
        "corpora": {"pairs": {"files": [str(work / "pairs/*.tar")]}},
        "store": {"path": str(work / "store"), "corpus": "pairs"},
        "train": {
            "project": {"out": "set", "latent_dim": 64, "hidden_dim": 64, "steps": 3},
            "students": {
                f"{recipe}_{images}": run | {"recipe": recipe, "images": images, "improved": improved}
                for recipe in ("paper", "improved")
                for images in ("pixels", "corpus")
            },
        },
    }


def prepare(work: Path, batch: int) -> Path:
    """Write corpus, store, pixel cache and pipeline; return the pipeline's file."""
    write_corpus(work / "pairs", MIX, rows=ROWS)
    corpus = Corpus(files=[str(work / "pairs/*.tar")])
    info, _ = index_corpus(work / "store", corpus, range_rows=MIX.range_rows, chunk_rows=256)
    make_pixels(work / "store", PixelSpec.of(Pixels(short_side_px=256)))
    present = {name: 1.0 if number < 5 else 0.4 for number, name in enumerate(TEACHERS)}
    list(commit_features(locate(work / "store"), info, widths=TEACHERS, present=present))
    file = work / "pipelines.yaml"
    file.write_text(json.dumps({"bench": pipeline_of(work, batch)}))  # JSON is YAML
    return file


def ran(code: Path, pipelines: Path, student: str, *, steps: int, step_s: float = 0.0) -> dict[str, Any]:
    """Train one student with the code of a folder, in a process of its own."""
    out = pipelines.parent / f"out-{code.name}"
    command = [sys.executable, "-P", str(CHILD), str(pipelines), student, str(out)]
    command += ["--steps", str(steps), "--step-s", str(step_s)]
    environment = os.environ | {"PYTHONPATH": str(code), "MMKD_LOG": "WARNING"}
    done = subprocess.run(command, cwd=code, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures(steady: dict[str, float], *, step_s: float, host_cpu_s: float) -> dict[str, float]:
    """Return what a run with a device says; ``host_cpu_s`` is the CPU time of a pair without one."""
    device_s = steady["busy_s"] / steady["pairs"]
    found = {
        "step_s": step_s,
        "host_cpu_ms_per_pair": 1e3 * host_cpu_s,
        "host_cpu_ms_per_pair_beside_device": 1e3 * steady["cpu_s"] / steady["pairs"],
        "trainer_cpu_ms_per_pair": 1e3 * steady["trainer_s"] / steady["pairs"],
        "waiting": 100 * (1 - steady["busy_s"] / steady["wall_s"]),
        "longest_step_s": steady["longest_step_s"],
        "others_busy": 100 * (steady["machine_s"] - steady["cpu_s"]) / steady["wall_s"] / CORES,
        "pairs_per_s": steady["pairs"] / steady["wall_s"],
        "of_ideal": 100 * steady["pairs"] / steady["wall_s"] / min(1 / device_s, CORES / host_cpu_s),
    }
    return {name: round(value, 3) for name, value in found.items()}


def measured(codes: dict[str, Path], pipelines: Path, images: str, batch: int) -> Figures:
    """Return the figures of one source of images by recipe and trainer."""
    host_cpu_s = {}
    for name, code in codes.items():
        found = ran(code, pipelines, f"improved_{images}", steps=STEPS["calibration"])
        host_cpu_s[name] = found["cpu_s"] / found["pairs"]
    step_s, runs = DEVICE * host_cpu_s["now"] * batch / CORES, {}
    for recipe in ("paper", "improved"):
        runs[recipe] = {}
        for name, code in codes.items():
            steady = ran(code, pipelines, f"{recipe}_{images}", steps=STEPS["run"], step_s=step_s)
            runs[recipe][name] = figures(steady, step_s=step_s, host_cpu_s=host_cpu_s[name])
            print(f"{images}, {recipe}, {name}: {runs[recipe][name]}", file=sys.stderr, flush=True)
    return runs


def main() -> None:
    """Measure, and print tables."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of an environment with webdataset")
    parser.add_argument("--batch", type=int, default=2048, help="pairs of a step, at most 4096")
    options = parser.parse_args()
    if options.peers:
        add_packages(options.peers)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        pipelines, codes = prepare(work, options.batch), codes_of(options, work)
        waits = {images: measured(codes, pipelines, images, options.batch) for images in ("pixels", "corpus")}
        rows = (
            [images, recipe, name, *(values[key] for key in SHOWN)]
            for images, recipes in waits.items()
            for recipe, trainers in recipes.items()
            for name, values in trainers.items()
        )
        table(("images", "recipe", "trainer", *SHOWN.values()), rows, title=f"{options.batch:,} pairs a step")
        peers.show(peers.measured(work))


if __name__ == "__main__":
    main()
