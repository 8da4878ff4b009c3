"""The stages of an extraction as receipts record them, and the seconds of a range by stage."""

from __future__ import annotations

from collections.abc import Sequence

from .records import RangeReceipt

HOST_STAGES = ("read", "decode", "fit", "tokenize", "collect")
"""Stages of the host's threads. Their seconds are added up; they overlap with each other and with the stages below."""

WAITS = ("wait_for_range", "wait_for_images", "wait_for_tokens")
"""Time in which the device had nothing to do: no range was given, or its images or tokens were not made yet."""

DEVICE_STAGES = (*WAITS, "forward_image", "forward_text", "other")
"""Stages of the device, one at a time: together they are the time from the end of the range before to its own end.

All teachers of a range share them and HOST_STAGES, so that each of its receipts has the same; each unit has its own
``write``, which is done while the device works on later ranges.
"""


def seconds_of_range(receipts: Sequence[RangeReceipt]) -> dict[str, float]:
    """Return the seconds by stage of one attempt at a range, from its receipts.

    The teachers share all stages except ``write``. Each receipt has their seconds up to its commit: the largest counts.
    """
    names = dict.fromkeys(stage for receipt in receipts for stage in receipt.timings_s)
    values = {stage: [receipt.timings_s.get(stage, 0.0) for receipt in receipts] for stage in names}
    return {stage: sum(of) if stage == "write" else max(of) for stage, of in values.items()}
