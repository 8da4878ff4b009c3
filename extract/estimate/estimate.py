"""What a run would take: units, bytes, objects, hours, cost. Reads the store and writes nothing to it."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.config import ExtractPipeline
from extract.run.known_units import KnownUnits
from extract.run.plan import RangeWork, plan
from extract.run.tracker import Outcome, Tracker, progress_key, write_report
from extract.teacher_files.specs import teacher_spec
from store.config.pipeline_file import dump_resolved
from store.format.arrays import ARRAY_NAMES, ArrayName, dtype_of
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pairs import PAIR_SCHEMA, PairTable
from store.format.records import (
    KNOWN_UNITS_KEY,
    Receipt,
    Spec,
    Status,
    StoreInfo,
    read_record,
    read_store_info,
    record_bytes,
    spec_key,
)
from store.format.shard_layout import index_bytes
from store.io.location import Location, locate

from .rates import Rates, count_distinct, predicted_hours, rates_of_profile
from .scratch import RUN_ID, scratch

STAGES = ("read", "decode", "fit", "wait_for_images", "forward_image", "forward_text", "write")
"""Whose seconds a receipt holds, for its size where no probe says it."""

LONG_RUN_ID = RUN_ID.ljust(len("20260101T000000-012345"), "-")
"""As long as a run's."""

RUN_OBJECTS = 3
"""Report, progress, and what the next plan need not read again."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Size:
    """Objects that are written, and their bytes."""

    objects: int
    nbytes: int


@dataclass(kw_only=True, frozen=True, slots=True)
class Estimate:
    """What a run would do.

    Attributes:
        store: where it lies.
        rows: of the store.
        units: of the whole store.
        committed: units that are there.
        teachers: units to do, by teacher.
        size: what is written.
        rates: that the hours are computed from; None if neither probed nor given.
        worker_hours: of all workers together.
        hours: until the run ends.
        workers: that share the work.
        cost: worker hours times the price; None without one.
        replaced: teachers whose stored features are of another spec; ``run`` refuses them without ``--replace``.
    """

    store: str
    rows: int
    units: int
    committed: int
    teachers: Mapping[str, int]
    size: Size
    rates: Rates | None
    worker_hours: float | None
    hours: float | None
    workers: int
    cost: float | None
    replaced: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values; docs/extraction.md describes them."""
        return asdict(self)


