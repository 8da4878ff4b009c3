"""The result of one check, and a bound on the time that a check waits for somebody else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        said: one sentence.
        next: what to do about it, empty where nothing is to be done.
    """

    check: str
    state: State
    said: str
    next: str = ""


def worse(*, fails: bool) -> State:
    """Return the state of a problem: ``fail`` where a run cannot succeed, else ``warn``."""
    return "fail" if fails else "warn"


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what some work returns. It goes on unheard in a thread of its own if it takes longer.

    Raises:
        TimeoutError: it takes longer; and whatever the work raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def gb(nbytes: float) -> str:
    """Return an amount of bytes in GB."""
    return f"{nbytes / 1e9:,.2f} GB"
