"""Says from receipts where the time of an extraction went, and what would help. Needs neither torch nor Ray."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from extract.worker.stages import HOST_STAGES as THREAD_STAGES
from extract.worker.stages import seconds_of_range
from store.errors import IncompleteStoreError
from store.format.records import Receipt
from store.io.location import Location
from store.read.reader import FeatureStore

log = logging.getLogger(__name__)

Bound = Literal["decode", "forward", "write", "waiting"]

FORWARD_STAGES, WAIT_STAGE, WRITE_STAGE = ("forward_image", "forward_text"), "wait_for_images", "write"
READ_STAGE = "read"
"""The one of THREAD_STAGES that waits for bytes."""

ADVICE: dict[Bound, str] = {
    "decode": "the teachers wait for images to be decoded and fitted: raise extract.decode_threads, or give each "
    "worker more CPU cores",
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
        bound_s: seconds by what bounds the work.
        other_s: seconds of stages that belong to no bound.
        worker_s: sum of each run's wall time times its workers; None if a run left no report.
        verdict: the bound with most seconds.
    """

    runs: Sequence[str]
    rows: int
    units: int
    stages_s: Mapping[str, float]
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


def report(store: FeatureStore, *, run_id: str | None = None) -> StageReport:
    """Report on all runs of a store, or on one.

    Raises:
        IncompleteStoreError: there are no such receipts.
    """
    receipts = [receipt for name in store.teachers for receipt in store.receipts(name).values()]
    chosen = [
        receipt
        for receipt in receipts
        if run_id in (None, receipt.run_id) and receipt.timings_s.keys() & {WAIT_STAGE, WRITE_STAGE, *FORWARD_STAGES}
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
    stages, rows = _stages(receipts)
    waited, write = stages.get(WAIT_STAGE, 0.0), stages.get(WRITE_STAGE, 0.0)
    forward = sum(stages.get(name, 0.0) for name in FORWARD_STAGES)
    # The decoding threads' seconds are in no sum; they say what the teachers waited for.
    preparing = sum(stages.get(name, 0.0) for name in THREAD_STAGES)
    for_bytes = waited * stages.get(READ_STAGE, 0.0) / preparing if preparing else 0.0
    known = {WAIT_STAGE, WRITE_STAGE, *FORWARD_STAGES, *THREAD_STAGES}
    other = sum(seconds for stage, seconds in stages.items() if stage not in known)
    run_ids = sorted({receipt.run_id for receipt in receipts})
    worker_s = sum(runs_s[run] for run in run_ids) if set(run_ids) <= set(runs_s) else None
    idle = max(0.0, worker_s - waited - forward - write - other) if worker_s is not None else 0.0
    bound: dict[Bound, float] = {
        "decode": waited - for_bytes,
        "forward": forward,
        "write": write,
        "waiting": for_bytes + idle,
    }
    verdict = max(bound, key=bound.__getitem__)
    return StageReport(
        runs=run_ids,
        rows=rows,
        units=len(receipts),
        stages_s=dict(sorted(stages.items())),
        bound_s=bound,
        other_s=other,
        worker_s=worker_s,
        verdict=verdict,
        advice=ADVICE[verdict],
    )


def _stages(receipts: Sequence[Receipt]) -> tuple[dict[str, float], int]:
    """Return seconds by stage, and the number of rows, of the receipts' ranges."""
    attempts: dict[tuple[str, int, int], list[Receipt]] = defaultdict(list)
    for receipt in receipts:
        attempts[receipt.run_id, receipt.range, receipt.attempt].append(receipt)
    stages: defaultdict[str, float] = defaultdict(float)
    for group in attempts.values():
        for stage, seconds in seconds_of_range(group).items():
            stages[stage] += seconds
    return dict(stages), sum(group[0].stop - group[0].start for group in attempts.values())
