"""Compares the store and the students of a soak with those of runs that nothing disturbed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from extract.config import ExtractPipeline
from extract.run.dispatch import execute_here
from extract.run.run import run as run_extraction
from store.config.pipeline_file import read_pipeline
from store.index.append import append_corpus
from store.index.create import index_corpus

from .programs import Program
from .trainer import epochs_of, own_settings, recorded
from .world import RANGE_ROWS, TAR_ROWS, digests

RESULTS = ("open_clip_model.safetensors", "tokenizer.json")


class Undisturbed:
    """Stores of the same corpus files in the same order of appends: one for each number of files."""

    def __init__(self, world):
        self._world, self.stores = world, []
        for count in range(1, len(world.tars()) + 1):
            self.stores.append(self._grown(count))

    def config(self, count):
        return self.stores[count - 1].parent / "pipelines.yaml"

    def _grown(self, count):
        folder = self._world.out / "undisturbed" / f"{count:04d}"
        store, files = folder / "store", self._world.tars()[:count]
        config = self._world.pipeline(folder / "pipelines.yaml", files=files, store=store)
        pipeline = read_pipeline(config, "soak", ExtractPipeline)
        corpus = pipeline.corpora["pairs"]
        if count == 1:
            index_corpus(store, corpus, range_rows=RANGE_ROWS, chunk_rows=RANGE_ROWS)
        else:
            shutil.copytree(self.stores[-1], store)
            append_corpus(store, corpus, workers=1)
        outcome = run_extraction(pipeline, execute=execute_here)
        if outcome.failed:
            raise RuntimeError(f"the undisturbed run failed: {outcome.failed}")
        return store


def problems_of(soak):
    """Return what is not as it must be, as texts."""
    world, found = soak.world, list(soak.surprises)
    undisturbed = Undisturbed(world)
    features, expected = (digests(root / "features.zarr") for root in (world.root, undisturbed.stores[-1]))
    different = sorted(key for key in features.keys() | expected if features.get(key) != expected.get(key))
    soak.note(compared=len(expected), different=len(different))
    if different:
        found.append(f"{len(different)} of {len(expected)} files differ from the undisturbed store: {different[:5]}")
    for command in (["verify", "--deep"], ["info", "--json"]):
        program = Program(world, f"end-{command[0]}", "store", command[0], world.place, *command[1:])
        if code := program.code():
            found.append(f"store {command[0]} ends with {code}: {program.said()[-800:]}")
    if '"complete": true' not in program.said():
        found.append(f"the store is not complete: {program.said()[-800:]}")
    for student in soak.students:
        problems = _student(soak, undisturbed, student["number"])
        soak.note(student=student["number"], problems=problems)
        found += problems
    return found


def without_receipt(lines, *, known):
    """Return (epoch, teacher, range) of ranges that were trained on and had no receipt, or lie behind the rows known.

    Args:
        lines: as `tests.soak.trainer` records them.
        known: ranges of the store when the run began.
    """
    return [
        (line["epoch"], name, number)
        for line in lines
        for name, numbers in line["ranges"].items()
        for number in numbers
        if f"{name}/{number}" not in line["there"] or number >= known
    ]


def _student(soak, undisturbed, number):
    """Train a student again from an undisturbed store on the ranges that it recorded, and compare the results."""
    world, found = soak.world, []
    out = world.out / "students" / f"{number:03d}"
    file = out.with_suffix(".epochs.jsonl")
    identity = json.loads((out / "train.json").read_text())
    begun, files = identity["store"]["ranges"], identity["store"]["corpus"]["files"]
    lines = recorded(file)
    if unread := without_receipt(lines, known=len(files) * TAR_ROWS // RANGE_ROWS):
        found.append(f"student {number}: {len(unread)} ranges without a receipt, such as {unread[0]}")
    again = world.out / "undisturbed" / "students" / f"{number:03d}"
    wrapped = "tests.soak.trainer", "given", file, json.dumps(begun)
    options = ["--pipeline", "soak", "--config", undisturbed.config(len(files)), *own_settings(again, number)]
    program = Program(world, "trained-again", *wrapped, "distill", *options)
    if code := program.code():
        return [*found, f"student {number}: trained again it ends with {code}: {program.said()[-800:]}"]
    same = {name: (out / name).read_bytes() == (again / name).read_bytes() for name in RESULTS}
    same["metrics.jsonl"] = _metrics(out) == _metrics(again)
    if differ := [name for name, equal in same.items() if not equal]:
        found.append(f"student {number}: {differ} differ from an undisturbed training on the same ranges")
    epochs = epochs_of(lines)
    units = sorted({sum(map(len, epoch["ranges"].values())) for epoch in epochs})
    soak.note(student=number, files=len(files), epochs=len(epochs), units_of_epochs=units)
    return found


def _metrics(folder: Path):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
