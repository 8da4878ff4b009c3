"""Says from receipts where the time of an extraction went, and what would help. Needs neither torch nor Ray."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

from store.errors import IncompleteStoreError
from store.format.records import Receipt
from store.format.stages import DEVICE_STAGES, HOST_STAGES, seconds_of_range
from store.io.location import Location
from store.read.reader import FeatureStore

log = logging.getLogger(__name__)

Bound = Literal["decode", "tokens", "forward", "write", "waiting"]

FORWARD_STAGES, WRITE_STAGE = ("forward_image", "forward_text"), "write"

OVERLAPS = "wait_for_range"
"""A receipt that has this stage is of a pipeline. Before, a range's stages followed each other, tokens and commits too;
only what `BEFORE` names was done by threads beside them."""

BEFORE = ("read", "decode", "fit")

IDLE = "idle"
"""Time of workers that is in no receipt: they load their teachers, or have no range."""

WORTH_TELLING = 0.15
"""From this share of the time on, what keeps the device from working is the verdict, and not the device's own work."""

COMMITS_ALL_THE_TIME = 0.8
"""A share of the device's time. From it on, workers that wait for a range wait for their commits."""

ADVICE: dict[Bound, str] = {
    "decode": "the teachers wait for images to be decoded and fitted: raise extract.decode_threads, or give each "
    "worker more CPU cores",
    "tokens": "the teachers wait for captions to be tokenised: raise extract.decode_threads; where cores are idle all "
    "the same, let two workers share a card (extract.gpus_per_worker: 0.5)",
    "forward": "the teachers' arithmetic takes the time, as it should: more GPUs (extract.workers) would help",
    "write": "writing takes the time: the store's disk or storage is slow, or range_rows is small for this width",
    "waiting": "workers wait for bytes of the corpus, for ranges, or for their teachers to load: bring the corpus "
    "nearer, or use fewer workers for so little work",
}


