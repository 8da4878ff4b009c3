"""``python -m store verify``, ``repair``, ``rm-teacher``, ``unlock``: check a store and repair it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from store.check.inventory import take_inventory
from store.check.problems import Kind, Problem, Report, UnitState
from store.check.repair import Repair, remove_teacher
from store.check.repair import repair as mend
from store.check.verify import verify as check
from store.console import ExitCode, say
from store.io.folder import Folder
from store.io.location import locate
from store.io.lock import LEASE_KEY, LOCK_KEY
from store.io.lock import unlock as remove_lock

from .options import DeepOption, JsonOption, StoreArgument, TeacherOption, print_json
from .tables import print_next, print_table

app = typer.Typer()

SHOWN = 50
"""Problems that are printed as text; JSON has all."""


@app.command(epilog="Example: python -m store verify runs/demo/store --deep")
def verify(
    store: StoreArgument, *, teacher: TeacherOption = None, deep: DeepOption = False, as_json: JsonOption = False
) -> int:
    """Check that what is committed is there as it was committed; exit with 1 if anything is damaged."""
    report = check(locate(store), teacher=teacher, deep=deep)
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)
    return ExitCode.COMPLETE if report.valid else ExitCode.BAD_INPUT


@app.command(epilog="Example: python -m store repair runs/demo/store --deep --dry-run")
def repair(
    store: StoreArgument,
    *,
    teacher: TeacherOption = None,
    deep: DeepOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Delete instead of moving to lost+found/.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before deleting.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Move damaged units, and objects that no receipt commits, to lost+found/; an extraction makes the units anew."""
    if purge and not (yes or dry_run or sys.stdin.isatty()):
        raise typer.BadParameter("--purge deletes; without a terminal, --yes must be given")

    def agreed(planned: Repair) -> bool:
        if not as_json:
            _print_plan(planned, purge=purge)
        return not purge or yes or planned.nothing or typer.confirm("Delete?", err=True)

    done = mend(locate(store), teacher=teacher, deep=deep, dry_run=dry_run, purge=purge, agreed=agreed)
    if as_json:
        print_json(done.as_json())
    elif dry_run:
        _print_plan(done, purge=purge)
    elif not done.dry_run:
        _print_done(done)
    refused = done.dry_run and not dry_run
    return ExitCode.INTERRUPTED if refused else ExitCode.BAD_INPUT if done.left else ExitCode.COMPLETE


@app.command("rm-teacher", epilog="Example: python -m store rm-teacher runs/demo/store tiny_ct --yes")
def rm_teacher(
    store: StoreArgument,
    teacher: Annotated[str, typer.Argument(help="Its id.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Delete a teacher from a store: its receipts, its spec, its features."""
    location = locate(store)
    inventory = take_inventory(location)
    inventory.check_name(teacher)
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"this deletes the features of {teacher}; without a terminal, --yes must be given")
        receipts = sum(key.startswith(f"receipts/{teacher}/") for key in inventory.receipts)
        nbytes = sum(size for key, size in inventory.sizes.items() if teacher in key.split("/")[1:2])
        question = f"Delete {teacher} from {location}: {receipts} committed ranges, {nbytes / 1e6:,.1f} MB?"
        if not typer.confirm(question, err=True):
            return ExitCode.INTERRUPTED
    deleted = remove_teacher(location, teacher)
    say(f"deleted {teacher}: {deleted} objects")
    return ExitCode.COMPLETE


@app.command(epilog="Example: python -m store unlock s3://bucket/store")
def unlock(store: StoreArgument) -> None:
    """Remove the lock that a killed writer left, instead of waiting; make sure first that it no longer runs."""
    location = locate(store)
    if isinstance(location, Folder) and not location.exists(LEASE_KEY):
        # Deleting the file while it is locked would let a second writer in.
        say(f"{location.show(LOCK_KEY)}: the lock of a folder ends with its holder; nothing to remove")
        return
    holder = remove_lock(location)
    say(f"removed the lock of {holder}" if holder else f"{location}: no lock is there")


def _print_report(report: Report) -> None:
    say(f"store    {report.store}")
    read = "every stored byte was read" if report.deep else "listing and receipts; --deep reads every stored byte"
    say(f"checked  {report.rows:,} rows in {report.ranges:,} ranges ({read})")
    states: tuple[UnitState, ...] = ("damaged", "missing", "outgrown", "verified")
    rows = [[teacher, *(f"{counts[one]:,}" for one in states)] for teacher, counts in report.counts().items()]
    if rows:
        print_table(["teacher", *states], rows)
    _print_problems(report.problems)
    say(_verdict(report))


def _verdict(report: Report) -> str:
    states = [unit.state for unit in report.units]
    missing = len(states) - states.count("verified") - states.count("damaged")
    damage = sum(problem.severity == "damage" for problem in report.problems)
    parts = ["valid" if report.valid else f"damaged: {damage} problems, {states.count('damaged')} units"]
    if not states:
        parts.append("no teacher was ever registered")
    elif missing:
        parts.append(f"incomplete: {missing} of {len(states)} units are to be extracted (python -m extract run)")
    elif report.complete:
        parts.append("complete")
    return "; ".join(parts)


def _print_problems(problems: list[Problem]) -> None:
    orphans = [problem for problem in problems if problem.kind == Kind.ORPHAN]
    # A running extraction has four of them per unit that it is writing.
    single = [problem for problem in problems if problem.kind != Kind.ORPHAN or problem is orphans[0]]
    for problem in single[:SHOWN]:
        say(f"{problem}", f"  next: {problem.next}")
    if len(single) > SHOWN:
        say(f"... and {len(single) - SHOWN} more; --json has all")
    if orphans[1:]:
        say(f"... and {len(orphans) - 1} more objects that no receipt commits; --json names all")


def _print_plan(planned: Repair, *, purge: bool) -> None:
    move = "to delete" if purge else "to move to lost+found/"
    _print_keys(f"{move}, receipts of damaged units", planned.receipts)
    _print_keys(f"{move}, objects of these units and such as no receipt commits", planned.objects)
    _print_keys(f"{move}, attempts that no receipt names", planned.attempts)
    _print_keys("to delete, unfinished writes", planned.unfinished)
    _print_keys("to finish, moves of whole units", planned.forward)
    _print_keys("to write anew, Zarr metadata", [teacher or "(the group)" for teacher in planned.metadata])
    if planned.left:
        say("left alone:")
        _print_problems(planned.left)
    elif planned.nothing:
        say("nothing to repair")


def _print_done(done: Repair) -> None:
    if not done.nothing:
        place = f"; what was taken away lies in {done.report.store}/{done.lost_found}" if done.lost_found else ""
        say(f"done{place}")
    if done.receipts:
        print_next(["python -m extract run --pipeline NAME  # makes these units anew"])


def _print_keys(what: str, keys: Iterable[str]) -> None:
    named = list(keys)
    if named:
        say(f"{what}: {len(named)}", *(f"  {key}" for key in named[:SHOWN]))
        if len(named) > SHOWN:
            say(f"  ... and {len(named) - SHOWN} more; --json has all")
