"""Images and captions as people have them, from the corpus to features: deep pixels, narrow images, empty captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from extract.cli.program import app
from store.errors import ConfigError, SpecMismatchError
from store.format.records import Status
from store.read.reader import FeatureStore
from tests.store.images.dicom_files import dicom, written

UP = np.tile(np.linspace(0, 1, 64), (48, 1))

RAMPS = {
    "eight": (255 * UP).round().astype(np.uint8),
    "ten": (1023 * UP).round().astype(np.uint16),
    "twelve": (4095 * UP).round().astype(np.uint16),
    "int32": (255 * UP).round().astype(np.int32),
    "unit": UP.astype(np.float32),
    "float": (65535 * UP).astype(np.float32),
    "hounsfield": (2000 * UP - 1000).round().astype(np.int32),
}


def pairs_of(encoded):
    """Return one ramp as people store it, in every way, and as DICOM."""
    files = {
        name: encoded(Image.fromarray(values), "png" if values.dtype in (np.uint8, np.uint16) else "tiff")
        for name, values in RAMPS.items()
    }
    files["dicom"] = written(dicom((4095 * UP).round().astype(np.uint16), BitsStored=12))
    return [(name, data, f"ramp {name}") for name, data in files.items()]


def with_window(path, window):
    content = json.loads(path.read_text())
    content["tiny"]["image"] = {"window": window}
    path.write_text(json.dumps(content))
    return path


def test_one_ramp_has_one_feature_however_it_is_stored_and_what_was_done_is_counted(
    tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here
):
    folder = write_tar(tmp_path / "corpus", pairs_of(encoded))
    path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]})
    found, outcome = extract_here(path)
    store = FeatureStore(found)
    assert (store.status("small") == Status.OK).all()
    features = store.read(slice(None), teacher="small", side="image").astype(np.float32)
    assert (features @ features[0]).min() > 0.9999
    assert sum(outcome.changed_images.values()) == 7  # all but the one of 8 bits
    assert [count for done, count in outcome.changed_images.items() if done.startswith("pixels of 12 bits")] == [1]
    [receipt] = store.receipts("small").values()
    assert receipt.changed_images == dict(outcome.changed_images)
    [report] = (found / "runs").glob("*/report.json")
    assert json.loads(report.read_text())["changed_images"] == dict(outcome.changed_images)


def test_a_window_is_part_of_the_spec_and_of_the_features(
    tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here
):
    folder = write_tar(tmp_path / "corpus", pairs_of(encoded))
    path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]})
    store = FeatureStore(extract_here(path)[0])
    plain, hashed = store.read(slice(None), teacher="small", side="image"), store.spec("small").hash
    assert "window" not in store.spec("small").preprocessing
    assert store.spec("small").notes["pixel_policy"] == 1
    with_window(path, {"center": 500, "width": 1000})
    with pytest.raises(SpecMismatchError, match="window"):
        extract_here(path)
    store = FeatureStore(extract_here(path, replace=["small"])[0])
    assert store.spec("small").preprocessing["window"] == [0, 1000]
    assert store.spec("small").hash != hashed
    shown = store.read(slice(None), teacher="small", side="image")
    assert np.array_equal(shown[0], plain[0])  # 8 bits are never changed
    assert not np.array_equal(shown[2], plain[2])


@pytest.mark.parametrize(
    "window",
    ["max", [5, 5], [5], {"center": 40}, {"center": 40, "width": 0}, [1, 2, 3], [0, float("inf")], [float("nan"), 1]],
)
def test_a_window_that_is_none_is_refused(tmp_path, write_pipeline, prepare, window):
    path = with_window(write_pipeline(tmp_path, files=["none/*.tar"], teachers={}), window)
    with pytest.raises(ConfigError, match=r"image\.window"):
        prepare(path)


def test_narrow_images_and_captions_without_a_word_cost_their_own_row_only(
    tmp_path, teachers, write_pipeline, write_tar, encoded, extract_here
):
    good = encoded(Image.new("RGB", (40, 30), (90, 10, 10)))
    pairs = [("good", good, "chest x-ray")]
    sizes = [(300_000, 1), (1, 2_000_000), (1_000_000, 2)]
    pairs += [(f"narrow{number}", encoded(Image.new("L", size)), "ct") for number, size in enumerate(sizes)]
    texts = ["\u200b\u200b", "...", "\ufeff", "nan", "\ufeffchest x-ray", "a" * 6_000]
    pairs += [(f"text{number}", good, text) for number, text in enumerate(texts)]
    folder = write_tar(tmp_path / "corpus", pairs)
    path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]})
    store = FeatureStore(extract_here(path)[0])
    bad_image, bad_text, ok = Status.BAD_IMAGE, Status.BAD_TEXT, Status.OK
    assert store.status("small").tolist() == [ok, *[bad_image] * 3, *[bad_text] * 4, ok, ok]
    [receipt] = store.receipts("small").values()
    reasons = [bad.reason for bad in receipt.bad_rows]
    assert all("too long and narrow" in reason for reason in reasons[:3])
    text = store.read(slice(None), teacher="small", side="text")
    assert np.array_equal(text[0], text[8])


def test_a_run_says_at_its_end_how_many_rows_were_changed_and_how(
    tmp_path, teachers, write_pipeline, write_tar, encoded, prepare, caplog
):
    folder = write_tar(tmp_path / "corpus", pairs_of(encoded))
    path = write_pipeline(tmp_path, files=[folder / "*.tar"], teachers={"small": teachers["small"]})
    prepare(path)
    done = CliRunner().invoke(app, ["run", "--config", str(path), "--pipeline", "tiny", "--local"])
    assert done.exit_code == 0, done.output
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    told = told or done.output.splitlines()
    assert len([line for line in told if "1 rows have images of more than 8 bits: " in line]) == 7
