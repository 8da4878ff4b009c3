"""docs/teachers.md, "The first user's path": its script, over nine tiny teachers, past every failure of a hub.

Each failure is cured by what its message says, with the command that it names.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from extract.fetching.pins import LOCK_NAME
from extract.teacher_files.geometry import Preprocessing, fit
from extract.teacher_files.specs import teacher_spec
from tests.extract import teacher_cases as cases
from tests.extract.hub import LOGIN, NOBODY, Fault, serving
from tests.extract.teacher_inputs import normalized, pixels_of

# They do bad things to a hub, and take a minute or two.
pytestmark = [pytest.mark.end_to_end, pytest.mark.fault]

DOCUMENT = Path(__file__).parents[3] / "docs" / "teachers.md"
CAPTIONS = ("a left lung nodule", "axial CT of the liver", "chest showing effusion")
NAMES = {"bmca": "BMCA", "biomedclip": "BiomedCLIP", "unimedclip": "UniMedCLIP", "quiltnet": "QuiltNet"}
NAMES |= {"genmedclip": "GenMedClip", "plip": "PLIP", "pubmedclip": "PUBMEDCLIP", "pmcclip": "PMCCLIP"}
REPOS = {"medclip": "emilyalsentzer/Bio_ClinicalBERT", "pmcclip": "datasets/axiong/pmc_oa"}


def script():
    """Return the commands of the document's path, without the program's name."""
    text = DOCUMENT.read_text()
    block = re.search(r"^## The first user's path\n.*?```\n(.*?)```", text, re.MULTILINE | re.DOTALL)[1]
    lines = (line.partition("#")[0].split() for line in block.splitlines())
    return {words[3]: words[3:] for words in lines if words}


def commands_in(stderr):
    """Return each error's fetch command, by teacher."""
    blocks = re.split(r"^error: ", stderr, flags=re.MULTILINE)[1:]
    found = {}
    for block in blocks:
        name = re.match(r"teacher (\w+): ", block)[1]
        assert block.count("hint: ") == 1
        command = re.search(rf"python -m (extract fetch (?:--pipeline PIPELINE )?{name})\b", block)[1]
        found[name] = command.replace("PIPELINE", "mmkd")
    return found


@pytest.fixture
def published(tmp_path, hub, corpus, write_teachers):
    """The nine on the hub, and pipelines.yaml beside: (their cases, their entries)."""
    written, entries = {}, {}
    for name in cases.CASES:
        source = tmp_path / "authors" / name
        options = {"text_feature": "cls"} if name == "pmcclip" else {}
        written[name] = case = cases.written(name, source, **options)
        repo, download = REPOS.get(name, f"authors/{name}"), []
        files = [path.name for path in source.iterdir() if path.is_file()]
        if name == "medclip":
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as members:
                members.write(source / "pytorch_model.bin", "medclip/pytorch_model.bin")
            hub.files["/medclip.zip"] = content.getvalue()
            digest = hashlib.sha256(content.getvalue()).hexdigest()
            url = f"{hub.url}/medclip.zip"
            download.append({"url": url, "files": ["pytorch_model.bin"], "sha256": {"medclip.zip": digest}})
        else:
            hub.publish(repo, source, files)
            kind = {"kind": "dataset"} if repo.startswith("datasets/") else {}
            download.append({"repo": repo.removeprefix("datasets/"), "files": files, **kind})
        if (source / "text").is_dir():
            text = [path.name for path in (source / "text").iterdir()]
            hub.publish(f"berts/{name}", source / "text", text)
            download.append({"repo": f"berts/{name}", "files": text, "into": "text"})
        stated = case.entry.model_dump(mode="json", exclude_defaults=True, exclude={"transformers", "family"})
        if name in ("plip", "pubmedclip"):
            stated |= {"transformers": repo}
        elif case.entry.family not in ("open_clip",):
            stated |= {"family": case.entry.family}
        entries[name] = stated | {"folder": f"weights/{name}", "download": download}
    entries["pmcclip"] |= {"text_feature": "pooler", "variants": {"cls": {"text_feature": "cls"}}}
    write_teachers(entries, files=[str(corpus / "*.tar")])
    return written, entries