@dataclass(kw_only=True, frozen=True, slots=True)
class StageReport:
    """Worker time by its use.

    Attributes:
        runs: ids of the runs whose receipts were read.
        rows: rows of the ranges, each range counted once.
        stages_s: seconds by stage as receipts name it, of all workers.
        timeline_s: those that follow one another in a worker, and its idle time; they add up to ``total_s``.
        beside_s: those of threads that work at the same time.
        queues: mean length by queue; none of receipts of before there were queues.
        bound_s: seconds by what bounds the work.
        other_s: seconds of stages that belong to no bound.
        worker_s: sum of each run's wall time times its workers; None if a run left no report.
        verdict: the largest bound beside the device's own work, if it is worth telling; else ``forward``.
    """

    runs: Sequence[str]
    rows: int
    units: int
    stages_s: Mapping[str, float]
    timeline_s: Mapping[str, float]
    beside_s: Mapping[str, float]
    queues: Mapping[str, float]
    bound_s: Mapping[Bound, float]
    other_s: float
    worker_s: float | None
    verdict: Bound
    advice: str

    @property
    def total_s(self) -> float:
        """Seconds of all stages and of waiting for work."""
        return sum(self.bound_s.values()) + self.other_s

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; docs/extraction.md describes them."""
        return asdict(self) | {"total_s": self.total_s}


def report(store: FeatureStore, *, run_id: str | None = None, known: Iterable[Receipt] | None = None) -> StageReport:
    """Report on all runs of a store, or on one.

    Args:
        known: all receipts of the store, if they were read already.

    Raises:
        IncompleteStoreError: there are no such receipts.
    """
    found = (store.receipts(name).values() for name in store.teachers)
    receipts = [*chain.from_iterable(found)] if known is None else [*known]
    chosen = [
        receipt
        for receipt in receipts
        if run_id in (None, receipt.run_id) and receipt.timings_s.keys() & {*DEVICE_STAGES, WRITE_STAGE}
    ]
    if not chosen:
        runs = ", ".join(sorted({receipt.run_id for receipt in receipts})) or "none"
        raise IncompleteStoreError(
            f"{store.location}: no timed receipts of run {run_id or 'any'}; runs there are: {runs}"
        )
    return summarize(chosen, read_runs(store.location, {receipt.run_id for receipt in chosen}))


def read_runs(location: Location, run_ids: Iterable[str]) -> dict[str, float]:
    """Return wall time times workers, in seconds, of the runs that left a report."""
    found = {}
    for run_id in sorted(run_ids):
        key = f"runs/{run_id}/report.json"
        try:
            content = json.loads(location.read(key))
            found[run_id] = float(content["seconds"]) * int(content["workers"])
        except FileNotFoundError:  # it was killed, or still runs
            continue
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s: cannot be read: %r", location.show(key), error)
    return found


def summarize(receipts: Sequence[Receipt], runs_s: Mapping[str, float]) -> StageReport:
    """Return where the time of some receipts went; ``runs_s``, as of `read_runs`, may lack some of their runs."""
    ranges = _ranges(receipts)
    timeline: defaultdict[str, float] = defaultdict(float)
    beside: defaultdict[str, float] = defaultdict(float)
    for group in ranges:
        seconds = seconds_of_range(group)
        threads = (*HOST_STAGES, WRITE_STAGE) if OVERLAPS in seconds else BEFORE
        for stage, spent_s in seconds.items():
            (beside if stage in threads else timeline)[stage] += spent_s
    run_ids = sorted({receipt.run_id for receipt in receipts})
    worker_s = sum(runs_s[run] for run in run_ids) if set(run_ids) <= set(runs_s) else None
    if worker_s is not None:
        timeline[IDLE] = max(0.0, worker_s - sum(timeline.values()))
    bound = _bounds(timeline, beside)
    total_s = sum(timeline.values())
    delay = max((one for one in bound if one != "forward"), key=bound.__getitem__)
    verdict = delay if bound[delay] >= WORTH_TELLING * total_s else "forward"
    lengths: defaultdict[str, list[float]] = defaultdict(list)
    for group in ranges:
        for queue, length in (group[0].queues or {}).items():
            lengths[queue].append(length)
    return StageReport(
        runs=run_ids,
        rows=sum({(one.run_id, one.range, one.attempt): one.stop - one.start for one in receipts}.values()),
        units=len(receipts),
        stages_s={
            name: timeline.get(name, 0.0) + beside.get(name, 0.0) for name in sorted({*timeline, *beside} - {IDLE})
        },
        timeline_s=dict(sorted(timeline.items())),
        beside_s=dict(sorted(beside.items())),
        queues={queue: sum(of) / len(of) for queue, of in lengths.items()},
        bound_s=bound,
        other_s=total_s - sum(bound.values()),
        worker_s=worker_s,
        verdict=verdict,
        advice=ADVICE[verdict],
    )


def _bounds(timeline: Mapping[str, float], beside: Mapping[str, float]) -> dict[Bound, float]:
    """Share a worker's time out among what bounds it."""

    def spent(*stages: str) -> float:
        return sum(timeline.get(stage, 0.0) for stage in stages)

    # The same threads make images and tokens: what they did meanwhile is what the device waited for.
    waited_s, for_range = spent("wait_for_images", "wait_for_tokens"), spent(OVERLAPS)
    doing = {stage: beside.get(stage, 0.0) for stage in (*BEFORE, "tokenize")}
    of_each = waited_s / (sum(doing.values()) or 1.0)
    committing = beside.get(WRITE_STAGE, 0.0) >= COMMITS_ALL_THE_TIME * (sum(timeline.values()) - spent(IDLE)) > 0
    return {
        "decode": (doing["decode"] + doing["fit"]) * of_each,
        "tokens": doing["tokenize"] * of_each,
        "forward": spent(*FORWARD_STAGES),
        "write": spent(WRITE_STAGE) + (for_range if committing else 0.0),
        "waiting": doing["read"] * of_each + spent(IDLE) + (0.0 if committing else for_range),
    }


def _ranges(receipts: Sequence[Receipt]) -> list[list[Receipt]]:
    """Return the receipts of each task: of an attempt at a range, or at some teachers of it at a run's end."""
    attempts: dict[tuple[object, ...], list[Receipt]] = defaultdict(list)
    for receipt in receipts:
        # The units of a task share the device's seconds; another task's are others, to a tenth of a millisecond.
        shared = (receipt.timings_s.get(stage) for stage in ("forward_image", "wait_for_images"))
        attempts[receipt.run_id, receipt.range, receipt.attempt, *shared].append(receipt)
    return list(attempts.values())


TIMELINE = {
    "forward_image": "teachers: images",
    "forward_text": "teachers: captions",
    "wait_for_images": "wait for images",
    "wait_for_tokens": "wait for tokens",
    OVERLAPS: "wait for a range",
    "tokenize": "tokenize",
    WRITE_STAGE: "commit",
    "other": "other",
    IDLE: "loading, no range",
}
BESIDE = {"read": "read", "decode": "decode", "fit": "fit", "tokenize": "tokenize", "collect": "collect"}
BESIDE |= {WRITE_STAGE: "commit"}
"""Stages in the order of the picture, and their names in it."""

QUEUES = {"decoded": "batches ready for the device", "encoded": "ranges ready to be committed"}
