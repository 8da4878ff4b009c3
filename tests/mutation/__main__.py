"""Puts small mistakes into a copy of some modules, one at a time, and counts those that the modules' tests notice.

A run that was interrupted goes on where it was. A mutant that survived is tried again once its tests have changed.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import py_compile
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code, use_mutation
from cosmic_ray.plugins import get_operator, operator_names

FORBIDDING = ("frozen", "kw_only", "slots", "strict")
ROOT = Path(__file__).parents[2]
WANTED = 0.95
PACKAGES = ("store", "extract", "train", "evaluate")
MOST_BYTES = 8 << 30
"""Memory of a mutant: one that allocates without end must not take the machine's."""
LIBRARIES = ["hypothesis", "open_clip", "pandas", "pyarrow.parquet", "pytest", "scipy.stats", "sklearn.linear_model"]
LIBRARIES += ["torch.distributed", "torchvision", "transformers", "typer.testing", "zarr"]


def bare(code):
    """Return what a module does: its tree without annotations and what only forbids some calls. Raises SyntaxError."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in FORBIDDING]
        elif isinstance(node, ast.arguments):
            node.args, node.posonlyargs, node.kwonlyargs = node.posonlyargs + node.args + node.kwonlyargs, [], []
            node.defaults, node.kw_defaults = node.defaults + [value for value in node.kw_defaults if value], []
        for name in {"annotation", "returns"} & {*node._fields}:
            setattr(node, name, None)
    return ast.dump(tree)


def mutants_of(module):
    """Yield (operator's name, occurrence, place, operator) of every mutant of a module."""
    nodes = [*ast_nodes(get_ast(Path(module).read_text()))]
    plain = [name for name in operator_names() if not get_operator(name).arguments()]
    for name, operator in ((name, get_operator(name)()) for name in plain):
        places = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            yield name, occurrence, start, operator


def sample(part, modules, *, seed, number):
    """Return mutants of a part's modules, drawn from a seed: at most one at each place, none of annotations only."""
    places = {}
    for module in modules:
        for mutant in mutants_of(module):
            places.setdefault((module, mutant[2]), []).append(mutant)
    drawn, found = random.Random(f"{seed} {part}"), []
    for module, start in drawn.sample(sorted(places), len(places)):
        name, occurrence, _, operator = drawn.choice(places[module, start])
        code = Path(module).read_text()
        try:
            changed = bare(mutate_code(code, operator, occurrence)) != bare(code)
        except SyntaxError:
            changed = False
        if changed:
            line = {"part": part, "module": module, "line": start[0]}
            found.append({**line, "operator": name, "occurrence": occurrence})
        if len(found) == number:
            break
    return found


def copy_tree(tree):
    """Copy the files that git knows or would add, and compile them such that a changed source is always noticed."""
    shutil.rmtree(tree, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    for package in PACKAGES:
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(tree / package, quiet=1, invalidation_mode=mode)


def outcome_of(tests, bound_s):
    """Return ``survived``, ``killed`` or ``timeout`` of what lies in the working directory, and what pytest said.

    The tests run in a fork: to import the libraries takes longer than most of them.
    """
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if not child:
            os.setsid()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
            os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not fault", *tests]))
        watched = os.pidfd_open(child)
        ended = select.select([watched], [], [], bound_s)[0]
        os.close(watched)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        code = os.waitpid(child, 0)[1]
        log.seek(0)
        return ("timeout" if not ended else "killed" if code else "survived"), log.read().decode(errors="replace")


def digest(*paths):
    return hashlib.sha256(b"\0".join(Path(path.partition("::")[0]).read_bytes() for path in paths)).hexdigest()[:16]


class Results:
    """The lines of a file of results, the last of each mutant."""

    def __init__(self, path):
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.known = {self.key(line): line for line in map(json.loads, lines)}

    @staticmethod
    def key(line):
        return tuple(line[name] for name in ("module", "code", "operator", "occurrence"))

    def of(self, mutant, tests):
        """Return what is known of a mutant, None if it is to be tried."""
        line = self.known.get(self.key({**mutant, "code": digest(mutant["module"])}))
        return None if line and line["outcome"] == "survived" and line["tests"] != digest(*tests) else line

    def add(self, **line):
        self.known[self.key(line)] = line
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def baseline(tests):
    """Return the seconds that some tests take without a mutant."""
    began = time.perf_counter()
    outcome, said = outcome_of(tests, 600)
    if outcome != "survived":
        raise SystemExit(f"the tests fail without a mutant: {' '.join(tests)}\n{said[-3000:]}")
    return time.perf_counter() - began


def tried(mutant, tests, bound_s):
    """Return the outcome of one mutant, and the lines that it changes."""
    began = time.perf_counter()
    operator = get_operator(mutant["operator"])()
    with use_mutation(Path(mutant["module"]), operator, mutant["occurrence"]) as codes:
        outcome, _ = outcome_of(tests, bound_s)
    lines = [line for line in difflib.ndiff(*(code.splitlines() for code in codes)) if line[:1] in "+-"]
    return {"outcome": outcome, "seconds": round(time.perf_counter() - began, 1), "diff": lines}


def import_libraries():
    """Import what the packages need and none of their modules; forget those of the tests that are imported here."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if Path(path) != ROOT]
    assert not {*PACKAGES} & {*sys.modules}
    assert threading.active_count() == 1


def report(lines):
    """Print the table and the survivors; return the killed share."""
    print(f"\n{'part':14}{'mutants':>8}{'killed':>8}{'timeout':>8}{'survived':>9}")
    names = ("killed", "timeout", "survived")
    for part in [*dict.fromkeys(line["part"] for line in lines), "all"]:
        some = [line["outcome"] for line in lines if part in (line["part"], "all")]
        print(f"{part:14}{len(some):8}" + "".join(f"{some.count(name):{max(8, len(name) + 1)}}" for name in names))
    survivors = [line for line in lines if line["outcome"] == "survived"]
    for line in survivors:
        print(f"\n{line['module']}:{line['line']} {line['operator'].removeprefix('core/')} {line['occurrence']}")
        print("\n".join(line["diff"]))
    share = 1 - len(survivors) / len(lines)
    print(f"\n{share:.1%} of {len(lines)} mutants are killed, {WANTED:.0%} are wanted")
    return share


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", metavar="PART", help="one part of tests/mutation/parts.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/mutation")
    options = parser.parse_args()
    config = yaml.safe_load(Path(__file__).with_name("parts.yaml").read_text())
    chosen = {name: tests for name, tests in config["parts"].items() if options.only in (None, name)}
    results, tree = Results(options.out.absolute() / "results.jsonl"), options.out.absolute() / "tree"
    copy_tree(tree)
    os.chdir(tree)  # what is edited meanwhile is seen by the next run
    drawn = {name: sample(name, chosen[name], seed=config["seed"], number=config["mutants"]) for name in chosen}
    os.nice(5)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "RAY_AUTH_MODE": "disabled"}
    sys.dont_write_bytecode = True
    import_libraries()
    seconds, lines = {}, []
    for part, mutants in drawn.items():
        for mutant in mutants:
            tests = chosen[part][mutant["module"]]
            if results.of(mutant, tests) is None:
                if str(tests) not in seconds:
                    seconds[str(tests)] = baseline(tests)
                found = tried(mutant, tests, 30 + 2 * seconds[str(tests)])
                results.add(**mutant, **found, code=digest(mutant["module"]), tests=digest(*tests))
                print(*mutant.values(), found["outcome"], found["seconds"], flush=True)
            lines.append(results.of(mutant, tests))
    raise SystemExit(report(lines) < WANTED)


if __name__ == "__main__":
    main()
