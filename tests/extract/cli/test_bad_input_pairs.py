"""Images and captions that are odd: what becomes of each row, and what is said."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from extract.cli.program import app
from store.corpus.account import Example
from store.format.records import Status
from store.index.curation_report import read_report
from store.read.reader import FeatureStore

CONTROL = "control characters of a caption are left out"


def command(*arguments):
    return get_command(app)(list(map(str, arguments)), prog_name="extract", standalone_mode=False)


def index(path):
    command("index", "--pipeline", "tiny", "--config", path, "--workers", 1)


def report_of(store):
    return read_report(store.location, store.info)


def write_members(folder, members):
    """Write (name, bytes) members as one tar in a folder."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "pairs-000000.tar", "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return folder


@pytest.fixture
def pictures(encoded):
    """Eight different pictures as PNG bytes."""
    rng = np.random.default_rng(0)
    return [encoded(pixels) for pixels in rng.integers(0, 255, (8, 64, 64, 3), np.uint8)]


@pytest.fixture
def extracted(tmp_path, teachers, write_pipeline, extract_here):
    """Return a function that indexes and extracts a folder of tars with one teacher: the open store."""

    def extract(folder):
        path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]})
        index(path)
        store, _ = extract_here(path)
        return FeatureStore(store)

    return extract


def features(store, side):
    return store.read(slice(None), teacher="small", side=side).astype(np.float32)


def test_of_an_animated_gif_the_first_frame_is_taken(tmp_path, write_tar, encoded, extracted):
    frames = [Image.fromarray(np.full((64, 64, 3), level, np.uint8)).convert("P") for level in (10, 120, 240)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert Image.open(io.BytesIO(buffer.getvalue())).n_frames == 3
    first = encoded(frames[0].convert("RGB"))
    folder = write_tar(tmp_path / "corpus", [("a", buffer.getvalue(), "moving"), ("b", first, "still")])
    store = extracted(folder)
    assert store.status("small").tolist() == [Status.OK, Status.OK]
    image_ND = features(store, "image")
    assert np.array_equal(image_ND[0], image_ND[1])


def test_a_caption_of_20000_characters_is_cut_and_counted_and_no_bad_row(tmp_path, write_tar, pictures, extracted):
    long = "axial ct of the chest " * 910
    assert len(long) > 20_000
    pairs = [("a", pictures[0], long), ("b", pictures[1], "axial ct"), ("c", pictures[2], long[:19_000])]
    store = extracted(write_tar(tmp_path / "corpus", pairs))
    assert store.status("small").tolist() == [Status.OK] * 3
    assert store.pairs.read(0, 1, ["caption"])["caption"][0].as_py() == long.strip()
    [receipt] = store.receipts("small").values()
    assert (receipt.truncated_captions, receipt.bad_rows) == (2, [])
    text_ND = features(store, "text")
    # What a teacher reads of both long captions is the same; it is not what it reads of the short one.
    assert np.allclose(text_ND[0], text_ND[2], atol=1e-3)
    assert not np.allclose(text_ND[0], text_ND[1], atol=1e-3)


def test_a_caption_that_is_not_utf_8_is_kept_with_marks_and_told(tmp_path, pictures, extracted):
    latin = "Röntgenbild".encode("latin-1")
    folder = write_members(
        tmp_path / "corpus",
        [("a.png", pictures[0]), ("a.txt", latin), ("b.png", pictures[1]), ("b.txt", b"chest x-ray")],
    )
    store = extracted(folder)
    assert store.pairs.read(0, 2, ["caption"])["caption"].to_pylist() == ["R\ufffdntgenbild", "chest x-ray"]
    assert store.status("small").tolist() == [Status.OK, Status.OK]
    assert report_of(store).changed == {
        "not UTF-8, kept as \ufffd": Example(count=1, first="pairs-000000.tar: a: a.txt: from byte 1 on")
    }


def test_nul_characters_of_a_caption_are_left_out_and_told(tmp_path, write_tar, pictures, extracted):
    pairs = [("a", pictures[0], "chest\0 x-ray\0"), ("b", pictures[1], "chest x-ray"), ("c", pictures[2], "\0\0")]
    store = extracted(write_tar(tmp_path / "corpus", pairs))
    assert store.pairs.read(0, 2, ["caption"])["caption"].to_pylist() == ["chest x-ray", "chest x-ray"]
    assert store.status("small").tolist() == [Status.OK, Status.OK, Status.BAD_TEXT]
    text_ND = features(store, "text")
    assert np.array_equal(text_ND[0], text_ND[1])
    assert report_of(store).changed[CONTROL] == Example(count=2, first="pairs-000000.tar: a")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_table_that_is_not_utf_8_is_refused_by_line(tmp_path, write_pipeline, teachers, pictures, suffix):
    (tmp_path / "a.png").write_bytes(pictures[0])
    lines = {"jsonl": [b'{"image": "a.png", "caption": "fine"}', b'{"image": "a.png", "caption": "R\xf6ntgen"}']}
    lines["csv"] = [b"image,caption", b"a.png,R\xf6ntgen"]
    (tmp_path / f"pairs.{suffix}").write_bytes(b"\n".join(lines[suffix]) + b"\n")
    path = write_pipeline(tmp_path, files=[tmp_path / f"pairs.{suffix}"], teachers=teachers)
    from store.errors import CorpusError

    with pytest.raises(CorpusError, match=rf"pairs\.{suffix}:2: byte 0xf6 is not UTF-8"):
        index(path)
    assert not (tmp_path / "store" / "store.json").exists()


def test_nul_characters_in_json_lines_are_left_out_too(tmp_path, write_pipeline, teachers, pictures):
    (tmp_path / "a.png").write_bytes(pictures[0])
    record = json.dumps({"image": "a.png", "caption": "chest\0 x-ray"})
    (tmp_path / "pairs.jsonl").write_text(record + "\n")
    index(write_pipeline(tmp_path, files=[tmp_path / "pairs.jsonl"], teachers=teachers))
    store = FeatureStore(tmp_path / "store")
    assert store.pairs.read(0, 1, ["caption"])["caption"].to_pylist() == ["chest x-ray"]
    assert report_of(store).changed[CONTROL].count == 1


def test_captions_that_are_all_the_same_are_told_and_encoded(tmp_path, write_tar, pictures, extracted, caplog):
    pairs = [(f"k{n}", image, "figure") for n, image in enumerate(pictures)]
    store = extracted(write_tar(tmp_path / "corpus", pairs))
    assert "all 8 captions are the same, 'figure'; is that the caption's field?" in caplog.text
    assert store.status("small").tolist() == [Status.OK] * 8
    text_ND, image_ND = features(store, "text"), features(store, "image")
    assert len(np.unique(text_ND, axis=0)) == 1
    assert len(np.unique(image_ND, axis=0)) == 8


def test_captions_that_differ_in_one_row_are_not_told(tmp_path, write_tar, pictures, write_pipeline, teachers, caplog):
    pairs = [(f"k{n:02d}", pictures[n % 8], "figure" if n < 39 else "another") for n in range(40)]
    folder = write_tar(tmp_path / "corpus", pairs)
    index(write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers))
    assert "captions are the same" not in caplog.text
