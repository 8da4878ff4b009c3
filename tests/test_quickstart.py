"""docs/quickstart.md: its commands, run in their order over 300 drawn images and tiny teachers, make what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from tests.evaluate.tiny_model import write_model
from tests.test_documents import BLOCK, ROOT, blocks

pytestmark = pytest.mark.slow


def own_section() -> list[tuple[str, str]]:
    """Return (language, content) of the blocks below "Your own images"."""
    text = (ROOT / "docs/quickstart.md").read_text()
    return BLOCK.findall(text[text.index("## Your own images") : text.index("## Real teachers")])


@pytest.fixture
def folder(tmp_path):
    """A folder with what the page asks for: images with captions beside them, and the demo's teachers."""
    for name, rows in (("scans", 300), ("scans_test", 30)):
        write_corpus(tmp_path / f"{name}_tars", PhantomSettings(rows=rows, seed=rows, key_prefix=name))
        (tmp_path / name).mkdir()
        for path in (tmp_path / f"{name}_tars").glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith((".jpg", ".txt")):
                        (tmp_path / name / Path(member.name).name).write_bytes(tar.extractfile(member).read())
    captions = [path.read_text() for path in (tmp_path / "scans").glob("*.txt")]
    for seed, name in enumerate(("tiny_ct", "tiny_mri", "tiny_xray")):
        write_model(tmp_path / "runs/demo/teachers" / name, captions, seed=seed)
    return tmp_path


def run(folder: Path, *words: str) -> str:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)  # noqa: PLW1510
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_page_is_what_happens(folder):
    for language, content in own_section():
        if language == "yaml":
            (folder / "mine.yaml").write_text(content)
        elif language == "python":
            run(folder, "-c", content)
        else:
            for line in content.splitlines():
                python, *words = shlex.split(line, comments=True)
                assert python == "python"
                run(folder, *words)
    for made in ("store/store.json", "store.html", "exported/README.md", "results/report.html"):
        assert (folder / "runs/mine" / made).is_file()
    records = list((folder / "runs/mine/results").glob("*/retrieval/scans_test.json"))
    assert sorted(path.parts[-3] for path in records) == ["mine", "tiny_ct", "tiny_mri", "tiny_xray"]
    for content in blocks("docs/export.md", "python"):
        run(folder / "runs/mine", "-c", content.replace("DIR", "exported"))
    for content in blocks("docs/evaluation.md", "python"):
        shown = run(folder / "runs/mine", "-c", content)
        assert len(re.findall(r"^\S+ scans_test ", shown, re.MULTILINE)) == 4
