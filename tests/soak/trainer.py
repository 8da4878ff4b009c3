"""``python -m train`` that notes the ranges of each epoch, or is given them: ``record|given FILE ROOT ARGUMENTS...``.

In ``record`` a line for each epoch is appended to the file: its state as checkpoints have it, and the receipts that lay
in the store's folder ROOT just before and just after. In ``given`` the epochs have the ranges of such a file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from store.console import main
from tests.soak.world import receipts_of
from train.cli.program import INTERRUPTED, app
from train.data import pair_source
from train.data.feeds import GrowingFeed
from train.trainer import stages


def record(file, root):
    """Have each epoch noted when its ranges are decided."""
    freeze = GrowingFeed._freeze

    def noting(self, step):
        before = receipts_of(root)
        state, epochs = freeze(self, step)
        there = {f"{path.parent.name}/{int(path.stem[1:])}" for path in [*before, *receipts_of(root)]}
        with file.open("a") as log:
            log.write(json.dumps(state | {"there": sorted(there)}) + "\n")
            log.flush()
            os.fsync(log.fileno())
        return state, epochs

    GrowingFeed._freeze = noting


def recorded(file):
    """Return the lines of a recorded run; none if its store was complete when it began."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def epochs_of(lines):
    """Return the epochs that count: one that was begun again, after a kill, is as it was last."""
    return [epoch for _, epoch in sorted({line["epoch"]: line for line in lines}.items())]


def own_settings(out, number):
    """Return the options of a student of the pipeline."""
    settings = (f"out={out}", f"optimization.seed={number}")
    return [word for text in settings for word in ("--set", f"train.students.student.{text}")]


def give(file, begun):
    """Have each epoch the ranges that were recorded, and the run the teachers that it began with."""
    epochs = epochs_of(recorded(file))
    identity = stages.store_identity
    stages.store_identity = lambda store: identity(store) | {"ranges": begun}
    if epochs:
        left = iter(epochs)
        pair_source.is_growing = lambda store: True
        pair_source.committed_ranges = lambda store: next(left)["ranges"]


if __name__ == "__main__":
    how, name, what, *arguments = sys.argv[1:]
    if how == "record":
        record(Path(name), Path(what))
    else:
        give(Path(name), json.loads(what))
    sys.argv = ["train", *arguments]
    main(app, program="python -m train", interrupted=INTERRUPTED)
