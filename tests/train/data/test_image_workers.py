"""Images decoded in processes: the same pixels as on threads, and what happens when one is damaged or a worker dies."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from store.corpus.image_source import ImageSource
from store.errors import CorpusError, MMKDError
from train.data.image_loader import CorpusImages, ImageLoader, View

pytestmark = pytest.mark.slow

VIEW = View(size_px=32, crop_scale=0.4, seed=5, max_pixels=10**6)
ROWS = np.array([4, 0, 5, 11, 2, 7])


@pytest.fixture
def images(tmp_path):
    """Twelve images, of which row 2 is damaged."""
    for row in range(12):
        data = io.BytesIO()
        pixels = np.random.default_rng(row).integers(256, size=(60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data, "PNG")
        (tmp_path / f"{row}.png").write_bytes(b"not an image" if row == 2 else data.getvalue())
    columns = {"uri": [f"{row}.png" for row in range(12)], "member": pa.nulls(12), "image_sha256": ["00"] * 12}
    table = pa.table(columns)
    return CorpusImages(ImageSource(tmp_path), table)


def loader(images, workers, **changes):
    return ImageLoader(images, view=VIEW, threads=2, workers=workers, batch_rows=8, **changes)


def load(loader, rows, *, epoch):
    """Return the pixels of the rows that can be read, and which these are."""
    with loader.begin(rows, epoch=epoch) as images:
        pixels, readable = images.result()
        return pixels.copy(), readable


@pytest.mark.end_to_end
def test_any_number_of_workers_gives_the_same_batches_and_they_report_damage_once(images, caplog):
    with loader(images, 0) as threads:
        expected = [load(threads, ROWS, epoch=epoch) for epoch in range(3)]
    assert expected[0][1].tolist() == [True, True, True, True, False, True]
    assert (expected[0][0][0] != expected[1][0][0]).any()
    for workers in (1, 3):
        caplog.clear()
        with loader(images, workers) as processes:
            for epoch in range(3):
                pixels, readable = load(processes, ROWS, epoch=epoch)
                np.testing.assert_array_equal(pixels, expected[epoch][0])
                np.testing.assert_array_equal(readable, expected[epoch][1])
            short, _ = load(processes, ROWS[:3], epoch=1)
            np.testing.assert_array_equal(short, expected[1][0][:3])
        assert [record.getMessage()[:20] for record in caplog.records] == ["row 2 is left out: n"]


@pytest.mark.end_to_end
def test_a_corpus_that_moved_is_the_same_error_as_on_threads(images, tmp_path):
    with loader(images, 2) as processes:
        (tmp_path / "5.png").unlink()
        with pytest.raises(CorpusError, match="not where the store says") as caught:
            load(processes, ROWS, epoch=0)
        assert "--corpus-root" in caught.value.hint
        # The workers go on: what failed is the batch.
        assert load(processes, ROWS[:2], epoch=0)[1].all()


@pytest.mark.end_to_end
def test_a_worker_that_is_killed_ends_the_run_with_an_error_and_no_process_stays(images):
    with loader(images, 2) as processes:
        load(processes, ROWS, epoch=0)
        children = processes._workers._processes
        os.kill(children[1].pid, signal.SIGKILL)
        children[1].join()
        with pytest.raises(MMKDError, match="a process that decodes images is gone") as caught:
            load(processes, ROWS, epoch=0)
        assert "image_workers" in caught.value.hint
    assert not any(child.is_alive() for child in children)


@pytest.mark.end_to_end
def test_signals_that_go_to_a_whole_group_leave_the_workers_to_the_trainer(images):
    with loader(images, 2) as processes:
        children = processes._workers._processes
        for epoch in range(2):  # before the processes have begun, and while they work
            for child in children:
                os.kill(child.pid, signal.SIGTERM)
                os.kill(child.pid, signal.SIGINT)
            assert load(processes, ROWS, epoch=epoch)[1].sum() == 5
    assert [child.exitcode for child in children] == [0, 0]


@pytest.mark.end_to_end
def test_a_program_that_ends_without_closing_its_workers_does_not_hang(tmp_path):
    program = (
        "import pyarrow, train.data.image_loader as images\n"
        "from store.corpus.image_source import ImageSource\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    table = pyarrow.table({'uri': ['a'], 'member': pyarrow.nulls(1), 'image_sha256': ['00']})\n"
        "    view = images.View(size_px=8, crop_scale=1, seed=0, max_pixels=9)\n"
        "    source = images.CorpusImages(ImageSource(Path('.')), table)\n"
        "    loader = images.ImageLoader(source, view=view, batch_rows=1, threads=1, workers=1)\n"
        "    loader._workers.fill(0, [], epoch=0)\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run([sys.executable, tmp_path / "program.py"], env=environment, timeout=120, check=False)
    assert ended.returncode == 0
