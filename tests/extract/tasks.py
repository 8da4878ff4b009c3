"""Work for a worker, as tests give it."""

from __future__ import annotations

from extract.worker.task import Task


def done(worker, range_id, teachers, **options):
    """Have a worker do a range, and return the receipts."""
    return worker.submit(Task(range_id=range_id, teachers=tuple(teachers), **options)).result()
