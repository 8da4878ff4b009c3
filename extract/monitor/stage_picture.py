"""Draws where the time of an extraction went, as bars of letters."""

from __future__ import annotations

from store.inspect.stage_report import BESIDE, QUEUES, TIMELINE, StageReport

BAR_COLUMNS = 30


def picture(found: StageReport) -> list[str]:
    """Return lines of at most 80 columns: bars of each stage's share of the workers' time, and the queues."""
    total_s = found.total_s or 1.0

    def bar(name: str, seconds: float) -> str:
        filled = round(BAR_COLUMNS * min(1.0, seconds / total_s))
        per_row = 1000 * seconds / max(1, found.rows)
        shape = "█" * filled + "·" * (BAR_COLUMNS - filled)
        shown = f"{seconds:,.1f} s" if seconds < 1e5 else f"{seconds / 3600:,.0f} h"
        return f"  {name:<18} {shape} {shown:>11} {seconds / total_s:>4.0%} {per_row:>10,.2f}"

    lines = [f"{'one after the other, in each worker':<69}ms per row"]
    lines += [bar(name, found.timeline_s[stage]) for stage, name in TIMELINE.items() if stage in found.timeline_s]
    lines.append("at the same time, on its other threads")
    lines += [bar(name, found.beside_s[stage]) for stage, name in BESIDE.items() if stage in found.beside_s]
    shown = [f"{length:.1f} {QUEUES.get(queue, queue)}" for queue, length in found.queues.items()]
    return [*lines, *([f"on average {', '.join(shown)}"] if shown else [])]
