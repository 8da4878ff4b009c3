"""Estimates units, bytes, objects, hours and cost of a run. Reads the store and writes nothing to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from extract.config import ExtractPipeline
from extract.run.plan import plan
from extract.teacher_files.specs import teacher_spec
from store.format.pairs import PairTable
from store.format.records import Spec, read_record, read_store_info, spec_key
from store.io.location import Location, locate

from .rates import Rates, count_distinct, predicted_hours, rates_of_profile
from .size import Size, predicted_size


@dataclass(kw_only=True, frozen=True, slots=True)
class Estimate:
    """The work and the cost of a run that was not started yet.

    Attributes:
        units, committed: units of the complete store, and how many it has.
        teachers: units to do, by teacher.
        rates: the hours follow from them; None without probe and profile.
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
    worker_hours: float | None
    hours: float | None
    workers: int
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
        corpus_root: where the images lie, if the corpus moved.

    Raises:
        StoreNotFoundError: the corpus is not indexed yet.
        ConfigError: the profile lacks a teacher.
    """
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
        wanted = [spec for name, spec in specs.items() if lacking[name]]
        rates = probe(pairs, info, planned.work, specs=wanted, pipeline=pipeline, seconds=probe_s, root=root)
    worker_hours = None if planned.work else 0.0
    if rates is not None:
        distinct = count_distinct(pairs, info=info, ranges=[item.range_id for item in planned.work])
        worker_hours = predicted_hours(
            planned.work, info=info, rates=rates, distinct=distinct, section=pipeline.extract
        )
    workers = max(1, pipeline.extract.workers)  # 0: as many as the cluster has, which is not known here
    return Estimate(
        store=str(store),
        rows=info.rows,
        units=planned.units,
        committed=planned.committed,
        teachers={name: lacking[name] for name in specs},
        size=predicted_size(store, planned, info=info, specs=specs, pipeline=pipeline, rates=rates),
        rates=rates,
        worker_hours=worker_hours,
        hours=None if worker_hours is None else worker_hours / workers,
        workers=workers,
        cost=None if worker_hours is None or price_per_hour is None else worker_hours * price_per_hour,
        replaced=_replaced(store, specs),
    )


def _replaced(store: Location, specs: Mapping[str, Spec]) -> list[str]:
    stored = {name: read_record(store, spec_key(name), Spec) for name in specs if store.exists(spec_key(name))}
    return [name for name, spec in stored.items() if spec.hash != specs[name].hash]
