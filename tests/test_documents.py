"""Links of documents lead somewhere, their commands are understood, their YAML is read, their Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from textwrap import indent

import pytest
import yaml

from evaluate.config import EvaluatePipeline
from extract.config import ExtractPipeline
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError
from store.pipeline import Pipeline
from tests.test_command_lines import understood
from train.config import TrainPipeline

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"(?:\$ |\s*next: )?(?:\w+=\S+ )*(?:\S*python|torchrun .*|ray job submit .*) -m (store|extract|train|evaluate) (.*)"
)
OTHERWISE = {
    "python": {
        "README.md",
        "docs/api.md",
        "docs/evaluation.md",
        "docs/export.md",
        "docs/quickstart.md",
        "docs/store.md",
    },
    "yaml": {"docs/corpora.md"},
}
"""Documents whose blocks other tests run, over the files that they are about."""


def blocks(document: str, *languages: str) -> list[str]:
    return [content for language, content in BLOCK.findall((ROOT / document).read_text()) if language in languages]


def each(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"{document}-{place}")
        for document in DOCUMENTS
        if document not in OTHERWISE[language]
        for place, block in enumerate(blocks(document, language))
    ]


COMMANDS = [
    (document, *found.groups())
    for document in DOCUMENTS
    for block in blocks(document, "", "console", "bash")
    for line in block.replace("\\\n", " ").splitlines()
    if (found := COMMAND.match(line))
]


def test_the_commands_of_the_documents_are_found():
    assert {document for document, *_ in COMMANDS} >= {"README.md", "docs/quickstart.md", "docs/evaluation.md"}
    assert len(COMMANDS) > 100


@pytest.mark.parametrize(("document", "program", "rest"), COMMANDS)
def test_a_command_is_understood(document, program, rest):
    line = re.split(r"\s(?:[|>;&]+|\.\.\.)(?:\s|$)", rest)[0]
    understood(program, shlex.split(line.translate(str.maketrans("", "", "[]")), comments=True))


BASE = {"corpora": "{scans: {files: [a.tar]}, biomedica: {files: [b.tar]}}", "store": "{path: store}"}


@pytest.mark.parametrize("block", each("yaml"))
def test_yaml_is_read_or_refused_as_the_document_says(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(block)
    if content.keys() <= EvaluatePipeline.model_fields.keys():
        missing = [f"{name}: {section}" for name, section in BASE.items() if name not in content]
        block = "mine:\n" + indent("\n".join([*missing, block]), "  ")
    Path("pipelines.yaml").write_text(block)
    model = (
        EvaluatePipeline
        if "evaluate:" in block
        else TrainPipeline
        if "train" in content
        else ExtractPipeline
        if "teachers:" in block
        else Pipeline
    )
    settings = ["extract.wokers=2", "extract.batch_size=8"] if "embed_dimm" in block else []
    if not settings:
        read_pipeline(Path("pipelines.yaml"), "mine", model)
        return
    with pytest.raises(ConfigError) as raised:
        read_pipeline(Path("pipelines.yaml"), "mine", model, overrides=settings)
    assert f"```\nerror: {raised.value}\n```\n" in (ROOT / "docs/pipelines.md").read_text()


@pytest.mark.parametrize("block", each("python"))
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "document", "exec"), {})  # noqa: S102


def headings_of(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    here = ROOT / document
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", here.read_text(), flags=re.DOTALL)):
        path, _, anchor = target.partition("#")
        if not path.startswith(("http:", "https:")):
            there = here.parent.joinpath(path) if path else here
            assert there.exists(), target
            assert not anchor or anchor in headings_of(there), target


def test_benchmarks_begin_with_a_table_of_contents():
    document = ROOT / "docs/benchmarks.md"
    contents, _, rest = document.read_text().partition("\n## ")
    assert re.findall(r"^- \[(.*?)\]\(#", contents, re.MULTILINE) == re.findall(
        r"^## (.*)$", f"## {rest}", re.MULTILINE
    )
