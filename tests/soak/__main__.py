"""``python -m tests.soak``: a soak, or one that is done again from its log."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

from .actions import drawn, logged
from .adversary import Soak
from .checks import problems_of
from .world import World

LOG = "soak.jsonl"

STEPS = {"folder": 1000, "s3": 300}
"""Steps of each student by storage; they take a minute or two."""


def soak(out, *, minutes, seed, storage, steps, actions=None):
    """Soak, and return what is not as it must be and how often each action was done."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    world = World(out.resolve(), storage=storage, steps=steps)
    try:
        with (out / LOG).open("w") as log:
            running = Soak(world, log)
            running.note(seed=seed, minutes=minutes, storage=storage, steps=steps)
            try:
                running.begin()
                running.run(
                    drawn(seed, storage=storage) if actions is None else actions,
                    seconds=minutes * 60 if actions is None else None,
                )
                found = problems_of(running)
            finally:
                running.end()
            running.note(problems=found, counts=running.counts, students=len(running.students))
        return found, running.counts
    finally:
        world.close()


def main():
    """Run the command; the exit code is 1 if something was not as it must be."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it leaves neither programs nor a mounted disk
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="for actions; finishing and comparing come on top")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", choices=["folder", "s3"], default="folder")
    parser.add_argument("--steps", type=int, help="of each student; 1000, on S3 300")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    parser.add_argument("--replay", type=Path, metavar="LOG", help="do the actions of this log instead")
    given = parser.parse_args()
    settings, actions = vars(given), None
    if given.replay:
        first, actions = logged(given.replay)
        settings |= {name: first[name] for name in ("minutes", "seed", "storage", "steps")}
    settings["steps"] = settings["steps"] or STEPS[settings["storage"]]
    names = ("minutes", "seed", "storage", "steps")
    found, counts = soak(given.out, actions=actions, **{name: settings[name] for name in names})
    print(json.dumps({"actions": counts, "problems": found}, indent=1))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
