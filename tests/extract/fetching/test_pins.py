"""Pins: a file that was fetched once, or whose digest the pipeline states, is never another one later."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time

import pytest
import torch
from huggingface_hub import constants

from extract.fetching.pins import LOCK_NAME, Pins
from extract.teacher_files.entry import Download, TeacherEntry
from extract.teacher_files.weights import CONVERTED_NAME, RECORD_NAME
from store.errors import TeacherError
from tests.extract.hub import Fault

REPO = "wisdomik/QuiltNet-B-32"
WEIGHTS = "open_clip_pytorch_model.bin"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def other_weights(hub):
    """Commit other weights of the same model, and return (commit, their bytes)."""
    state = torch.load(io.BytesIO(next(iter(hub.repos[REPO].values()))[WEIGHTS]))
    content = io.BytesIO()
    torch.save(state | {"text_projection": torch.zeros(32, 24)}, content)
    return hub.commit(REPO, {WEIGHTS: content.getvalue()}), content.getvalue()


def clear(folder):
    for path in folder.iterdir():
        path.unlink()


def test_a_revision_that_is_not_stated_is_that_of_the_first_fetch_ever_after(fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    fetching("quiltnet", entry)
    first = (folder / WEIGHTS).read_bytes()
    other_weights(hub)
    clear(folder)
    assert fetching("quiltnet", entry) == 2
    assert (folder / WEIGHTS).read_bytes() == first


def test_a_branch_that_is_stated_is_resolved_once(fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    stated = entry | {"download": [entry["download"][0] | {"revision": "main"}]}
    fetching("quiltnet", stated)
    first = (folder / WEIGHTS).read_bytes()
    other_weights(hub)
    clear(folder)
    fetching("quiltnet", stated)
    assert (folder / WEIGHTS).read_bytes() == first


def test_other_bytes_at_the_same_commit_are_refused_with_both_digests(tmp_path, fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    fetching("quiltnet", entry)
    before = sha256((folder / WEIGHTS).read_bytes())
    clear(folder)
    _, data = other_weights(hub)
    commits = hub.repos[REPO]
    commits[next(iter(commits))][WEIGHTS] = data
    with pytest.raises(TeacherError, match=f"{WEIGHTS} of hf {REPO} is another file than expected") as caught:
        fetching("quiltnet", entry)
    assert f"its sha256 is {sha256(data)}, {LOCK_NAME} says {before} since 20" in str(caught.value)
    assert f"{hub.url}/{REPO}" in caught.value.hint
    assert f"state sha256: {{{WEIGHTS}: {sha256(data)}}} in teachers.quiltnet.download" in caught.value.hint
    assert "python -m extract fetch quiltnet" in caught.value.hint
    assert not (folder / WEIGHTS).exists()
    stated = entry | {"download": [entry["download"][0] | {"sha256": {WEIGHTS: sha256(data)}}]}
    assert fetching("quiltnet", stated) == 1
    assert Pins(tmp_path / LOCK_NAME).of(Download(**_frozen(stated)), WEIGHTS).sha256 == sha256(data)


def _frozen(entry):
    item = entry["download"][0]
    return {**item, "files": tuple(item["files"])}


def test_a_digest_that_the_pipeline_states_is_compared_at_the_first_fetch(fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    stated = entry | {"download": [entry["download"][0] | {"sha256": {WEIGHTS: "0" * 64}}]}
    with pytest.raises(TeacherError, match=f"the pipeline states {'0' * 64}"):
        fetching("quiltnet", stated)
    assert not (folder / WEIGHTS).exists()


def test_a_file_of_a_former_revision_is_not_left_in_place(fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    fetching("quiltnet", entry)
    commit, data = other_weights(hub)
    newer = entry | {"download": [entry["download"][0] | {"revision": commit}]}
    says = f"{WEIGHTS} is another file than expected: its sha256 is .*, hf {REPO} @ {commit} has {sha256(data)}"
    with pytest.raises(TeacherError, match=says) as caught:
        fetching("quiltnet", newer)
    assert f"move {folder / WEIGHTS} and {folder / CONVERTED_NAME} away for the other one" in caught.value.hint
    for name in (WEIGHTS, CONVERTED_NAME):
        (folder / name).rename(folder / f"former_{name}")
    assert fetching("quiltnet", newer) == 1
    assert (folder / WEIGHTS).read_bytes() == data
    assert json.loads((folder / RECORD_NAME).read_text())["files"][WEIGHTS]["sha256"] == sha256(data)


def test_what_was_converted_from_a_former_revision_is_not_left_in_place(fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    fetching("quiltnet", entry, keep_source=False)
    commit, _ = other_weights(hub)
    newer = entry | {"download": [entry["download"][0] | {"revision": commit}]}
    with pytest.raises(TeacherError, match=f"{CONVERTED_NAME} is another file than expected"):
        fetching("quiltnet", newer)
    (folder / CONVERTED_NAME).rename(folder / "former")
    assert fetching("quiltnet", newer) == 1


def test_a_url_that_serves_another_file_is_refused(tmp_path, fetching, hub, quiltnet, zipped_weights):
    entry = quiltnet[1] | {"download": [{"url": zipped_weights(b"\x00"), "files": [WEIGHTS, "open_clip_config.json"]}]}
    fetching("quiltnet", entry)
    clear(quiltnet[2])
    zipped_weights(b"\x01")
    with pytest.raises(TeacherError, match=rf"is another file than expected: .* {LOCK_NAME} says"):
        fetching("quiltnet", entry)


def test_files_that_were_put_by_hand_are_compared_with_the_hub_and_recorded(tmp_path, fetching, hub, quiltnet):
    _, entry, folder = quiltnet
    folder.mkdir(parents=True)
    for name, data in next(iter(hub.repos[REPO].values())).items():
        (folder / name).write_bytes(data)
    assert fetching("quiltnet", entry) == 0
    assert [one["file"] for one in json.loads((tmp_path / LOCK_NAME).read_text())["files"]] == [
        "open_clip_config.json",
        WEIGHTS,
    ]
    (tmp_path / LOCK_NAME).unlink()
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(TeacherError, match=r"open_clip_config\.json is another file than expected"):
        fetching("quiltnet", entry)


def test_files_that_were_put_by_hand_are_taken_without_a_network(tmp_path, fetching, hub, quiltnet, monkeypatch):
    _, entry, folder = quiltnet
    folder.mkdir(parents=True)
    for name, data in next(iter(hub.repos[REPO].values())).items():
        (folder / name).write_bytes(data)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetching("quiltnet", entry) == 0
    assert (folder / CONVERTED_NAME).is_file()
    assert not (tmp_path / LOCK_NAME).exists()


def test_an_optional_file_that_the_commit_lacks_is_asked_for_once(fetching, hub, quiltnet):
    _, entry, _ = quiltnet
    stated = entry | {"download": [entry["download"][0] | {"optional": ["tokenizer.json"]}]}
    assert fetching("quiltnet", stated) == 2
    hub.asked.clear()
    hub.commit(REPO, {"tokenizer.json": b"{}"})
    assert fetching("quiltnet", stated) == 0
    assert hub.asked == []


def test_the_lock_is_sorted_and_what_others_record_meanwhile_stays(tmp_path):
    pins, names = Pins(tmp_path / LOCK_NAME), [f"{number:02}.bin" for number in range(24)]

    def record(name):
        item = Download(repo=f"them/{name}", files=(name,))
        Pins(tmp_path / LOCK_NAME).record(item, name, commit="0" * 40, nbytes=1, sha256="1" * 64)

    threads = [threading.Thread(target=record, args=(name,)) for name in reversed(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["file"] for one in json.loads(pins.path.read_text())["files"]] == names
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_two_first_fetches_of_one_repository_take_one_commit(tmp_path):
    pins, item = Pins(tmp_path / LOCK_NAME), Download(repo="them/clip", files=("a.bin", "b.bin"))
    pins.record(item, "a.bin", commit="0" * 40, nbytes=1, sha256="1" * 64)
    with pytest.raises(TeacherError, match=f"fetched at {'0' * 40} by another fetch meanwhile, here at {'2' * 40}"):
        pins.record(item, "b.bin", commit="2" * 40, nbytes=1, sha256="1" * 64)


def test_a_damaged_lock_is_named_and_stays(tmp_path, fetching, quiltnet):
    (tmp_path / LOCK_NAME).write_text('{"files": [{"origin"')
    with pytest.raises(TeacherError, match=f"{LOCK_NAME}: not a record of fetched files") as caught:
        fetching("quiltnet", quiltnet[1])
    assert "restore it from version control" in caught.value.hint
    assert (tmp_path / LOCK_NAME).read_text().startswith('{"files"')


def test_a_lock_that_a_merge_left_in_conflict_is_not_to_be_moved_away(tmp_path):
    pins, item = Pins(tmp_path / LOCK_NAME), Download(repo="them/clip", files=("a.bin",))
    pins.record(item, "a.bin", commit="0" * 40, nbytes=1, sha256="1" * 64)
    lines = pins.path.read_text().splitlines()
    pins.path.write_text("\n".join([*lines[:2], "<<<<<<< HEAD", *lines[2:5], "=======", ">>>>>>> theirs", *lines[5:]]))
    with pytest.raises(TeacherError, match=f"{LOCK_NAME}: has the conflict markers of a merge") as caught:
        pins.of(item, "a.bin")
    assert "keep the entries of both sides" in caught.value.hint


def test_a_fetch_that_was_killed_between_record_and_file_goes_on(fetching, hub, quiltnet, monkeypatch):
    _, entry, folder = quiltnet
    with monkeypatch.context() as dying:
        dying.setattr("extract.fetching.fetch._put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetching("quiltnet", entry)
    assert [path.suffix for path in folder.iterdir()] == [".part"]
    assert fetching("quiltnet", entry) == 2
    assert not list(folder.glob("*.part"))


def test_a_second_fetch_of_the_same_file_waits_and_fetches_nothing(fetching, hub, quiltnet):
    hub.faults[WEIGHTS] = Fault(status=429, headers={"Retry-After": "2"}, times=1, methods=("GET",))
    counts = []
    threads = [threading.Thread(target=lambda: counts.append(fetching("quiltnet", quiltnet[1]))) for _ in range(2)]
    threads[0].start()
    while not [path for path in hub.asked_for("GET") if path.endswith(WEIGHTS)]:
        time.sleep(0.01)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0, 2]
    assert len([path for verb, path, _ in hub.asked if path.startswith("/cdn/")]) == 1


@pytest.mark.parametrize(
    ("download", "says"),
    [
        (
            {"repo": "a/b", "files": ["x.bin"], "sha256": {"y.bin": "0" * 64}},
            r"no file 'y\.bin'; did you mean 'x\.bin'",
        ),
        ({"repo": "a/b", "files": ["x.bin"], "sha256": {"x.bin": "0" * 63}}, "expected 64 digits"),
        ({"url": "ftp://a/b.zip", "files": ["x.bin"]}, "expected an https:// address"),
        ({"url": "https://me:secret@host/b.zip", "files": ["x.bin"]}, "the URL holds a user name or a password"),
    ],
)
def test_an_item_that_makes_no_sense_is_refused(download, says):
    content = {"folder": "x", "embed_dim": 8, "download": [download]}
    with pytest.raises(ValueError, match=says):
        TeacherEntry.model_validate_json(json.dumps(content))
