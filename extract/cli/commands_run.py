"""``python -m extract plan``, ``run``, ``status``, ``stop``: estimate a run, run it, watch it, stop it."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extract.config import ExtractPipeline, resources_text
from store.cli.options import PIPELINES_FILE, ConfigOption, JsonOption, PipelineOption, SetOption, print_json
from store.config.pipeline_file import read_pipeline
from store.config.problems import it_has
from store.console import RESUMES, ExitCode, say, say_next
from store.errors import ConfigError
from store.io.location import is_url, locate

if TYPE_CHECKING:
    from extract.estimate.estimate import Estimate
    from extract.estimate.rates import Rates
    from extract.monitor.status import Progress, StoreStatus
    from extract.run.plan import RangeWork
    from extract.run.run_spec import Job
    from extract.run.tracker import Outcome, Tracker

app = typer.Typer()
log = logging.getLogger("extract")

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for programs that ``ray job submit`` starts."""

PlaceOption = Annotated[str | None, typer.Option("--store", help="The store's folder or URL, instead of store.path.")]
LocalOption = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
RootOption = Annotated[Path | None, typer.Option(help="The corpus's folder, if it moved.")]
StoreArgument = Annotated[
    str | None, typer.Argument(metavar="[STORE]", help="The store's folder or URL; or give --pipeline.")
]
OfPipelineOption = Annotated[str | None, typer.Option("--pipeline", help="The pipeline that names the store.")]


def loaded_pipeline(config: Path, pipeline: str, overrides: list[str] | None, store: str | None) -> ExtractPipeline:
    """Read a pipeline, with the store of ``--store`` if that is given.

    Raises:
        ConfigError: a relative ``--store`` in a Ray job, whose folder is a copy that goes with it.
    """
    changes = list(overrides or [])
    if store is not None:
        if not is_url(store) and not Path(store).is_absolute():
            if RAY_JOB in os.environ:
                raise ConfigError(
                    f"--store {store}: a relative path, and a Ray job runs in a copy of the folder it was submitted "
                    "from, which goes with the job",
                    hint=f'give the whole path, --store "$PWD/{store}", or a URL',
                )
            store = str(Path(store).absolute())
        changes.append(f"store.path={json.dumps(store)}")
    return read_pipeline(config, pipeline, ExtractPipeline, overrides=changes)


def store_of(store: str | None, config: Path, pipeline: str | None) -> str:
    """Return the place of a command's store, given directly or by its pipeline.

    Raises:
        BadParameter: neither was given, or both.
    """
    if (store is None) == (pipeline is None):
        raise typer.BadParameter("give STORE, a folder or URL, or --pipeline NAME")
    return store if store is not None else read_pipeline(config, str(pipeline), ExtractPipeline).store.path


