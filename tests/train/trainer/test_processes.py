"""Training as a user starts it: killed and started again, and by two processes under torchrun."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from store.corpus.section import Corpus
from store.index.create import index_corpus
from tests.train.conftest import commit_random, spec_of
from tests.train.vit import loaded, vit_pipeline
from train.data.batch_order import BatchOrder, ShareOrder, lanes_of
from train.recipes.fit_projections import project
from train.trainer import stages as runs

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]

WAYS = {
    "plain": {"ema": 0.7},
    "parts": {"accumulate": 2},
    "cached": {"cached_rows": 3, "grad_clip": 1.0, "validate_every": 4},
}
"""Settings under which two processes must do what one does."""

STEPS = 8

ROWS = 64


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a corpus, a store of three teachers, one of images alone, projections and ``pipelines.yaml``."""
    folder = tmp_path_factory.mktemp("processes")
    write_corpus(folder / "corpus", PhantomSettings(rows=ROWS, seed=5, shard_rows=40))
    corpus = [str(folder / "corpus" / "*.tar")]
    info, _ = index_corpus(folder / "store", Corpus(files=corpus), range_rows=24, chunk_rows=8)
    commit_random(folder / "store", info, spec_of("alpha"), seed=1, without=range(0, ROWS, 3))
    commit_random(folder / "store", info, spec_of("beta"), seed=2, without=[0, 1, 2, 9])
    commit_random(folder / "store", info, spec_of("seer", sides=("image",)), seed=3, without=[0, 1, 2, 9])
    pipelines = {
        "two": pipeline_of(folder, corpus, "two"),
        "one": pipeline_of(folder, corpus, "one"),
        "odd": pipeline_of(folder, corpus, "odd", batch_size=15),
        **{f"kill{number}": pipeline_of(folder, corpus, f"kill{number}") for number in (1, 2)},
        "term": pipeline_of(folder, corpus, "term", steps=100_000),
    }
    (folder / "pipelines.yaml").write_text(json.dumps(pipelines))
    section = loaded(pipelines["one"])
    project(section, section.train.project)
    return folder


def pipeline_of(folder, corpus, out, **changes):
    """Return a pipeline with a distilled student per way."""
    made = {}
    for name, settings in WAYS.items():
        options = {"steps": STEPS, "checkpoint_every": 3, **settings, **changes}
        pipeline = vit_pipeline(folder, corpus, out=f"{out}/{name}", recipe="paper", **options)
        made[name] = pipeline["train"]["students"]["vit"] | {"validation": {"holdout": 0.1}}
    heads = {
        "recipe": "improved",
        "improved": {"relational_weight": 0.0, "phi_s": False},
        "out": f"{folder}/{out}/heads",
    }
    made["heads"] = made["cached"] | heads
    pipeline["train"]["students"] = made
    pipeline["train"]["pretrain"] = {}
    return pipeline


def command(place, pipeline, *options, ranks=1):
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    line = ["train", "distill", "--pipeline", pipeline, "--config", str(place / "pipelines.yaml"), *options]
    return [sys.executable, "-m", *torchrun, *line]


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in ("MMKD_KILL_AT", "MMKD_LOG")}
    return kept | {"OMP_NUM_THREADS": "1"} | changes


def call(place, pipeline, *options, ranks=1, **env):
    line = command(place, pipeline, *options, ranks=ranks)
    return subprocess.run(line, cwd=REPOSITORY, env=environment(**env), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def two(place):
    """Return the results of two undisturbed processes for all ways."""
    done = call(place, "two", ranks=2)
    assert done.returncode == 0, done.stderr
    return done


def weights(folder):
    return safetensors.torch.load_file(folder / "open_clip_model.safetensors")


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # Each process cuts its own captions into parts, so that the share of columns depends on their number.
    left_out = ("seconds", "text_columns", "step_flops")
    return [{name: value for name, value in line.items() if name not in left_out} for line in found]


@pytest.mark.end_to_end
def test_two_processes_train_as_one_does_and_one_of_them_writes(place, two):
    section = loaded(json.loads((place / "pipelines.yaml").read_text())["one"])
    for name, student in section.train.students.items():
        assert runs.distill(section, name, student)
        alone, shared = lines(place / "one" / name), lines(place / "two" / name)
        assert len(alone) == STEPS + (2 if name in ("cached", "heads") else 0)
        for ours, theirs in zip(shared, alone, strict=True):
            assert ours == pytest.approx(theirs, rel=2e-4, abs=1e-5)
        found, expected = weights(place / "two" / name), weights(place / "one" / name)
        for key, tensor in expected.items():
            # The gradient of an attention's key bias is 0 but for rounding, which Adam blows up to a step.
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=2e-4)
    assert two.stderr.count("saved as") == len(WAYS) + 1
    assert "by 2 processes" in two.stderr
    assert sorted(path.name for path in (place / "two").iterdir()) == sorted([*WAYS, "heads"])


