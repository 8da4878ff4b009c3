"""A run's counts as Ray metrics, which the cluster's dashboard and Prometheus show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray.util.metrics import Counter, Gauge

from extract.run.stages import seconds_of_range
from store.format.records import Receipt


class RunMetrics:
    """Counts units, rows, bad rows and seconds by stage; every metric has the run's id as a tag."""

    def __init__(self, run_id: str) -> None:
        of_teacher = ("run", "teacher")
        self._units = Counter("mmkd_extract_units", "Units committed by the run.", of_teacher)
        self._rows = Counter("mmkd_extract_rows", "Rows of the units committed by the run.", of_teacher)
        self._bad = Counter("mmkd_extract_bad_rows", "Rows without feature in units committed by the run.", of_teacher)
        self._seconds = Counter("mmkd_extract_stage_seconds", "Seconds of all workers, by stage.", ("run", "stage"))
        self._workers = Gauge("mmkd_extract_workers", "Workers, by state.", ("run", "state"))
        for metric in (self._units, self._rows, self._bad, self._seconds, self._workers):
            metric.set_default_tags({"run": run_id})

    def note(self, receipts: Sequence[Receipt]) -> None:
        """Count the receipts of one range."""
        for receipt in receipts:
            tags = {"teacher": receipt.teacher}
            self._units.inc(1, tags)
            self._rows.inc(max(1, receipt.stop - receipt.start), tags)
            if receipt.bad_rows:
                self._bad.inc(len(receipt.bad_rows), tags)
        for stage, seconds in seconds_of_range(receipts).items():
            if seconds > 0:  # a counter refuses zero
                self._seconds.inc(seconds, {"stage": stage})

    def workers(self, counts: Mapping[str, int]) -> None:
        """Record how many workers are in each state."""
        for state, count in counts.items():
            self._workers.set(count, {"state": state})