@app.command(epilog="Example: python -m extract plan --pipeline mmkd --price-per-hour 2.5")
def plan(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    store: PlaceOption = None,
    probe: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Time to probe a worker; 0: no hours.")] = 60.0,
    profile: Annotated[Path | None, typer.Option(help="JSON of `extract teachers --profile`, not a probe.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Price of one worker (one GPU).")] = None,
    corpus_root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would take: units, bytes, objects, hours, cost. Write nothing."""
    from extract.estimate.estimate import estimate

    loaded = loaded_pipeline(config, pipeline, set_, store)
    found = estimate(loaded, probe_s=probe, profile=profile, price_per_hour=price_per_hour, corpus_root=corpus_root)
    if as_json:
        print_json(asdict(found))
    else:
        _print_estimate(found)


def _print_estimate(found: Estimate) -> None:
    to_do = found.units - found.committed
    lines = [
        f"{found.store}: {found.rows:,} rows, {found.units:,} units, {found.committed:,} committed, {to_do:,} to do"
    ]
    lines += [f"  {name}: {units:,} units to do" for name, units in found.teachers.items()]
    lines.append(f"to write: {_bytes(found.size.nbytes)} in {found.size.objects:,} objects")
    held = found.memory
    parts = ((held.pixels, "pixels"), (held.features, "features"), (held.tokens, "tokens"))
    memory = ", ".join(f"{_bytes(nbytes)} {noun}" for nbytes, noun in parts)
    lines.append(f"memory of each worker beside its teachers: {_bytes(held.total)} for rows on their way ({memory})")
    if found.rates is not None:
        lines += _rate_lines(found.rates)
        lines.append(f"  bound by: {found.bound_by}; stages overlap, and the slowest decides")
    if found.hours is not None:
        workers = f"{found.workers} worker{'' if found.workers == 1 else 's'}"
        lines.append(f"time: {_duration(found.hours * 3600)} with {workers}, {found.worker_hours:,.4g} worker hours")
        lines.append(f"each worker asks one node for {resources_text(found.asked)}")
    if found.cost is not None:
        lines.append(f"cost: {found.cost:,.2f} at the price given per worker hour")
    lines += [
        f"{name}: the store has features of another spec: run refuses this without --replace {name}"
        for name in found.replaced
    ]
    say(*lines)


def _rate_lines(rates: Rates) -> list[str]:
    origin = f"a probe of {rates.rows:,} rows in {rates.seconds:.1f} s" if rates.source == "probe" else rates.source
    lines = [f"one worker, by {origin}:"]
    for name, rate in rates.teachers.items():
        captions = f"{rate.captions_per_s:,.1f} captions/s" if rate.captions_per_s else "encodes no captions"
        lines.append(f"  {name}: {rate.images_per_s:,.1f} images/s, {captions}")
    if rates.source == "probe":
        cpu_ms, pool_ms, write_ms = (1000 * value for value in (rates.host_cpu_s, rates.pool_s, rates.write_s))
        lines.append(
            f"  per row: {cpu_ms:,.2f} ms of CPU beside the teachers, {pool_ms:,.2f} ms of the decoding threads, "
            f"{write_ms:,.2f} ms to commit each teacher"
        )
    elif rates.decoded_per_s:
        lines.append(f"  images decoded: {rates.decoded_per_s:,.1f} per second and thread")
    else:
        lines.append("  images are assumed to be ready in time: the profile does not say how fast they are decoded")
    return lines


@app.command(epilog="Example: python -m extract run --pipeline demo")
def run(
    *,
    pipeline: PipelineOption,
    config: ConfigOption = PIPELINES_FILE,
    set_: SetOption = None,
    store: PlaceOption = None,
    local: LocalOption = False,
    replace: Annotated[list[str] | None, typer.Option(help="Teacher whose stored features are replaced.")] = None,
    corpus_root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the teachers over every pair that lacks their features. Kill it at any moment and run it again."""
    from extract.run.dispatch import execute_here
    from extract.run.run import run as run_extraction

    loaded = loaded_pipeline(config, pipeline, set_, store)
    unknown = sorted(set(replace or []) - set(loaded.teachers))
    if unknown:
        raise ConfigError(
            f"--replace: no teacher {', '.join(unknown)} in the pipeline{it_has(unknown[0], loaded.teachers)}"
        )

    outcome = run_extraction(
        loaded, execute=execute_here if local else on_ray, replace=replace or [], corpus_root=corpus_root
    )
    if as_json:
        print_json({name: getattr(outcome, name) for name in ("units", "found", "done", "failed", "seconds")})
    if outcome.found == outcome.units:
        log.info("all %d units are committed: nothing to do (%.1f s)", outcome.units, outcome.seconds)
    else:
        counts = (outcome.done, outcome.found, outcome.units, outcome.seconds)
        log.info("%d units committed, %d were there before, %d in all (%.1f s)", *counts)
    for done, count in outcome.changed_images.most_common(10):
        log.warning("%d rows have images of more than 8 bits: %s", count, done)
    for reason, count in outcome.bad_rows.most_common(10):
        log.warning("%d feature pairs are missing: %s", count, reason)
    end(outcome)
    place = shlex.quote(loaded.store.path)
    say_next(
        *[f"python -m store quarantine {place}  # lists the rows without features"] * bool(outcome.bad_rows),
        f"python -m store info {place}  # says what the store holds and how it is read",
    )


def on_ray(job: Job, work: Sequence[RangeWork], tracker: Tracker) -> None:
    """Do every range on Ray, which is imported only for work: a run with nothing to do ends in a second."""
    from extract.cluster.execute import execute_on_ray

    execute_on_ray(job, work, tracker)


def end(outcome: Outcome) -> None:
    """Say that a run was stopped or gave up ranges, and end the program with that exit code."""
    if outcome.stopped:
        log.warning("stopped as requested: %s", RESUMES)
        raise typer.Exit(ExitCode.INTERRUPTED)
    if outcome.failed:
        for range_id, error in outcome.failed.items():
            log.error("range %d was given up: %s", range_id, error)
        raise typer.Exit(ExitCode.INCOMPLETE)


@app.command(epilog="Example: python -m extract status s3://bucket/store --json")
def status(
    store: StoreArgument = None,
    *,
    pipeline: OfPipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    as_json: JsonOption = False,
) -> None:
    """Say how far a store is and what its run does, on any machine. Needs only the store."""
    from extract.monitor.status import read_status

    found = read_status(locate(store_of(store, config, pipeline)))
    if as_json:
        print_json(found.as_json())
    else:
        say(*_status_lines(found))


def _status_lines(found: StoreStatus) -> list[str]:
    done = sum(found.teachers.values())
    lines = [
        f"{found.store}: {found.rows:,} rows in {found.ranges:,} ranges, {done:,} of {found.units:,} units committed"
    ]
    for name, units in found.teachers.items():
        again = f", {found.retries[name]:,} marked to be done again" if found.retries.get(name) else ""
        lines.append(f"  {name}: {units:,} of {found.ranges:,} ({units / max(1, found.ranges):.0%}){again}")
    lines.append(f"written to by {found.lock}" if found.lock else "nobody writes to it")
    if found.progress is None:
        return [*lines, "no run has written its progress"]
    return [*lines, *_run_lines(found.progress, locked=found.progress.holds(found.lock))]


def _run_lines(run: Progress, *, locked: bool) -> list[str]:
    said = run.content
    ago = f"last sign of life {_duration(run.age_s)} ago"
    lines = [f"run {run.run_id} on {said.get('host')} (process {said.get('pid')}): {run.state}, {ago}"]
    if run.state == "running" and not locked:
        lines.append("  it no longer holds the store: it was killed; `python -m extract run` goes on where it was")
    elif run.silent:
        lines.append("  that is long ago: it is cut off, hangs or is dead; `python -m extract stop` asks it to end")
    done = said.get("found", 0) + said.get("done", 0)
    lines.append(f"  {done:,} of {said.get('units', 0):,} units, {said.get('done', 0):,} of them by this run")
    lines += [f"  {name}: {rate:,.1f} rows/s" for name, rate in (said.get("rows_per_s") or {}).items()]
    if run.state == "running" and said.get("seconds_left") is not None:
        lines.append(f"  {_duration(said['seconds_left'])} left")
    if run.state == "running" and said.get("actors"):
        lines.append("  workers: " + ", ".join(f"{count} {name}" for name, count in said["actors"].items()))
    bad, failed = sum((said.get("bad_rows") or {}).values()), len(said.get("failed_ranges") or {})
    return [
        *lines,
        *(f"  {count:,} {noun}" for count, noun in ((bad, "bad rows"), (failed, "ranges given up")) if count),
    ]


@app.command(epilog="Example: python -m extract stop s3://bucket/store")
def stop(
    store: StoreArgument = None,
    *,
    pipeline: OfPipelineOption = None,
    config: ConfigOption = PIPELINES_FILE,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait at most so long.")] = 120.0,
    as_json: JsonOption = False,
) -> int:
    """Ask a store's run to stop, on any machine, and wait until it has. What is committed stays."""
    from extract.monitor.status import stop as stop_run

    place = locate(store_of(store, config, pipeline))
    done = stop_run(place, wait_s=wait)
    messages = {
        "nothing": "no run works on this store: nothing to stop",
        "dead": f"run {done.run_id} is dead: its progress says running, but it no longer holds the store",
        "stopped": f"run {done.run_id} stopped after {done.seconds:.1f} s; what it committed stays",
        "ended": f"run {done.run_id} ended before it was stopped",
        "silent": f"run {done.run_id} has not stopped within {done.seconds:.0f} s; {done.lock} holds the store; the "
        f"request stays. On object storage a run that was killed leaves its lock: python -m store unlock {place}",
    }
    if as_json:
        print_json({"run_id": done.run_id, "outcome": done.outcome, "seconds": done.seconds, "lock": done.lock})
    (log.warning if done.outcome == "silent" else log.info)("%s: %s", place, messages[done.outcome])
    return ExitCode.BAD_INPUT if done.outcome == "silent" else ExitCode.COMPLETE


def _bytes(value: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value} bytes"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"
