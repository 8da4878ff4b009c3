"""The paper's size, rehearsed: what a store goes through in its life, at any number of rows (``make rehearse``).

python -m tests.benchmarks.store.rehearse --rows 290000 --out DIR

Nine teachers of the real widths, 6.62 of them per row on average as in the paper (19.2 M feature pairs of 2.9 M pairs).
The disk is measured first, beside the store. Each phase is a process of its own; before a cold one the files of the
store are taken out of the page cache. DIR is deleted in the end unless ``--keep`` is given; the figures stay in
DIR.json.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml
from PIL import Image

from store.format.arrays import dtype_of
from store.format.records import StoredDtype, read_store_info
from store.io.location import locate
from tests.benchmarks.measure import measure
from tests.benchmarks.records import QUIET_LOAD, Watch

from .rehearsal_phases import DAMAGED, WIDTHS, drop_cached

PAIR_BYTES = 150
"""Bytes of a row of the pair table, about."""

HEADROOM = 1.05

COST = ("seconds", "cpu_seconds", "read_gb", "peak_gib", "own_gib")

Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One step of the rehearsal.

    Attributes:
        command: what follows ``python -m``.
        cold: whether the store is taken out of the page cache before.
        disk: the speed of the disk that its own is compared with; one that reads is judged by the bytes from the disk.
        says: turns the JSON that it prints into its figures.
        code: the exit code that is expected.
    """

    command: Sequence[str]
    cold: bool = False
    disk: str | None = None
    says: Callable[[Any], Found] = lambda said: said
    code: int = 0


def row_bytes(features: StoredDtype) -> int:
    """Return the bytes of a row on disk: both features, similarity and status of all teachers, and the pair."""
    item = np.dtype(dtype_of("image", features)).itemsize
    return sum(WIDTHS.values()) * 2 * item + len(WIDTHS) * 5 + PAIR_BYTES


def phases(path: Path, beside: Path, *, rows: int, features: StoredDtype) -> dict[str, Phase]:
    """Return the steps in order.

    Args:
        beside: a folder for what is no part of the store: a page, a corpus of one pair and its pipeline.
    """
    own, store = "tests.benchmarks.store.rehearsal_phases", str(path)
    of_teacher = [store, "--teacher", DAMAGED, "--deep", "--json"]
    page, pipeline = beside / "report.html", beside / "pipeline.yaml"
    plan, nbytes = Phase(command=[own, "plan", store], says=_left_to_do), rows * row_bytes(features)
    append = ["extract", "append", "--pipeline", "rehearsal", "--config", str(pipeline), "--report"]
    return {
        "disk": Phase(command=[own, "disk", store, "--bytes", str(nbytes)]),
        "build": Phase(command=[own, "build", store, "--rows", str(rows), "--features", features], disk="write"),
        "verify --deep": Phase(
            command=["store", "verify", store, "--deep", "--json"], cold=True, disk="read", says=_verified
        ),
        "epoch, cold": Phase(command=[own, "epoch", store], cold=True, disk="read"),
        "epoch again": Phase(command=[own, "epoch", store]),
        "open": Phase(command=[own, "open", store], cold=True),
        "one row": Phase(command=[own, "row", store], cold=True),
        "plan": plan,
        "store info": Phase(command=["store", "info", store, "--json"], says=_info),
        "store coverage": Phase(command=["store", "coverage", store, "--json"], says=_coverage),
        "store report": Phase(
            command=["store", "report", store, "--out", str(page), "--json"],
            says=lambda said: {"sample": said["sample"], "page_bytes": page.stat().st_size},
        ),
        "flip a byte": Phase(command=[own, "flip", store]),
        "verify it": Phase(command=["store", "verify", *of_teacher], cold=True, disk="read", says=_damage, code=1),
        "repair it": Phase(command=["store", "repair", *of_teacher], cold=True, disk="read", says=_repaired),
        "append a pair": Phase(command=append, says=lambda said: {"pairs": said["pairs"]}),
        "plan again": plan,
    }


def _verified(said: Any) -> Found:
    assert said["valid"]
    assert said["complete"]
    states: Counter[str] = Counter()
    for of_teacher in said["teachers"].values():
        states.update(of_teacher)
    return {"units_verified": states["verified"]}


def _info(said: Any) -> Found:
    return {"rows": said["rows"], "complete": said["complete"], "feature_pairs": said["feature_pairs"]}


def _coverage(said: Any) -> Found:
    counts = [count for of_teacher in said.values() for count in of_teacher.values()]
    return {"feature_pairs": sum(count["ok"] for count in counts), "missing": sum(count["missing"] for count in counts)}


def _damage(said: Any) -> Found:
    return {"found": [problem["key"] for problem in said["problems"]]}


def _repaired(said: Any) -> Found:
    assert not said["left"]
    return {"receipts_removed": said["receipts"], "objects_removed": said["objects"]}


def _left_to_do(said: Any) -> Found:
    said["to_do"] = [[range_id, name] for range_id, teachers in said["to_do"] for name in teachers]
    return said  # type: ignore[no-any-return]


