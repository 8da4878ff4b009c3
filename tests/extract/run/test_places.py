"""Places of corpus and store: a corpus that moved or changed, and a store in a copy, are reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from extract.run.dispatch import execute_here
from extract.run.run import run
from store.errors import ConfigError, CorpusError
from store.read.reader import FeatureStore


def test_a_corpus_that_moved_is_found_again_where_it_is_said_to_be(tmp_path, corpus, teachers, write_pipeline, prepare):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(corpus, here)
    pipeline = prepare(write_pipeline(tmp_path, files=[here / "*.tar"], teachers={"small": teachers["small"]}))
    here.rename(there)
    with pytest.raises(CorpusError, match="not where the store says") as caught:
        run(pipeline, execute=execute_here)
    assert "--corpus-root" in caught.value.hint
    outcome = run(pipeline, execute=execute_here, corpus_root=there)
    assert outcome.done == 4
    assert FeatureStore(Path(pipeline.store.path)).is_complete("small")


@pytest.mark.parametrize("change", ["another", "cut"])
def test_a_corpus_that_changed_after_indexing_ends_the_run_and_commits_nothing(
    tmp_path, teachers, write_pipeline, write_tar, encoded, prepare, change
):
    rng = np.random.default_rng(3)
    images = [encoded(pixels) for pixels in rng.integers(0, 255, (24, 64, 64, 3), np.uint8)]
    folder = write_tar(tmp_path / "corpus", [(f"k{i:02d}", image, "a caption") for i, image in enumerate(images)])
    pipeline = prepare(
        write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]}, range_rows=32)
    )
    [tar] = folder.glob("*.tar")
    if change == "cut":
        tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    else:
        write_tar(folder, [(f"k{i:02d}", image, "a caption") for i, image in enumerate(reversed(images))])
    with pytest.raises(CorpusError, match="not the one that was indexed"):
        run(pipeline, execute=execute_here)
    assert not FeatureStore(pipeline.store.path).receipts("small")


def test_a_store_inside_the_copy_that_ray_makes_of_the_working_directory_is_refused(
    tmp_path, corpus, teachers, write_pipeline, prepare
):
    folder = tmp_path / "working_dir_files" / "_ray_pkg_0123"
    pipeline = prepare(write_pipeline(folder, files=[corpus / "*.tar"], teachers={"small": teachers["small"]}))
    with pytest.raises(ConfigError, match="goes with the job") as caught:
        run(pipeline, execute=execute_here)
    assert '--config "$PWD/pipelines.yaml"' in caught.value.hint