def release(folder, written):
    """Write features of the authors' own forward passes as MMKD-CLIP's authors released theirs."""
    lines = []
    for number, caption in enumerate(CAPTIONS):
        place, features = folder / "features" / f"pair{number}", {}
        place.mkdir(parents=True)
        image = Image.fromarray(pixels_of(240, count=1, seed=number)[0])
        image.save(place / "image.png")
        for name, theirs in NAMES.items():
            case = written[name]
            geometry = Preprocessing.model_validate(teacher_spec(name, case.entry).preprocessing).geometry
            pixels_BHWC = fit(image, geometry)[None].copy()
            with torch.no_grad():
                sides = {"img": case.image(normalized(pixels_BHWC, case.normal)), "txt": case.text([caption])}
            for side, feature in sides.items():
                features[f"{theirs}_{side}"] = torch.nn.functional.normalize(feature.float())
        torch.save(features, place / "clips_output.pt")
        image_path = f"features/pair{number}/image.png"
        line = {"id": f"pair{number}", "imgpath": image_path, "txt": caption, "available_clips": [*NAMES.values()]}
        lines.append(json.dumps(line))
    (folder / "meta.jsonl").write_text("\n".join(lines))


def test_without_a_way_to_the_hub_each_teacher_is_named_with_its_page_and_command(extract, hub, published):
    with serving() as proxy:
        proxy.faults[""] = Fault(status=407)
        proxied = {"http_proxy": proxy.url, "NO_PROXY": "", "no_proxy": ""}
        for says, environment in (
            ("HF_HUB_OFFLINE is set", {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.url}),
            ("does not answer (Connection refused", {"HF_ENDPOINT": f"http://{NOBODY}"}),
            ("the proxy wants a login (status 407", {"HF_ENDPOINT": hub.url, **proxied}),
            ("cannot be trusted", {"HF_ENDPOINT": hub.url.replace("http:", "https:")}),
        ):
            done = extract("fetch", **environment)
            assert done.returncode == 1
            named = {} if says not in done.stderr else commands_in(done.stderr)
            assert {name: command.split() for name, command in named.items()} == {
                name: ["extract", "fetch", name] for name in cases.CASES
            }
            assert "  BMC_CLIP_CF.pt of hf authors/bmca\n    to " in done.stderr
            assert f"{environment['HF_ENDPOINT']}/authors/bmca" in done.stderr


def misbehave(hub, entries, write):
    """Let the hub fail in nine ways, one per teacher, and return what each message says."""
    commit = {name: next(iter(hub.repos[f"authors/{name}"])) for name in ("genmedclip", "plip")}
    hub.gated.add("authors/bmca")
    hub.private.add("authors/pubmedclip")
    hub.faults["biomedclip/resolve/main/open_clip_pytorch_model.bin"] = Fault(
        status=429, headers={"Retry-After": "3600"}
    )
    hub.faults["unimed-clip-vit-b16.pt"] = Fault(status=503)
    hub.faults["cdn open_clip_pytorch_model.bin"] = Fault(cut=70_000)
    kept = hub.repos["authors/genmedclip"][commit["genmedclip"]].pop("open_clip_config.json")
    entries["plip"]["download"][0]["revision"] = "v2"
    page = {"headers": {"Content-Type": "text/html"}, "body": b"<!DOCTYPE html><html>Guest network</html>"}
    hub.faults["text_encoder.pth"] = Fault(status=200, methods=("GET",), **page)
    zipped = hub.files["/medclip.zip"]
    hub.files["/medclip.zip"] = b"PK\x03\x04 another file"
    write(entries)

    def cure():
        hub.gated.clear()
        hub.faults.clear()
        hub.commit("authors/genmedclip", {"open_clip_config.json": kept})
        hub.files["/medclip.zip"] = zipped
        del entries["plip"]["download"][0]["revision"]
        write(entries)

    said = {
        "bmca": "its authors want their terms to be accepted first",
        "biomedclip": "gets too many requests and asks to wait 3600 s",
        "unimedclip": "is out of order (status 503",
        "quiltnet": "the download broke off (cut off at 70000 of",
        "genmedclip": "there is no file open_clip_config.json",
        "plip": "the repository has no revision v2",
        "pubmedclip": "there is no such repository, or it is private",
        "pmcclip": "a proxy or the login page of a network",
        "medclip": "another kind of content came, which was not kept (not a zip file)",
    }
    return said, cure


