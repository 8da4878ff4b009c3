"""Fetching teachers' files from a hub on loopback: what comes, what is recorded, what is asked for again."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import pytest

from extract.fetching.pins import LOCK_NAME
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.weights import CONVERTED_NAME, RECORD_NAME
from extract.teachers.loading import load_teacher
from tests.extract import teacher_cases as cases
from tests.extract.hub import Fault
from tests.extract.teacher_inputs import pixels_of

pytestmark = pytest.mark.end_to_end


def test_fetched_files_make_the_authors_teacher_and_a_second_call_asks_for_nothing(extract, hub, pmcclip):
    case, entry, folder = pmcclip
    done = extract("fetch", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert (folder / CONVERTED_NAME).is_file()
    assert (folder / RECORD_NAME).is_file()
    assert not list(folder.rglob("*.part"))
    stated = {key: value for key, value in entry.items() if key != "download"} | {"folder": str(folder)}
    fetched = TeacherEntry.model_validate_json(json.dumps(stated))
    pixels_BHWC = pixels_of(64)
    ours, theirs = (
        load_teacher(teacher_spec("pmcclip", one), one).encode_image(pixels_BHWC) for one in (fetched, case.entry)
    )
    assert (ours == theirs).all()
    hub.asked.clear()
    again = extract("fetch", "pmcclip", HF_ENDPOINT=hub.url)
    assert "nothing to fetch" in again.stderr
    assert hub.asked == []


def test_a_listing_says_what_is_here_and_what_is_not(extract, hub, pmcclip):
    _, _, folder = pmcclip
    before = json.loads(extract("teachers", "--json").stdout)["pmcclip"]
    assert (before["present"], before["problem"]["kind"], before["spec_hash"]) == (False, "missing", None)
    assert [file["present"] for file in before["files"]] == [False] * 6
    assert before["source"] == "hf dataset axiong/pmc_oa, hf microsoft/bert"
    extract("fetch", HF_ENDPOINT=hub.url)
    after = json.loads(extract("teachers", "--json").stdout)["pmcclip"]
    assert (after["present"], after["problem"]) == (True, None)
    assert after["nbytes"] == (folder / CONVERTED_NAME).stat().st_size
    assert len(after["spec_hash"]) == 64
    text = extract("teachers").stdout
    assert "present" in text
    assert after["spec_hash"][:8] in text


def test_it_says_beforehand_what_comes_from_where_under_which_licence_and_what_room_it_needs(extract, hub, quiltnet):
    done = extract("fetch", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    source = quiltnet[2] / "open_clip_pytorch_model.bin"
    config = quiltnet[2] / "open_clip_config.json"
    fetched, converted = source.stat().st_size + config.stat().st_size, source.stat().st_size
    assert f"│ quiltnet │ 2 │ {fetched / 1e6:,.1f} │ {converted / 1e6:,.1f} │ MIT (read 2026-11-29) │" in said
    assert "hf wisdomik/QuiltNet-B-32" in said
    needed = f"{(fetched + converted) / 1e6:,.1f} MB"
    assert f": needs {needed}, of which {needed} stay; " in said


def test_medclips_archive_is_unpacked_and_a_download_that_was_cut_off_goes_on(
    tmp_path, extract, hub, write_teachers, entry_of
):
    source = tmp_path / "authors"
    source.mkdir()
    case = cases.medclip(source)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.write(source / "pytorch_model.bin", "medclip-vit/pytorch_model.bin")
    hub.files["/medclip-vit-pretrained.zip"] = archive.getvalue()
    hub.publish("emilyalsentzer/Bio_ClinicalBERT", source / "text", ("config.json", "vocab.txt"))
    download = [
        {
            "url": f"{hub.url}/medclip-vit-pretrained.zip",
            "files": ["pytorch_model.bin"],
            "sha256": {"medclip-vit-pretrained.zip": hashlib.sha256(archive.getvalue()).hexdigest()},
        },
        {"repo": "emilyalsentzer/Bio_ClinicalBERT", "files": ["config.json", "vocab.txt"], "into": "text"},
    ]
    folder = tmp_path / "weights" / "medclip"
    write_teachers({"medclip": entry_of(case, folder, download)})
    hub.faults["/medclip-vit-pretrained.zip"] = Fault(cut=1000, methods=("GET",))
    broken = extract("fetch", HF_ENDPOINT=hub.url)
    assert broken.returncode == 1
    assert f"cut off at 1000 of {len(archive.getvalue())} bytes" in broken.stderr
    assert [path.stat().st_size for path in folder.glob("*.part")] == [1000]
    del hub.faults["/medclip-vit-pretrained.zip"]
    hub.asked.clear()
    done = extract("fetch", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    asked = [headers.get("Range") for verb, path, headers in hub.asked if (verb, path[-4:]) == ("GET", ".zip")]
    assert asked == ["bytes=1000-"]
    entry = case.entry.model_copy(update={"folder": str(folder)})
    assert teacher_spec("medclip", entry).hash == teacher_spec("medclip", case.entry).hash
    assert not list(folder.glob("*.zip*"))


def test_the_authors_weights_are_dropped_once_converted_where_they_can_be_fetched_again(extract, hub, quiltnet):
    case, _, folder = quiltnet
    done = extract("fetch", "--no-keep-source", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir() if path.name != "digests.json") == [
        CONVERTED_NAME.replace("safetensors", "json"),
        CONVERTED_NAME,
        "open_clip_config.json",
    ]
    entry = case.entry.model_copy(update={"folder": str(folder)})
    assert teacher_spec("quiltnet", entry).hash == teacher_spec("quiltnet", case.entry).hash
    hub.asked.clear()
    again = extract("fetch", HF_ENDPOINT=hub.url)
    assert "nothing to fetch" in again.stderr
    assert hub.asked == []


def test_a_name_that_the_pipeline_lacks_is_refused(extract, pmcclip):
    done = extract("fetch", "plip")
    assert done.returncode == 1
    assert "error: no teacher plip in the pipeline; did you mean 'pmcclip'?; it has pmcclip" in done.stderr


def test_what_was_fetched_first_is_recorded_with_commit_digest_and_date(tmp_path, extract, hub, quiltnet):
    extract("fetch", HF_ENDPOINT=hub.url)
    recorded = json.loads((tmp_path / LOCK_NAME).read_text())["files"]
    assert [one["file"] for one in recorded] == ["open_clip_config.json", "open_clip_pytorch_model.bin"]
    commit = next(iter(hub.repos["wisdomik/QuiltNet-B-32"]))
    for one in recorded:
        content = (quiltnet[2] / one["file"]).read_bytes()
        assert one["origin"] == "hf wisdomik/QuiltNet-B-32"
        assert (one["revision"], one["nbytes"]) == (commit, len(content))
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert len(one["fetched"]) == len("2026-11-29")
