"""The room that a fetch needs, said beforehand, and a disk that is too small."""

from __future__ import annotations

import json
from collections import namedtuple

import pytest

from extract.fetching import disk
from extract.fetching.disk import needs, require_room
from extract.fetching.fetch import Fetch
from extract.fetching.pins import LOCK_NAME, Pins
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.weights import CONVERTED_NAME
from store.errors import TeacherError
from tests.extract.hub import Fault

REPO = "wisdomik/QuiltNet-B-32"
WEIGHTS = "open_clip_pytorch_model.bin"
Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def plan(tmp_path, fetching, hub, quiltnet):
    """Return a function that plans the fetch of QuiltNet, with other downloads if they are given."""

    def make(**changes):
        entry = TeacherEntry.model_validate_json(json.dumps(quiltnet[1] | changes), context={"folder": tmp_path})
        pins = Pins(tmp_path / LOCK_NAME)
        return Fetch(name="quiltnet", entry=entry, pins=pins, command="python -m extract fetch quiltnet").plan()

    return make


def sizes(hub):
    files = next(iter(hub.repos[REPO].values()))
    return len(files["open_clip_config.json"]), len(files[WEIGHTS])


def test_the_forecast_is_what_a_fetch_takes(plan, fetching, hub, quiltnet):
    config, weights = sizes(hub)
    (need,) = needs([plan()], keep_source=True)
    assert (need.peak, need.stays, need.is_least) == (config + 2 * weights, config + 2 * weights, False)
    (less,) = needs([plan()], keep_source=False)
    assert (less.peak, less.stays) == (config + 2 * weights, config + weights)
    fetching("quiltnet", quiltnet[1])
    taken = sum(path.stat().st_size for path in quiltnet[2].iterdir() if path.suffix in (".bin", ".safetensors"))
    assert taken == pytest.approx(2 * weights, rel=0.05)
    assert needs([plan()], keep_source=True)[0].peak == 0


def test_what_an_earlier_attempt_got_is_not_needed_again(plan, fetching, hub, quiltnet):
    weights = sizes(hub)[1]
    hub.faults[f"cdn {WEIGHTS}"] = Fault(cut=70_000)
    with pytest.raises(TeacherError, match="broke off"):
        fetching("quiltnet", quiltnet[1])
    assert needs([plan()], keep_source=True)[0].peak == 2 * weights - 70_000


def test_an_archive_and_its_members_need_room_at_once_and_unknown_sizes_are_said(plan, hub, zipped_weights):
    url = zipped_weights(b"\0")
    nbytes = len(hub.files["/files/quiltnet.zip"])
    download = [{"url": url, "files": [WEIGHTS, "open_clip_config.json"]}]
    (need,) = needs([plan(download=download)], keep_source=True)
    assert (need.peak, need.stays) == (2 * nbytes, 2 * nbytes)
    hub.faults[".zip"] = Fault(status=405, methods=("HEAD",))
    assert needs([plan(download=download)], keep_source=True)[0].is_least


def test_teachers_one_after_the_other_need_less_if_the_source_goes(plan, hub):
    config, weights = sizes(hub)
    one = plan()
    (kept,), (dropped,) = needs([one, one], keep_source=True), needs([one, one], keep_source=False)
    assert kept.peak == 2 * (config + 2 * weights)
    assert dropped.peak == 2 * config + 3 * weights


def test_a_disk_that_is_too_small_is_refused_with_what_would_be_enough(plan, hub, quiltnet, monkeypatch):
    one, (config, weights) = plan(), sizes(hub)
    free = 2 * config + 3 * weights
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(10 * free, 0, free))
    hub.asked.clear()
    with pytest.raises(TeacherError) as caught:
        require_room([one, one], keep_source=True)
    assert f"{free / 1e6:,.1f} MB are free on this disk, {2 * (config + 2 * weights) / 1e6:,.1f} MB are needed" in str(
        caught.value
    )
    assert f"--no-keep-source needs {free / 1e6:,.1f} MB" in caught.value.hint
    require_room([one, one], keep_source=False)
    assert hub.asked == []
    assert not quiltnet[2].exists()


def test_a_file_without_an_origin_is_not_dropped(fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    fetching("quiltnet", entry)
    by_hand = {key: value for key, value in entry.items() if key != "download"}
    fetching("quiltnet", by_hand, keep_source=False)
    assert (folder / WEIGHTS).is_file()
    fetching("quiltnet", entry, keep_source=False)
    assert not (folder / WEIGHTS).exists()
    assert (folder / CONVERTED_NAME).is_file()
