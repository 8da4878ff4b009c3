"""Estimates units, bytes, objects, hours and cost of a run. Reads the store and writes nothing to it.

The bytes of store shards follow from their format, those of JSON from examples that are written to memory.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract.config import ExtractPipeline
from extract.run.plan import Plan, plan
from extract.run.tracker import Outcome, Tracker, write_report
from extract.teacher_files.specs import teacher_spec
from store.config.pipeline_file import dump_resolved
from store.format.arrays import ArrayName, array_names, dtype_of, index_bytes, tail_of
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.records import Receipt, Spec, Status, StoreInfo, read_record, read_store_info, record_bytes, spec_key
from store.format.stages import DEVICE_STAGES, HOST_STAGES
from store.io.location import Location, locate

from .in_flight import InFlight, in_flight
from .rates import Rates, Resources, count_distinct, predicted_hours, probe, rates_of_profile, slowest, stage_seconds
from .scratch import RUN_ID, scratch


@dataclass(kw_only=True, frozen=True, slots=True)
class Estimate:
    """The work and the cost of a run that was not started yet.

    Attributes:
        units, committed: units of the complete store, and how many it has.
        teachers: units to do, by teacher.
        rates: the hours follow from them; None without probe and profile.
        bound_by: what a worker's speed is bound by, as `slowest` names it; None without rates.
        memory: of rows in one worker, on the host.
        asked: CPUs and GPUs of one node that each worker asks for.
        worker_hours, hours: hours of all workers together, and hours until the run ends.
        cost: worker hours times the price; None without a price.
        replaced: teachers whose stored features have another spec; ``run`` refuses them without ``--replace``.
    """

    store: str
    rows: int
    units: int
    committed: int
    teachers: Mapping[str, int]
    size: Size
    rates: Rates | None
    bound_by: str | None
    memory: InFlight
    worker_hours: float | None
    hours: float | None
    workers: int
    asked: Mapping[str, float]
    cost: float | None
    replaced: Sequence[str]


def estimate(
    pipeline: ExtractPipeline,
    *,
    probe_s: float,
    profile: Path | None = None,
    price_per_hour: float | None = None,
    corpus_root: Path | None = None,
) -> Estimate:
    """Return what ``run`` would do with a pipeline.

    Args:
        probe_s: seconds to run a worker for; 0 for no hours.
        profile: JSON of ``python -m extract teachers --profile``, in place of a probe.

    Raises:
        StoreNotFoundError: the corpus is not indexed yet.
        ConfigError: the profile lacks a teacher.
    """
    store = locate(pipeline.store.path)
    info = read_store_info(store)
    specs = {
        name: teacher_spec(name, entry, stored_dtype=pipeline.store.dtype, window=pipeline.image.bounds)
        for name, entry in pipeline.teachers.items()
    }
    pairs = PairTable(store, info)
    planned = plan(store, info=info, pairs=pairs, specs=specs)
    lacking = Counter(name for item in planned.work for name in item.teachers)
    rates = bound_by = None
    wanted = [spec for name, spec in specs.items() if lacking[name]]
    if planned.work and profile is not None:
        rates = rates_of_profile(profile, specs=wanted)
    elif planned.work and probe_s > 0:
        root = str(corpus_root or info.corpus_root)
        rates = probe(pairs, info, planned.work, specs=wanted, pipeline=pipeline, seconds=probe_s, root=root)
    worker_hours = None if planned.work else 0.0
    if rates is not None:
        distinct = count_distinct(pairs, info=info, ranges=[item.range_id for item in planned.work])
        worker_hours = predicted_hours(
            planned.work, info=info, rates=rates, distinct=distinct, section=pipeline.extract
        )
        stages_s = stage_seconds(rates, rates.teachers, distinct, Resources.of(pipeline.extract))
        bound_by = slowest(stages_s)
    stored = {name: read_record(store, spec_key(name), Spec) for name in specs if store.exists(spec_key(name))}
    workers = max(1, pipeline.extract.workers)  # 0: as many as the cluster has, which is not known here
    return Estimate(
        store=str(store),
        rows=info.rows,
        units=planned.units,
        committed=planned.committed,
        teachers={name: lacking[name] for name in specs},
        size=predicted_size(store, planned, info=info, specs=specs, pipeline=pipeline, rates=rates),
        rates=rates,
        bound_by=bound_by,
        memory=in_flight(wanted, batch_size=pipeline.extract.batch_size, range_rows=info.range_rows),
        worker_hours=worker_hours,
        hours=None if worker_hours is None else worker_hours / workers,
        workers=workers,
        asked=pipeline.extract.asked,
        cost=None if worker_hours is None or price_per_hour is None else worker_hours * price_per_hour,
        replaced=[name for name, spec in stored.items() if spec.hash != specs[name].hash],
    )


EXAMPLE_S = dict.fromkeys((*HOST_STAGES, *DEVICE_STAGES), 1.2345)
"""Seconds by stage in a receipt, where no probe says them; only their number of digits counts."""

EXAMPLE_QUEUES = {"decoded": 1.25, "encoded": 0.0}

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
    width = math.prod(tail_of(name, spec))
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
            arrays = array_names(specs[name])
            shards = (shard_bytes(array, rows=stop - start, spec=specs[name], info=info) for array in arrays)
            nbytes += sum(shards) + sizes[name] + round((rates.bad_row_bytes if rates else 0.0) * (stop - start))
            objects += len(arrays) + 1
            digest = known.digest(item.range_id, stop=stop) or examples[name].pairs_digest
            update = {"range": item.range_id, "stop": stop, "pairs_digest": digest}
            known.add(examples[name].model_copy(update=update), size=sizes[name])
    return Size(objects=objects, nbytes=nbytes + len(known.model_dump_json()))


def _example(
    place: Location, spec: Spec, info: StoreInfo, pipeline: ExtractPipeline, timings_s: Mapping[str, float]
) -> Receipt:
    """Return a receipt without bad rows, by writing an invented unit to memory."""
    from extract.worker.worker import PACKAGES

    start, stop = info.bounds(info.ranges - 1)
    zeros = np.zeros((stop - start, spec.embed_dim), np.float32)
    return commit_unit(
        place,
        info=info,
        spec=spec,
        range_id=info.ranges - 1,
        pairs=PAIR_SCHEMA.empty_table(),
        features=UnitFeatures(
            image=zeros,
            text=zeros if "text" in spec.sides else None,
            status=np.full(len(zeros), Status.OK, np.uint8),
            reasons={},
        ),
        circumstances=Circumstances(
            device=pipeline.extract.device,
            batch_size=pipeline.extract.batch_size,
            run_id=LONG_RUN_ID,
            attempt=1,
            timings_s=dict(timings_s),
            queues=EXAMPLE_QUEUES,
            versions={name: importlib.metadata.version(name) for name in PACKAGES},
        ),
    )
