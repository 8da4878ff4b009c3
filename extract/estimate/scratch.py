"""Extracts some rows of a store into a store in memory that has only those rows, so that the store stays as it is.

The probe of ``plan`` and ``drift`` use it; they therefore run the very code that ``run`` runs.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

import pyarrow as pa

from extract.config import ExtractPipeline
from extract.run.run_spec import RunSpec
from store.format.commit import register_teacher
from store.format.records import Spec
from store.index.create import create_store
from store.index.merge import CorpusIndex
from store.io.location import Location, locate

RUN_ID = "scratch"
"""Run id in the receipts of a store in memory."""


@contextlib.contextmanager
def scratch() -> Iterator[Location]:
    """Yield an empty place in this process's memory, and empty it afterwards."""
    place = locate(f"memory://scratch/{secrets.token_hex(8)}")
    try:
        yield place
    finally:
        place.delete_below("")


def scratch_run(
    place: Location, pipeline: ExtractPipeline, specs: Sequence[Spec], pairs: pa.Table, *, root: str, range_rows: int
) -> RunSpec:
    """Make a store of some pairs in a place of `scratch`, and return the run that extracts them.

    Args:
        pairs: rows of a pair table, with distinct keys; they get new row numbers.
        range_rows: rows that a worker does at once.
    """
    place.delete_below("")
    index = CorpusIndex(table=pairs, root=root)
    info = create_store(place, index, signature={}, range_rows=range_rows, chunk_rows=range_rows)
    for spec in specs:
        register_teacher(place, spec, info=info)
    return RunSpec(
        store=place,
        entries={spec.teacher: pipeline.teachers[spec.teacher] for spec in specs},
        specs={spec.teacher: spec for spec in specs},
        settings=pipeline.extract,
        max_pixels=pipeline.max_pixels,
        corpus_root=root,
        run_id=RUN_ID,
        prefixes=dict.fromkeys((spec.teacher for spec in specs), ""),
    )
