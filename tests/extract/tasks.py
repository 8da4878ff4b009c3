"""Work for a worker, as tests give it, and a teacher that they hold."""

from __future__ import annotations

from extract.worker.task import Task

PATIENCE_S = 60
"""A test that waits so long has failed."""


class Gate:
    """A teacher that calls a function before it encodes images."""

    def __init__(self, teacher, before):
        self._teacher, self._before = teacher, before

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def image_features(self, pixels_BHWC):
        self._before()
        return self._teacher.image_features(pixels_BHWC)


def done(worker, range_id, teachers, **options):
    """Have a worker do a range, and return the receipts."""
    return worker.submit(Task(range_id=range_id, teachers=tuple(teachers), **options)).result()


def tasks(*ranges):
    return [Task(range_id=number, teachers=("small", "wide")) for number in ranges]
