"""The origin of a store's features: specs, versions, devices, runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from store.format.records import Receipt, Spec
from store.read.reader import FeatureStore

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherProvenance:
    """One teacher.

    Attributes:
        versions, devices, batch_sizes: how many units were made with each.
    """

    spec: Spec
    units: int
    versions: dict[str, dict[str, int]]
    devices: dict[str, int]
    batch_sizes: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values, with the spec hash."""
        rest = {name: getattr(self, name) for name in ("units", "versions", "devices", "batch_sizes")}
        return {"spec_hash": self.spec.hash, "spec": self.spec.model_dump(mode="json"), **rest}


@dataclass(kw_only=True, frozen=True, slots=True)
class Run:
    """The units of one run that are still there.

    Attributes:
        first, last: when it finished its first and its last unit, ISO 8601.
    """

    run_id: str
    teachers: tuple[str, ...]
    units: int
    rows: int
    first: str
    last: str


@dataclass(kw_only=True, frozen=True, slots=True)
class Provenance:
    """All teachers and runs of a store."""

    teachers: dict[str, TeacherProvenance]
    runs: tuple[Run, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain JSON values."""
        teachers = {teacher: entry.as_json() for teacher, entry in self.teachers.items()}
        return {"teachers": teachers, "runs": [asdict(run) for run in self.runs]}


def provenance(store: FeatureStore, *, receipts: Mapping[str, Collection[Receipt]] | None = None) -> Provenance:
    """Return where a store's features come from, from specs and receipts alone; ``receipts`` if they are known."""
    receipts = receipts or {teacher: store.receipts(teacher).values() for teacher in store.teachers}
    return Provenance(
        teachers={teacher: _teacher(store.spec(teacher), found) for teacher, found in receipts.items()},
        runs=runs_of(chain.from_iterable(receipts.values())),
    )


def runs_of(receipts: Iterable[Receipt]) -> tuple[Run, ...]:
    """Return the runs that made some units, the earliest first."""
    by_run: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        by_run.setdefault(receipt.run_id, []).append(receipt)
    return tuple(sorted((_run(run_id, found) for run_id, found in by_run.items()), key=lambda run: run.first))


def _teacher(spec: Spec, receipts: Collection[Receipt]) -> TeacherProvenance:
    versions: dict[str, Counter[str]] = {}
    for receipt in receipts:
        for package, version in receipt.versions.items():
            versions.setdefault(package, Counter())[version] += 1
    return TeacherProvenance(
        spec=spec,
        units=len(receipts),
        versions={package: dict(sorted(counts.items())) for package, counts in sorted(versions.items())},
        devices=dict(sorted(Counter(receipt.device for receipt in receipts).items())),
        batch_sizes=dict(sorted(Counter(str(receipt.batch_size) for receipt in receipts).items())),
    )


def _run(run_id: str, receipts: list[Receipt]) -> Run:
    finished = sorted(receipt.finished for receipt in receipts)
    return Run(
        run_id=run_id,
        teachers=tuple(sorted({receipt.teacher for receipt in receipts})),
        units=len(receipts),
        rows=sum(receipt.stop - receipt.start for receipt in receipts),
        first=finished[0],
        last=finished[-1],
    )


def in_short(content: Mapping[str, Any]) -> str:
    """Return the single values of a part of a spec as ``name=value``; lists, such as a mean, are left out."""
    return " ".join(f"{name}={value[:8] if DIGEST.fullmatch(value) else value}" for name, value in _leaves(content))


def _leaves(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif not isinstance(value, list) and value is not None:
            yield name, str(value)


def architecture_in_short(architecture: Mapping[str, Any]) -> str:
    """Return the two towers of an open_clip configuration in a few words; of another, its single values."""
    towers = [architecture[name] for name in ("vision_cfg", "text_cfg") if isinstance(architecture.get(name), Mapping)]
    return " + ".join(map(_tower, towers)) if towers else in_short(architecture)


def _tower(tower: Mapping[str, Any]) -> str:
    for name in ("timm_model_name", "hf_model_name"):
        if tower.get(name):
            return str(tower[name])
    layers = tower.get("layers")
    shown = "-".join(map(str, layers)) if isinstance(layers, list) else layers
    parts = (("layers", shown), ("width", tower.get("width")), ("patch", tower.get("patch_size")))
    return " ".join(f"{name} {value}" for name, value in parts if value is not None) or "open_clip's defaults"