def shard_bytes(name: ArrayName, *, rows: int, spec: Spec, info: StoreInfo) -> int:
    """Return the bytes of a store shard: whole chunks of the rows, then the index of a whole range."""
    chunks = -(-rows // info.chunk_rows)
    width = spec.embed_dim if name in ("image", "text") else 1
    data = chunks * info.chunk_rows * width * np.dtype(dtype_of(name, spec.stored_dtype)).itemsize
    return data + index_bytes(info)


def predicted_size(
    store: Location,
    *,
    info: StoreInfo,
    work: Sequence[RangeWork],
    specs: Mapping[str, Spec],
    pipeline: ExtractPipeline,
    versions: Mapping[str, str],
    rates: Rates | None,
) -> Size:
    """Return what a run writes: store shards to the byte, receipts by example, metadata of what is not registered.

    Args:
        store: where it lies; only read.
        info: its shape.
        work: what is to be done.
        specs: of the teachers, by id.
        pipeline: which the run's report repeats.
        versions: as receipts record them.
        rates: whose probe says how many rows are bad and what stages there are.
    """
    if not work:
        return Size(objects=0, nbytes=0)
    lacking = {name: spec for name, spec in specs.items() if any(name in item.teachers for item in work)}
    timings = (rates and rates.timings_s) or dict.fromkeys(STAGES, 1.2345)
    nbytes = objects = 0
    with scratch() as place:
        for spec in specs.values():
            register_teacher(place, spec, info=info)
        made = [(key, size) for key, size in place.list() if not store.exists(key)]
        nbytes, objects = sum(size for _, size in made), len(made)
        examples = [
            _example(place, spec, info=info, pipeline=pipeline, versions=versions, timings=timings)
            for spec in lacking.values()
        ]
        receipts = {example.teacher: len(record_bytes(example)) for example in examples}
        nbytes += _known_bytes(place, info=info, specs=specs, receipts=receipts)
        nbytes += _run_bytes(place, examples, pipeline)
    bad = rates.bad_row_bytes if rates else 0.0
    for item in work:
        start, stop = info.bounds(item.range_id)
        for name in item.teachers:
            shards = (shard_bytes(array, rows=stop - start, spec=specs[name], info=info) for array in ARRAY_NAMES)
            nbytes += sum(shards) + receipts[name] + round(bad * (stop - start))
            objects += len(ARRAY_NAMES) + 1
    return Size(objects=objects + RUN_OBJECTS, nbytes=nbytes)


def _run_bytes(place: Location, examples: Sequence[Receipt], pipeline: ExtractPipeline) -> int:
    """Return the bytes of a run's report and progress, by writing those of one that did these receipts to memory."""
    outcome = Outcome(units=len(examples), found=0)
    tracker = Tracker(outcome, run_id=LONG_RUN_ID, max_bad_fraction=1.0)
    tracker.note(examples)
    write_report(place, outcome, run_id=LONG_RUN_ID, resolved=dump_resolved(pipeline))
    place.write(progress_key(LONG_RUN_ID), json.dumps(tracker.record("finished"), indent=1).encode())
    return sum(size for _, size in place.list("runs")) - (place.size(KNOWN_UNITS_KEY) or 0)


def _known_bytes(place: Location, *, info: StoreInfo, specs: Mapping[str, Spec], receipts: Mapping[str, int]) -> int:
    """Return the bytes of what a run keeps for the next plan, by writing that of a complete store to memory."""
    ranges, largest = range(info.ranges), max(receipts.values())
    known = KnownUnits(
        digests={range_id: (info.bounds(range_id)[1], "0" * 64) for range_id in ranges},
        specs={name: spec.hash for name, spec in specs.items()},
        sizes={name: dict.fromkeys(ranges, receipts.get(name, largest)) for name in specs},
        changed=True,
    )
    known.write(place)
    return place.size(KNOWN_UNITS_KEY) or 0


def _example(
    place: Location,
    spec: Spec,
    *,
    info: StoreInfo,
    pipeline: ExtractPipeline,
    versions: Mapping[str, str],
    timings: Mapping[str, float],
) -> Receipt:
    """Return a receipt without bad rows, by writing an invented unit to memory."""
    start, stop = info.bounds(info.ranges - 1)
    rows = stop - start
    zeros = np.zeros((rows, spec.embed_dim), np.float32)
    pairs = PAIR_SCHEMA.empty_table()
    features = UnitFeatures(image=zeros, text=zeros, status=np.full(rows, Status.OK, np.uint8), reasons={})
    circumstances = Circumstances(
        device=pipeline.extract.device,
        batch_size=pipeline.extract.batch_size,
        run_id=LONG_RUN_ID,
        attempt=1,
        timings_s=dict(timings),
        versions=dict(versions),
    )
    return commit_unit(
        place,
        info=info,
        spec=spec,
        range_id=info.ranges - 1,
        pairs=pairs,
        features=features,
        circumstances=circumstances,
    )


def other_specs(store: Location, specs: Mapping[str, Spec]) -> list[str]:
    """Return the teachers of whom a store has features of another spec."""
    stored = {name: read_record(store, spec_key(name), Spec) for name in specs if store.exists(spec_key(name))}
    return [name for name, spec in stored.items() if spec.hash != specs[name].hash]


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
        pipeline: which teachers over which store, and with how many workers.
        probe_s: seconds to try the workers for; 0 for no hours.
        profile: JSON of ``python -m extract teachers --profile``, in place of a probe.
        price_per_hour: of one worker.
        corpus_root: where the images lie, if the corpus moved.

    Raises:
        StoreNotFoundError: the corpus is not indexed yet.
        ConfigError: the profile lacks a teacher.
    """
    from extract.run.worker import PACKAGES

    store = locate(pipeline.store.path)
    info = read_store_info(store)
    specs = {
        name: teacher_spec(name, entry, stored_dtype=pipeline.store.dtype) for name, entry in pipeline.teachers.items()
    }
    pairs = PairTable(store, rows=info.rows)
    planned = plan(store, info=info, pairs=pairs, specs=specs)
    lacking = Counter(name for item in planned.work for name in item.teachers)
    rates = None
    if planned.work and profile is not None:
        rates = rates_of_profile(profile, teachers=lacking)
    elif planned.work and probe_s > 0:
        from .probe import probe

        root = str(corpus_root or info.corpus_root)
        rates = probe(store, info=info, work=planned.work, specs=specs, pipeline=pipeline, seconds=probe_s, root=root)
    worker_hours = None if planned.work else 0.0
    if rates is not None:
        distinct = count_distinct(pairs, info=info, ranges=[item.range_id for item in planned.work])
        worker_hours = predicted_hours(
            planned.work, info=info, rates=rates, distinct=distinct, section=pipeline.extract
        )
    workers = max(1, pipeline.extract.workers)  # 0: as many as the cluster has, which nobody knows here
    priced = worker_hours is not None and price_per_hour is not None
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return Estimate(
        store=str(store),
        rows=info.rows,
        units=planned.units,
        committed=planned.committed,
        teachers={name: lacking[name] for name in specs},
        size=predicted_size(
            store, info=info, work=planned.work, specs=specs, pipeline=pipeline, versions=versions, rates=rates
        ),
        rates=rates,
        worker_hours=worker_hours,
        hours=None if worker_hours is None else worker_hours / workers,
        workers=workers,
        cost=worker_hours * price_per_hour if priced else None,  # type: ignore[operator]
        replaced=other_specs(store, specs),
    )
