"""A worker over sixty pairs, for the tests of its stages."""

from __future__ import annotations

import pytest

from extract.run.run import run
from extract.run.run_spec import build_worker


@pytest.fixture
def pipeline(tmp_path, corpus, teachers, write_pipeline, prepare):
    """Sixty pairs in four ranges, two teachers; indexed into ``store``."""
    return prepare(write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers, batch_size=8))


@pytest.fixture
def with_worker(pipeline):
    """Return a function that calls another with a worker over the sixty pairs."""

    def call(act):
        def execute(spec, _work, _tracker):
            with build_worker(spec) as worker:
                act(worker)

        return run(pipeline, execute=execute)

    return call