def test_the_path_from_fetch_to_drift_past_every_failure(tmp_path, extract, hub, corpus, published, write_teachers):
    written, entries = published
    path = script()

    def write(teachers):
        write_teachers(teachers, files=[str(corpus / "*.tar")])

    said, cure = misbehave(hub, entries, write)
    reach = {"HF_ENDPOINT": hub.url}
    first = extract(*path["fetch"], **reach)
    assert first.returncode == 1
    for name, text in said.items():
        assert re.search(rf"^error: teacher {name}: .*{re.escape(text)}", first.stderr, re.MULTILINE), (name, text)
    commands = commands_in(first.stderr)
    assert commands.keys() == said.keys()

    # The token of an account that has accepted the terms, and may read the private repository.
    reach |= {"HF_TOKEN": LOGIN}
    cure()
    for command in commands.values():
        done = extract(*shlex.split(command)[1:], **reach)
        assert done.returncode == 0, done.stderr
    assert "nothing to fetch" in extract(*path["fetch"], **reach).stderr
    recorded = json.loads((tmp_path / LOCK_NAME).read_text())["files"]
    assert {(one["origin"], one["file"]) for one in recorded} == {
        (item.get("url") or f"hf {'dataset ' if 'kind' in item else ''}{item['repo']}", name)
        for entry in entries.values()
        for item in entry["download"]
        for name in item["files"]
    }

    release(tmp_path / "MMKDCLIP_DATA", written)
    judged = extract(*path["golden"])
    assert judged.returncode == 1, judged.stderr
    line = re.search(r"^pipelines\.yaml, teachers\.pmcclip: \{(\w+): (\w+)\}$", judged.stdout, re.MULTILINE)
    entries["pmcclip"] |= {line[1]: line[2]}
    write(entries)
    judged = extract(*path["golden"])
    assert judged.returncode == 0, judged.stdout + judged.stderr

    indexed = extract(*path["index"])
    assert indexed.returncode == 0, indexed.stderr

    weights = tmp_path / "weights" / "quiltnet" / "open_clip_pytorch_model.bin"
    state = torch.load(weights)
    torch.save(state | {"text_projection": torch.zeros_like(state["text_projection"])}, weights)
    stale = extract(*path["run"], "--local")
    assert stale.returncode == 1
    assert "open_clip_pytorch_model.bin was replaced after it was converted" in stale.stderr
    pinned = extract(*shlex.split(commands_in(stale.stderr)["quiltnet"])[1:], **reach)
    assert pinned.returncode == 1
    assert f"{LOCK_NAME} says" in pinned.stderr
    assert f"move {weights} away for the other one" in pinned.stderr
    weights.rename(weights.with_name("former"))
    again = extract(*shlex.split(commands_in(pinned.stderr)["quiltnet"])[1:], **reach)
    assert again.returncode == 0, again.stderr

    ran = extract(*path["run"], "--local")
    assert ran.returncode == 0, ran.stderr
    drifted = extract(*path["drift"])
    assert drifted.returncode == 0, drifted.stdout + drifted.stderr
    assert drifted.stdout.count("quiltnet") > 0
