"""Predicts the objects and bytes of a run: store shards by their format, JSON by writing examples to memory."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from extract.config import ExtractPipeline
from extract.run.plan import KnownUnits, Plan
from extract.run.stages import SHARED_STAGES, THREAD_STAGES
from extract.run.tracker import Outcome, Tracker, write_report
from store.config.pipeline_file import dump_resolved
from store.format.arrays import ARRAY_NAMES, ArrayName, dtype_of, index_bytes
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PAIR_SCHEMA
from store.format.records import Receipt, Spec, Status, StoreInfo, record_bytes
from store.io.location import Location

from .rates import Rates
from .scratch import RUN_ID, scratch

EXAMPLE_S = dict.fromkeys((*THREAD_STAGES, *SHARED_STAGES), 1.2345)
"""Seconds by stage in a receipt, where no probe says them; only their number of digits counts."""

LONG_RUN_ID = RUN_ID.ljust(len("20260101T000000-012345"), "-")
"""An id of the same length as a run's."""

RUN_OBJECTS = 3
"""A run's report, its progress, and the known units for the next plan."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Size:
    """Objects that are written, and their bytes."""

    objects: int
    nbytes: int


def shard_bytes(name: ArrayName, *, rows: int, spec: Spec, info: StoreInfo) -> int:
    """Return the bytes of a store shard: whole chunks of the rows, then the index of a whole range."""
    chunks = -(-rows // info.chunk_rows)
    width = spec.embed_dim if name in ("image", "text") else 1
    data = chunks * info.chunk_rows * width * np.dtype(dtype_of(name, spec.stored_dtype)).itemsize
    return data + index_bytes(info)


def predicted_size(
    store: Location,
    planned: Plan,
    *,
    info: StoreInfo,
    specs: Mapping[str, Spec],
    pipeline: ExtractPipeline,
    rates: Rates | None,
) -> Size:
    """Return what a run writes: shards to the byte, receipts by example, metadata of teachers that are not registered.

    Args:
        pipeline: the run's report repeats it.
        rates: a probe's rates say how many rows are bad and what stages a receipt has.
    """
    if not planned.work:
        return Size(objects=0, nbytes=0)
    lacking = dict.fromkeys(name for item in planned.work for name in item.teachers)
    timings = (rates and rates.timings_s) or EXAMPLE_S
    with scratch() as place:
        for spec in specs.values():
            register_teacher(place, spec, info=info)
        made = [size for key, size in place.list() if not store.exists(key)]
        examples = {name: _example(place, specs[name], info, pipeline, timings) for name in lacking}
        outcome = Outcome(units=planned.units, found=planned.committed)
        tracker = Tracker(outcome, run_id=LONG_RUN_ID, max_bad_fraction=1.0)
        tracker.note(list(examples.values()))
        write_report(place, outcome, run_id=LONG_RUN_ID, resolved=dump_resolved(pipeline))
        report_bytes = sum(size for _, size in place.list("runs"))
    nbytes = sum(made) + report_bytes + len(json.dumps(tracker.record("finished"), indent=1))
    known, objects = planned.known.model_copy(deep=True), len(made) + RUN_OBJECTS
    sizes = {name: len(record_bytes(example)) for name, example in examples.items()}
    for item in planned.work:
        start, stop = info.bounds(item.range_id)
        for name in item.teachers:
            shards = (shard_bytes(array, rows=stop - start, spec=specs[name], info=info) for array in ARRAY_NAMES)
            nbytes += sum(shards) + sizes[name] + round((rates.bad_row_bytes if rates else 0.0) * (stop - start))
            objects += len(ARRAY_NAMES) + 1
            _note(known, examples[name], item.range_id, stop=stop, size=sizes[name])
    return Size(objects=objects, nbytes=nbytes + len(known.model_dump_json()))


def _note(known: KnownUnits, example: Receipt, range_id: int, *, stop: int, size: int) -> None:
    digest = known.digest(range_id, stop=stop) or example.pairs_digest
    known.add(example.model_copy(update={"range": range_id, "stop": stop, "pairs_digest": digest}), size=size)


def _example(
    place: Location, spec: Spec, info: StoreInfo, pipeline: ExtractPipeline, timings_s: Mapping[str, float]
) -> Receipt:
    """Return a receipt without bad rows, by writing an invented unit to memory."""
    from extract.run.worker import PACKAGES

    start, stop = info.bounds(info.ranges - 1)
    zeros = np.zeros((stop - start, spec.embed_dim), np.float32)
    return commit_unit(
        place,
        info=info,
        spec=spec,
        range_id=info.ranges - 1,
        pairs=PAIR_SCHEMA.empty_table(),
        features=UnitFeatures(image=zeros, text=zeros, status=np.full(len(zeros), Status.OK, np.uint8), reasons={}),
        circumstances=Circumstances(
            device=pipeline.extract.device,
            batch_size=pipeline.extract.batch_size,
            run_id=LONG_RUN_ID,
            attempt=1,
            timings_s=dict(timings_s),
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        ),
    )
