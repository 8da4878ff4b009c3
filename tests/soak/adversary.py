"""The loop of a soak: it starts again what ended, and does one action after the other."""

from __future__ import annotations

import json
import signal
import time

from .programs import Program
from .trainer import own_settings

TICK_S = 0.1
WAIT_S = 60
"""An action waits no longer for units: the driver may have nothing to do for want of what the action gives."""

EXPECTED = {
    "driver": ("No space left on device",),
    "trainer": ("that were committed no longer are", "and no longer is", " is damaged", " then, "),
}
"""Texts of ends without a kill: the disk is full; a unit that an epoch needs was damaged or taken out."""


class Soak:
    """Programs at work on a world.

    Attributes:
        students: the results of the trainers that were begun.
        surprises: what no user should see.
    """

    def __init__(self, world, log):
        self.world, self._log_file, self._began = world, log, time.monotonic()
        self.driver = self.trainer = None
        self.students, self.surprises, self.counts = [], [], {}
        self._rest_until = 0.0

    def note(self, **line):
        line = {"at_s": round(time.monotonic() - self._began, 2), **line}
        self._log_file.write(json.dumps(line) + "\n")
        self._log_file.flush()
        print(json.dumps(line), flush=True)

    def do(self, *arguments, name="commands"):
        """Run a program to its end; anything but success is a surprise."""
        program = Program(self.world, name, *arguments)
        if code := program.code():
            self.surprises.append(f"{' '.join(map(str, arguments))}: exit code {code}: {program.said()[-800:]}")
        return program

    def options(self):
        return "--pipeline", "soak", "--config", self.world.config

    def begin(self):
        self.world.add_tar()
        self.do("extract", "index", *self.options())

    def tend(self, *, last=False):
        """Start again what ended; with ``last``, nothing that is done is followed by something new."""
        done, units = self.world.units()
        if self.driver and self.driver.ended():
            code, said = self.driver.code(), self.driver.said()
            self.judge("driver", code, said)
            self.driver = None
        if self.driver is None and done < units:
            self.driver = Program(self.world, "driver", "extract", "run", *self.options())
        if self.trainer and self.trainer.ended():
            code, said = self.trainer.code(), self.trainer.said()
            self.judge("trainer", code, said)
            self.trainer, self._rest_until = None, time.monotonic() + 2
            if code == 0:
                self.students[-1]["done"] = True
        if self.trainer is None and time.monotonic() > self._rest_until:
            unfinished = self.students and not self.students[-1]["done"]
            if not unfinished and not last and done < units and all(self.world.committed().values()):
                self.students.append({"number": len(self.students), "done": False})
                unfinished = True
            if unfinished:
                self.trainer = self.start_trainer(self.students[-1]["number"])
        time.sleep(TICK_S)

    def start_trainer(self, number):
        out = self.world.out / "students" / f"{number:03d}"
        file = self.world.out / "students" / f"{number:03d}.epochs.jsonl"
        file.parent.mkdir(exist_ok=True)
        wrapped = "tests.soak.trainer", "record", file, self.world.root
        return Program(self.world, "trainer", *wrapped, "distill", *self.options(), *own_settings(out, number))

    def judge(self, name, code, said):
        """Note how a program ended by itself, and whether that may be."""
        expected = code == 0 or (code == 1 and any(text in said for text in EXPECTED[name]))
        self.note(ended=name, code=code, said="" if code == 0 else said.strip()[-300:])
        if not expected or "Traceback" in said:
            self.surprises.append(f"{name}: exit code {code}: {said[-1500:]}")

    def run(self, actions, *, seconds):
        """Do actions until the time is over, then let everything finish."""
        for action in actions:
            aim, latest = self.world.units()[0] + action.wait_units, time.monotonic() + WAIT_S
            self.tend()
            while (count := self.world.units())[0] < min(aim, count[1]) and time.monotonic() < latest:
                self.tend()
            if seconds is not None and time.monotonic() - self._began > seconds:
                break
            result = getattr(self, f"_{action.kind}")(action.draw)
            self.counts[action.kind] = self.counts.get(action.kind, 0) + (not result.startswith("skipped"))
            self.note(**action.as_json(), result=result, units=self.world.units())
        self.note(finishing=True)
        while True:
            done, units = self.world.units()
            busy = self.driver or self.trainer or (self.students and not self.students[-1]["done"])
            if done == units and not busy:
                return
            self.tend(last=True)

    def end(self):
        """Kill what is still at work, after an error."""
        for program in (self.trainer, self.driver):
            if program and not program.ended():
                program.kill()

    def stop_driver(self):
        """End the driver in order, as one does before another program writes."""
        if self.driver is None:
            return
        code, said = self.driver.interrupt(), self.driver.said()
        # Before the program handles it, and while Ray's C++ code connects (extract/cluster/connect.py).
        early = (code == -signal.SIGTERM and not said) or (code == -signal.SIGABRT and "SIGTERM received" in said)
        if not (early or code in (0, 3)) or "Traceback" in said:
            self.surprises.append(f"driver: exit code {code} after SIGTERM: {said[-1500:]}")
        self.driver = None

    def release(self):
        """Give up the lease that a killed writer left on object storage."""
        if self.world.storage == "s3":
            self.do("store", "unlock", self.world.place)

    def _kill_driver(self, draw):
        if self.driver is None:
            return "skipped: it has nothing to do"
        left = self.driver.kill()
        self.driver = None
        self.release()
        if any("RangeActor" in name for name in left):
            self.surprises.append(f"workers outlived their driver by a minute: {left}")
        return f"killed; it left {', '.join(left) or 'nothing'}"

    def _kill_worker(self, draw):
        workers = self.driver.workers() if self.driver else []
        if not workers:
            return "skipped: there is none"
        workers[int(draw * len(workers))].kill()
        return f"killed one of {len(workers)}"

    def _kill_trainer(self, draw):
        if self.trainer is None:
            return "skipped: there is none"
        self.trainer.kill()
        self.trainer = None
        return f"killed student {self.students[-1]['number']}"

    def _append(self, draw):
        self.stop_driver()
        tar = self.world.add_tar()
        self.do("extract", "append", *self.options(), "--workers", "1")
        return tar.name

    def _kill_append(self, draw):
        self.stop_driver()
        tar = self.world.add_tar()
        program = Program(self.world, "commands", "extract", "append", *self.options(), "--workers", "1")
        time.sleep(1 + 3 * draw)
        program.kill()
        self.release()
        self.do("extract", "append", *self.options(), "--workers", "1")
        return f"{tar.name}, killed after {1 + 3 * draw:.1f} s and done again"

    def _damage(self, draw):
        self.stop_driver()
        shards = self.world.shards()
        if not shards:
            return "skipped: nothing is committed"
        path = shards[int(draw * len(shards))]
        place = int(draw * 1e6) % path.stat().st_size
        with path.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ (1 << int(draw * 8))]))
        before = self.world.units()[0]
        self.do("store", "repair", self.world.place, "--deep")
        if (taken := before - self.world.units()[0]) != 1:
            self.surprises.append(f"repair --deep took out {taken} units where one was damaged: {path}")
        return f"byte {place} of {path.relative_to(self.world.root)}"

    def _repair(self, draw):
        self.stop_driver()
        before = self.world.units()[0]
        self.do("store", "repair", self.world.place)
        if before != self.world.units()[0]:
            self.surprises.append("repair took out committed units, and none was damaged")
        return "done"

    def _fill(self, draw):
        if not self.world.is_small:
            return "skipped: this system does not let us mount a small disk"
        give_back = self.world.fill()
        latest = time.monotonic() + 4 + 8 * draw
        while time.monotonic() < latest and self.driver and not self.driver.ended():
            time.sleep(TICK_S)
        give_back()
        return "the driver ended" if self.driver and self.driver.ended() else "nothing ended"

    def _outage(self, draw):
        if self.world.server is None:
            return "skipped: there is no server"
        self.world.server.kill()
        time.sleep(2 + 8 * draw)
        self.world.server.start()
        return f"{2 + 8 * draw:.1f} s"
