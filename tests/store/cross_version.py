"""A store written under one Python is read under another, and the reverse: ``python -m tests.store.cross_version``.

Makes a virtual environment for the other Python (``.venv312``: what the store needs, by constraints.txt), then has each
of the two write a store by ``store/`` and one by the document, and each read and verify what either wrote. Where there
is no Python 3.12 it says so and ends with 0.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv312"
OTHER = (3, 12)
NEEDED = (
    "numpy",
    "zarr",
    "numcodecs",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "pillow",
    "obstore",
    "typer",
    "rich",
    "duckdb",
    "google-crc32c",
)
VERSIONS = ("zarr", "numcodecs", "numpy", "pyarrow", "pydantic", "obstore")


def find_python() -> str | None:
    """Return a Python 3.12: of the environment PYTHON312, of the PATH, or of pyenv."""
    minor = "python{}.{}".format(*OTHER)
    candidates = [os.environ.get("PYTHON312"), shutil.which(minor)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob("{}.{}*/bin/python".format(*OTHER)))]
    for candidate in filter(None, candidates):
        # pyenv's shim is there even where it leads nowhere.
        with_version = [candidate, "-c", "import sys; print(*sys.version_info[:2])"]
        done = subprocess.run(with_version, capture_output=True, text=True, check=False)
        if done.returncode == 0 and tuple(map(int, done.stdout.split())) == OTHER:
            return candidate
    return None


def make_environment(python: str) -> Path:
    """Return the interpreter of an environment with what the store needs."""
    made = ENVIRONMENT / "bin/python"
    stamp, constraints = ENVIRONMENT / ".installed", ROOT / "constraints.txt"
    if stamp.exists() and stamp.stat().st_mtime >= constraints.stat().st_mtime:
        return made
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    if not made.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", python, str(ENVIRONMENT)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(made), "--constraint", str(constraints), *NEEDED]
    subprocess.run(install, check=True)
    stamp.touch()
    return made


def write(folder: Path) -> None:
    """Write two stores: ``program`` by store/, ``book`` by the document alone, with the same features."""
    import numpy as np

    from . import by_the_book as book
    from . import make_fixture as fixture

    fixture.make(folder / "program")
    made = folder / "program/store"
    teachers = {}
    for name, hole in (("alpha", ()), ("beta", (fixture.HOLE,))):
        features = fixture.features(name, 0, fixture.ROWS)
        teachers[name] = book.Features(
            spec=json.loads((made / f"specs/{name}.json").read_bytes()),
            image=features.image,
            text=features.text,
            status=np.asarray(features.status),
            reasons=features.reasons,
            holes=hole,
        )
    book.write_store(folder / "book/store", book.read_pairs(made), teachers, info=book.read_info(made))


def check(folder: Path) -> dict[str, Any]:
    """Read and verify what `write` wrote; returns what was found, which must not depend on who reads or wrote."""
    from store.check.verify import verify
    from store.io.location import locate
    from store.read.reader import FeatureStore

    from . import by_the_book as book

    found: dict[str, Any] = {}
    for kind in ("program", "book"):
        path = folder / kind / "store"
        store, report = FeatureStore(path), verify(locate(path), deep=True)
        found[kind] = {
            "problems": [str(problem) for problem in report.problems],
            "units": report.counts(),
            "pairs": hashlib.sha256(json.dumps(store.pairs.read(0, 20).to_pylist()).encode()).hexdigest(),
            "row_of": store.pairs.row_of("pair13"),
        }
        for teacher in store.teachers:
            read = book.read_features(path, teacher)
            values = {
                "image": store.read(slice(0, 20), teacher=teacher, side="image"),
                "text": store.read(slice(0, 20), teacher=teacher, side="text"),
                "similarity": store.similarity(teacher).round(6),
                "status": store.status(teacher),
            }
            assert (read.status == values["status"]).all()
            assert (read.image == values["image"]).all()
            found[kind][teacher] = {
                "damage": book.damage(path, teacher),
                "spec": store.spec(teacher).hash,
                "values": {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in values.items()},
            }
    return found


def versions() -> str:
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    return f"Python {platform.python_version()}, {packages}"


def ask(python: str, *arguments: str) -> str:
    """Run this module under an interpreter."""
    command = [python, "-m", "tests.store.cross_version", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def compare(here: str, other: str, folder: Path) -> bool:
    """Have each interpreter write, and both read what each wrote; whether all found the same, and nothing wrong."""
    names = {"here": here, "other": other}
    for name, python in names.items():
        tell(f"{name:6} {ask(python, 'versions').strip()}")
        ask(python, "write", str(folder / name))
    results = {}
    for writer in names:
        for reader, python in names.items():
            results[writer, reader] = result = json.loads(ask(python, "check", str(folder / writer)))
            wrong = [text for kind in result.values() for text in kind["problems"]]
            wrong += [text for kind in result.values() for t in ("alpha", "beta") for text in kind[t]["damage"]]
            tell(f"written {writer}, read {reader}: " + ("; ".join(wrong) or "valid to the last byte"))
            if wrong:
                return False
    first = results["here", "here"]["program"]
    # Between program and book too: they store the same features.
    same = all(kind == first for result in results.values() for kind in result.values())
    tell("every reader found the same values" if same else f"readers differ: {json.dumps(list(results.values()))}")
    shards = [path for path in (folder / "here").rglob("*") if path.is_file() and "c" in path.parts]
    alike = sum(
        path.read_bytes() == (folder / "other" / path.relative_to(folder / "here")).read_bytes() for path in shards
    )
    tell(f"{alike} of {len(shards)} shards have the same bytes under both")
    return same and alike == len(shards) > 0


def main(arguments: list[str]) -> int:
    match arguments:
        case ["versions"]:
            tell(versions())
        case ["write", folder]:
            write(Path(folder))
        case ["check", folder]:
            tell(json.dumps(check(Path(folder))))
        case _:
            python = find_python()
            if python is None:
                tell("skipped: no Python 3.12 is found on the PATH or in pyenv; PYTHON312=/path/to/python names one")
                return 0
            with tempfile.TemporaryDirectory() as folder:
                return 0 if compare(sys.executable, str(make_environment(python)), Path(folder)) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
