"""Rules for the repository as a whole: names, the shipped configuration, the command lines."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import yaml

import store
from evaluate.config import EvaluatePipeline
from store.config.pipeline_file import Section, read_pipeline

ROOT = Path(__file__).parents[1]
PROGRAMS = ("store", "extract", "train", "evaluate")


def pipelines():
    return [name for name in yaml.safe_load((ROOT / "pipelines.yaml").read_text()) if not name.startswith((".", "x-"))]


def run_python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_package_is_the_repositorys_own(name):
    """Hugging Face's `evaluate`, say, would take the place of ours without an error."""
    found = importlib.util.find_spec(name)
    assert found is not None, f"there is no package {name}; run from {ROOT}"
    assert found.origin is not None, f"{name} is a folder without __init__.py: {list(found.submodule_search_locations)}"
    assert Path(found.origin).is_relative_to(ROOT / name), f"`import {name}` finds {found.origin}, not {ROOT / name}"


def test_there_is_a_demo_pipeline():
    assert "demo" in pipelines()


@pytest.mark.parametrize("name", pipelines())
def test_a_shipped_pipeline_is_valid_and_consistent(name):
    pipeline = read_pipeline(ROOT / "pipelines.yaml", name, EvaluatePipeline)
    corpora = {pipeline.store.corpus, *(run.corpus for run in pipeline.train.pretrain.values())}
    corpora |= {dataset.corpus for dataset in pipeline.evaluate.zero_shot.values()}
    assert corpora <= set(pipeline.corpora)
    assert pipeline.store.range_rows % pipeline.store.chunk_rows == 0
    assert pipeline.select == "all" or set(pipeline.select) <= set(pipeline.teachers)
    assert not set(pipeline.train.students) & set(pipeline.teachers)
    for trained, run in pipeline.train.pretrain.items():
        assert trained not in pipeline.teachers or run.out == pipeline.teachers[trained].folder
    for dataset in pipeline.evaluate.zero_shot.values():
        assert set(dataset.group_names) <= set(dataset.classes)


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_explains_itself(name):
    done = run_python("-m", name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m {name}" in done.stdout


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", PROGRAMS)
def test_explaining_a_program_loads_neither_torch_nor_ray(name):
    lines = [
        "import runpy, sys",
        f"sys.argv = ['{name}', '--help']",
        "try:",
        f"    runpy.run_module('{name}', run_name='__main__')",
        "except SystemExit as end:",
        "    print('code', end.code)",
        "print('loaded', sorted({'torch', 'ray', 'open_clip', 'transformers'} & set(sys.modules)))",
    ]
    done = run_python("-c", "\n".join(lines))
    assert done.stdout.splitlines()[-2:] == ["code 0", "loaded []"], done.stdout + done.stderr


def folders():
    return sorted({path.parent for name in PROGRAMS for path in (ROOT / name).rglob("*.py")})


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_has_three_to_twelve_modules_and_says_what_it_is_for(folder):
    modules = [path for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    rooms = [path.parent for path in folder.glob("*/__init__.py")]
    assert len(modules) + len(rooms) >= 3
    assert len(modules) <= 12
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


def test_what_the_document_of_the_interface_names_is_importable_and_loads_neither_torch_nor_ray():
    shown = set(re.findall(r"^from store import (\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert "FeatureStore" in shown
    assert shown <= set(store.__all__)
    lines = [
        f"from store import {', '.join(store.__all__)}",
        "import sys",
        "print('loaded', sorted({'torch', 'ray', 'open_clip', 'transformers'} & set(sys.modules)))",
    ]
    done = run_python("-c", "\n".join(lines))
    assert done.stdout == "loaded []\n", done.stdout + done.stderr


def test_nothing_but_the_interface_is_an_attribute_of_the_store():
    with pytest.raises(AttributeError, match="no attribute 'reader'"):
        _ = store.reader


def test_every_dependency_is_imported_by_a_package():
    """Libraries that only tests import belong to the dev extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", text)[0].lower().replace("_", "-") for text in project["dependencies"]}
    imported = set()
    for path in (path for name in PROGRAMS for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    owners = importlib.metadata.packages_distributions()
    used = {owner.lower().replace("_", "-") for name in imported for owner in owners.get(name, ())}
    # torch.utils.tensorboard imports tensorboard, and SigLIP's tokenizer of transformers the other two.
    assert declared - used == {"tensorboard", "sentencepiece", "protobuf"}


def sections_below(model):
    """Yield every section that a pipeline may hold, however it is nested."""
    yield model
    for field in model.model_fields.values():
        todo = [field.annotation]
        while todo:
            kind = todo.pop()
            todo += get_args(kind)
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from sections_below(kind)


def test_every_key_of_a_pipeline_is_described():
    """The document is the only description of keys: a section's docstring has none."""
    text = (ROOT / "docs/pipelines.md").read_text()
    described = {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)}
    keys = {key for section in sections_below(EvaluatePipeline) for key in section.model_fields}
    assert len(keys) > 100
    assert keys - described == set()


DOCUMENTS = [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if path.name != "CHANGELOG.md"]
PLACE = re.compile(r"\b((?:store|extract|train|evaluate|tests)/[a-z\d_/]+\.py)\b(?:: (\w+)(?:\.(\w+))?)?")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_and_name_that_a_document_mentions_is_there(document):
    wrong = []
    for place in PLACE.finditer(document.read_text()):
        path, names = ROOT / place[1], [name for name in place.groups()[1:] if name]
        defined = path.read_text() if path.is_file() else ""
        wrong += [place[0]] if not all(re.search(rf"\b(def|class) {name}\b", defined) for name in names) else []
        wrong += [] if path.is_file() else [place[0]]
    assert wrong == []


def test_ray_ships_neither_runs_nor_weights():
    ignored = (ROOT / ".rayignore").read_text().splitlines()
    assert {"runs/", "weights/", ".venv*/", ".git/"} <= set(ignored)