@pytest.mark.parametrize(
    "ranks", [pytest.param(1, marks=pytest.mark.end_to_end), pytest.param(2, marks=pytest.mark.fault)]
)
def test_a_run_killed_at_a_random_step_goes_on_to_the_same_weights(place, two, ranks):
    step = int(np.random.default_rng().integers(4, STEPS))  # any step must do: which one stands in the message
    name, pipeline = "plain", f"kill{ranks}"
    killed = call(place, pipeline, "--student", name, ranks=ranks, MMKD_KILL_AT=f"train.step:{step}")
    assert killed.returncode != 0
    assert not (place / pipeline / name).exists()
    assert (place / pipeline / f".{name}.partial" / "checkpoints" / "step-000000003.pt").exists()
    done = call(place, pipeline, "--student", name, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert "goes on at step" in done.stderr
    reference = place / "two" / name
    if ranks == 1:
        section = loaded(json.loads((place / "pipelines.yaml").read_text())["one"])
        runs.distill(section, name, section.train.students[name])
        reference = place / "one" / name
    for file in ("open_clip_model.safetensors", "without_ema.safetensors"):
        assert (place / pipeline / name / file).read_bytes() == (reference / file).read_bytes(), f"killed at {step}"
    assert lines(place / pipeline / name) == lines(reference)


@pytest.mark.fault
def test_a_batch_that_two_processes_cannot_share_is_refused_once(place):
    done = call(place, "odd", "--student", "plain", ranks=2)
    assert done.returncode == 1
    message = "students.plain.optimization.batch_size: 15 pairs cannot be shared evenly by 2 processes"
    assert done.stderr.count(message) == 1
    assert "hint: take a multiple of 2, e.g. 16" in done.stderr


@pytest.mark.fault
def test_sigterm_to_torchrun_leaves_a_checkpoint_of_the_step_in_work(place):
    line = command(place, "term", "--student", "plain", ranks=2)
    metrics = place / "term" / ".plain.partial" / "metrics.jsonl"
    with subprocess.Popen(line, cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, text=True) as program:
        while not (metrics.exists() and metrics.read_text().count("\n") > 5):
            time.sleep(0.1)
        program.send_signal(signal.SIGTERM)
        _, stderr = program.communicate(timeout=120)
    assert program.returncode != 0
    steps = [int(number) for number in re.findall(r"step-(\d+)\.pt", stderr)]
    assert steps[-1] == len(lines(metrics.parent))
    kept = sorted(path.name for path in (metrics.parent / "checkpoints").iterdir())
    assert kept[-1] == f"step-{steps[-1]:09d}.pt"


@pytest.mark.fault
def test_an_error_of_one_process_ends_both_with_one_message(place):
    """Most images of the second process's share of the first batch are damaged."""
    folder = place / "damaged"
    write_corpus(folder / "corpus", PhantomSettings(rows=ROWS, seed=5, shard_rows=ROWS))
    corpus = [str(folder / "corpus" / "*.tar")]
    info, _ = index_corpus(folder / "store", Corpus(files=corpus), range_rows=24, chunk_rows=8)
    commit_random(folder / "store", info, spec_of("alpha"), seed=1)
    pipeline = vit_pipeline(folder, corpus, steps=STEPS)
    (folder / "pipelines.yaml").write_text(json.dumps({"p": pipeline}))
    size = {"batch_size": 16, "block_rows": 8}
    lanes = lanes_of(np.arange(ROWS), window_blocks=2, **size)
    order = BatchOrder(np.arange(ROWS), seed=0, window_blocks=2 // lanes, lanes=lanes, **size)
    (tar,) = (folder / "corpus").glob("*.tar")
    table = runs.FeatureStore(folder / "store").pairs.read(0, ROWS, ["member"]).to_pylist()
    with tar.open("r+b") as file:
        for row in ShareOrder(order, rank=1, world_size=2)[0][:6]:
            file.seek(table[row]["member"]["offset"])
            file.write(b"\0" * table[row]["member"]["nbytes"])
    done = call(folder, "p", ranks=2)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "error: 6 of 8 images of a batch cannot be read" in done.stderr
    assert "gloo" not in done.stderr