def write_pair(beside: Path, store: Path) -> None:
    """Write a corpus of one pair and a pipeline for ``extract append``."""
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(image, "PNG")
    corpus = beside / "new.tar"
    with tarfile.open(corpus, "w") as tar:
        for name, content in (("appended.png", image.getvalue()), ("appended.txt", b"a finding that came later")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    pipeline = {
        "corpora": {"new": {"files": [str(corpus.absolute())]}},
        "store": {"path": str(store.absolute()), "corpus": "new"},
        "teachers": {name: {"folder": "none"} for name in WIDTHS},
    }
    (beside / "pipeline.yaml").write_text(yaml.safe_dump({"rehearsal": pipeline}))


def run(name: str, phase: Phase, path: Path, before: dict[str, Found]) -> Found:
    """Run a phase in a process of its own, and return what it found and what it cost."""
    print(f"{datetime.now(UTC):%H:%M:%S} {name}", file=sys.stderr, flush=True)
    if phase.cold:
        drop_cached(path)
    with tempfile.TemporaryFile() as answer:
        cost = measure([sys.executable, "-m", *phase.command], stdout=answer)
        answer.seek(0)
        said = answer.read()
    if cost.code != phase.code:
        raise SystemExit(f"{name} ended with exit code {cost.code}: {said.decode(errors='replace')[-2000:]}")
    found = {name: getattr(cost, name) for name in COST} | phase.says(json.loads(said))
    nbytes = cost.read_gb * 1e9 if phase.disk == "read" else found.get("bytes")
    if nbytes is None:
        return found
    speed = nbytes / 1e6 / found.get("work_seconds", cost.seconds)
    of_disk = {"of_disk": round(speed / before["disk"][f"{phase.disk}_MB_per_s"], 2)} if phase.disk else {}
    return found | {"MB_per_s": round(speed)} | of_disk


def require_space(path: Path, rows: int, features: StoredDtype) -> None:
    """Refuse to begin where the disk cannot hold it."""
    needed = int(rows * row_bytes(features) * HEADROOM)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        fits = int(free / row_bytes(features) / HEADROOM)
        half = int(free / row_bytes("int8") / HEADROOM)
        instead = "" if features == "int8" else f", ROWS={half} FEATURES=int8 too"
        raise SystemExit(
            f"{path.parent}: {free / 1e9:.1f} GB are free, {rows} rows in {features} need {needed / 1e9:.1f}; "
            f"ROWS={fits} would fit{instead}"
        )


def rehearse(path: Path, rows: int, *, features: StoredDtype, keep: bool) -> Found:
    """Run all phases, and write their figures beside the folder with the record for docs/benchmarks.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise SystemExit(f"{path} is there already: name a folder that is not")
    require_space(path, rows, features)
    report: Found = {"rows": rows, "features": features, "teachers": len(WIDTHS), "phases": {}}
    watch, code = Watch(), 1
    try:
        with tempfile.TemporaryDirectory() as beside:
            write_pair(Path(beside), path)
            for name, phase in phases(path, Path(beside), rows=rows, features=features).items():
                report["phases"][name] = run(name, phase, path, report["phases"])
            check(path, report["phases"])
        code = 0
    finally:
        # What was measured stays also if a phase fails.
        command = f"make rehearse ROWS={rows} FEATURES={features}"
        record = watch.record(command, shown(report), code=code, is_busy=watch.load > QUIET_LOAD)
        path.with_name(f"{path.name}.json").write_text(json.dumps(report | {"record": asdict(record)}, indent=1) + "\n")
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
    return report


def check(path: Path, found: dict[str, Found]) -> None:
    """See that the phases agree with each other."""
    info = read_store_info(locate(path))
    damaged_range = int(found["flip a byte"]["damaged"].split("/")[-2])
    damaged = [damaged_range, DAMAGED]
    assert found["plan"]["to_do"] == []
    assert found["store info"]["feature_pairs"] == found["store coverage"]["feature_pairs"]
    assert found["verify it"]["found"] == [found["flip a byte"]["damaged"]]
    assert found["repair it"]["receipts_removed"] == [f"receipts/{DAMAGED}/r{damaged_range:06d}.json"]
    appended = [[info.ranges - 1, name] for name in WIDTHS]
    assert sorted(found["plan again"]["to_do"]) == sorted([*appended, *([damaged] if damaged not in appended else [])])


COLUMNS = {
    "seconds": "s",
    "work_seconds": "of it work",
    "cpu_seconds": "CPU s",
    "MB_per_s": "MB/s",
    "of_disk": "of the disk's",
    "read_gb": "GB from disk",
    "peak_gib": "GiB",
    "own_gib": "GiB own",
}


def shown(report: Found) -> str:
    """Return a table in Markdown."""
    lines = [f"{report['rows']:,} rows, {report['features']}", ""]
    lines += [f"| phase | {' | '.join(COLUMNS.values())} | found |", "|" + " --- |" * (len(COLUMNS) + 2)]
    for name, found in report["phases"].items():
        figures = [f"{found[column]:,}" if column in found else "" for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(figures)} | {_text(found)} |")
    return "\n".join(lines)


def _text(found: Found) -> str:
    """Return what a phase found beside its cost."""
    parts = []
    for name, value in found.items():
        if name in COLUMNS:
            continue
        shown = f"{value:,}" if isinstance(value, int | float) else len(value) if isinstance(value, list) else value
        parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts)


def main() -> None:
    """Run all phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_900_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", choices=get_args(StoredDtype), default="float16", help="how they are stored")
    parser.add_argument("--keep", action="store_true", help="leave the store there")
    options = parser.parse_args()
    print(shown(rehearse(options.out, options.rows, features=options.features, keep=options.keep)))


if __name__ == "__main__":
    main()
