"""A hub and a server of files that misbehave in each way: the message names teacher, page and next command."""

from __future__ import annotations

import email.utils
import hashlib
import io
import time
import urllib.request
import zipfile

import pytest
from huggingface_hub import constants

from extract.fetching import http
from store.errors import TeacherError, WeightsNotFoundError
from tests.extract.hub import LOGIN, NOBODY, Fault, serving

REPO = "wisdomik/QuiltNet-B-32"
WEIGHTS = "open_clip_pytorch_model.bin"
COMMAND = "python -m extract fetch quiltnet"


def refused(fetching, hub, entry, *says, page=None):
    """Fetch, expect an error that names teacher, page and command, and return it."""
    with pytest.raises(TeacherError) as caught:
        fetching("quiltnet", entry)
    message, hint = str(caught.value), caught.value.hint
    assert message.startswith("teacher quiltnet: ")
    assert (page or f"{hub.url}/{REPO}") in hint
    assert COMMAND in hint
    for text in says:
        assert text in f"{message}\n{hint}"
    return caught.value


def test_a_gated_repository_names_its_page_and_opens_with_the_terms_accepted(fetching, hub, quiltnet, monkeypatch):
    hub.gated.add(REPO)
    refused(fetching, hub, quiltnet[1], "terms to be accepted", "status 401", "set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", LOGIN)
    refused(fetching, hub, quiltnet[1], "terms to be accepted", "status 403, Access to model")
    hub.gated.clear()
    assert fetching("quiltnet", quiltnet[1]) == 2
    # The host of the contents, to which the hub redirects, does not see the login.
    logins = {path.startswith("/cdn/"): headers.get("Authorization") for _, path, headers in hub.asked}
    assert logins == {False: f"Bearer {LOGIN}", True: None}


def test_a_private_or_missing_repository_says_so(fetching, hub, quiltnet, monkeypatch):
    hub.private.add(REPO)
    refused(fetching, hub, quiltnet[1], "there is no such repository, or it is private", "status 401")
    monkeypatch.setenv("HF_TOKEN", LOGIN)
    assert fetching("quiltnet", quiltnet[1]) == 2
    gone = quiltnet[1] | {"folder": "elsewhere", "download": [{"repo": "wisdomik/gone", "files": [WEIGHTS]}]}
    refused(fetching, hub, gone, "status 404", "correct teachers.quiltnet.download", page=f"{hub.url}/wisdomik/gone")


def test_a_token_that_has_run_out_is_told_from_a_missing_one(fetching, hub, quiltnet, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    error = refused(fetching, hub, quiltnet[1], "the login is refused", "Invalid credentials", page="settings/tokens")
    assert "HF_TOKEN is wrong or has run out" in error.hint


@pytest.mark.parametrize("revision", ["v2", "0123456789" * 4])
def test_a_revision_that_is_gone_is_named(fetching, hub, quiltnet, revision):
    entry = quiltnet[1] | {"download": [quiltnet[1]["download"][0] | {"revision": revision}]}
    refused(fetching, hub, entry, f"the repository has no revision {revision}", f"{REPO}/commits")


def test_a_file_that_the_repository_lacks_is_named(fetching, hub, quiltnet):
    entry = quiltnet[1] | {"download": [{"repo": REPO, "files": ["open_clip_config.json", "model.bin"]}]}
    refused(fetching, hub, entry, f"model.bin of hf {REPO} cannot be fetched: there is no file model.bin")


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "0"},
        {"Retry-After": email.utils.formatdate(time.time() - 60, usegmt=True)},
        {"RateLimit": '"api";r=0;t=0'},
        {},
    ],
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_busy_hub_is_waited_for_as_it_asks(fetching, hub, quiltnet, headers, method):
    hub.faults[WEIGHTS] = Fault(status=429, headers=headers, times=2, methods=(method,))
    assert fetching("quiltnet", quiltnet[1]) == 2


def test_a_wait_is_as_long_as_the_hub_asks(fetching, hub, quiltnet):
    hub.faults[WEIGHTS] = Fault(status=429, headers={"Retry-After": "1"}, times=1, methods=("HEAD",))
    began = time.monotonic()
    fetching("quiltnet", quiltnet[1])
    assert time.monotonic() - began > 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "3600"},
        {"Retry-After": email.utils.formatdate(time.time() + 3601, usegmt=True)},
        {"RateLimit": '"resolvers";r=0;t=3600'},
    ],
)
def test_a_longer_wait_than_the_bound_is_left_to_the_user(fetching, hub, quiltnet, headers):
    hub.faults[WEIGHTS] = Fault(status=429, headers=headers)
    error = refused(fetching, hub, quiltnet[1], "too many requests and asks to wait 3", "waits 300 s at most")
    assert "again then; what has come stays, and with HF_TOKEN set the hub allows more requests" in error.hint


def test_a_hub_that_says_nothing_of_how_long_is_tried_three_times(fetching, hub, quiltnet):
    hub.faults[WEIGHTS] = Fault(status=429)
    refused(fetching, hub, quiltnet[1], "gets too many requests (status 429")
    assert len([path for path in hub.asked_for("HEAD") if path.endswith(WEIGHTS)]) == http.TRIES


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_that_fails_is_tried_again_and_then_named(fetching, hub, quiltnet, status):
    hub.faults[WEIGHTS] = Fault(status=status, times=http.TRIES)
    refused(fetching, hub, quiltnet[1], "is out of order", f"status {status}", "later; what has come stays")
    hub.faults[WEIGHTS] = Fault(status=status, times=http.TRIES - 1)
    assert fetching("quiltnet", quiltnet[1]) == 2


def test_a_download_that_breaks_off_goes_on_and_one_that_always_breaks_off_there_is_said(fetching, hub, quiltnet):
    nbytes = len(next(iter(hub.repos[REPO].values()))[WEIGHTS])
    hub.faults[f"cdn {WEIGHTS}"] = Fault(cut=70_000)
    refused(fetching, hub, quiltnet[1], f"the download broke off (cut off at 70000 of {nbytes} bytes)", "goes on from")
    hub.faults[f"cdn {WEIGHTS}"] = Fault(cut=500_000, times=1)
    hub.asked.clear()
    assert fetching("quiltnet", quiltnet[1]) == 1
    ranges = [headers.get("Range") for _, path, headers in hub.asked if path.startswith("/cdn/")]
    assert ranges == ["bytes=70000-", "bytes=500000-"]
    assert not list(quiltnet[2].glob("*.part"))


def test_a_download_is_not_continued_with_another_file(fetching, hub, quiltnet):
    hub.faults[f"cdn {WEIGHTS}"] = Fault(cut=70_000)
    with pytest.raises(TeacherError, match="broke off"):
        fetching("quiltnet", quiltnet[1])
    hub.faults.clear()
    # The first file of the repository was recorded, so that the commit stays; a user asks for the newest one.
    commit = hub.commit(REPO, {WEIGHTS: b"another" * 50_000})
    entry = quiltnet[1] | {"download": [{"repo": REPO, "revision": commit, "files": [WEIGHTS]}]}
    with pytest.raises(TeacherError, match="not a readable PyTorch checkpoint"):
        fetching("quiltnet", entry)
    assert (quiltnet[2] / WEIGHTS).read_bytes() == b"another" * 50_000
    assert not list(quiltnet[2].glob("*.part"))


def test_a_proxy_that_wants_a_login_is_told_from_the_hub(fetching, hub, quiltnet, monkeypatch):
    with serving() as proxy:
        proxy.faults[""] = Fault(status=407)
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.delenv("no_proxy")
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        error = refused(fetching, hub, quiltnet[1], "the proxy wants a login (status 407", "HTTPS_PROXY", "NO_PROXY")
        assert isinstance(error, WeightsNotFoundError)
        assert proxy.asked
        monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
        said = ("the proxy wants a login (status 407)", "HTTPS_PROXY")
        refused(fetching, hub, quiltnet[1], *said, page=f"https://hub.example/{REPO}")
        assert proxy.asked[-1][0] == "CONNECT"


PORTAL = b"<!DOCTYPE html><html><title>Guest network</title></html>"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=200, headers={"Content-Type": "text/html"}, body=PORTAL),
        Fault(status=302, headers={"Location": "http://login.example/"}),
        Fault(status=511),
        Fault(status=200, headers={"Content-Type": "text/html"}, body=PORTAL, methods=("GET",)),
    ],
)
def test_the_login_page_of_a_network_is_not_taken_for_weights(fetching, hub, quiltnet, fault):
    hub.faults[WEIGHTS] = fault
    said = f"not {hub.url.removeprefix('http://')} answers, but a proxy or the login page of a network"
    refused(fetching, hub, quiltnet[1], said, "in a browser on this network")
    assert not (quiltnet[2] / WEIGHTS).exists()
    assert not list(quiltnet[2].glob("*.part"))
    hub.faults.clear()
    fetching("quiltnet", quiltnet[1])
    assert (quiltnet[2] / WEIGHTS).is_file()


def test_a_certificate_that_cannot_be_trusted_is_said(fetching, hub, quiltnet, monkeypatch, https_hub):
    monkeypatch.setattr(constants, "ENDPOINT", https_hub.url)
    says = ("the certificate of", "self-signed certificate", "SSL_CERT_FILE", "clock")
    refused(fetching, hub, quiltnet[1], *says, page=f"{https_hub.url}/{REPO}")
    monkeypatch.setenv("SSL_CERT_FILE", str(https_hub.certificate))
    https_hub.repos = hub.repos
    assert fetching("quiltnet", quiltnet[1]) == 2


def test_a_server_without_tls_is_said(fetching, hub, quiltnet, monkeypatch):
    endpoint = hub.url.replace("http:", "https:")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    refused(fetching, hub, quiltnet[1], "cannot be trusted", page=f"{endpoint}/{REPO}")


def test_a_host_that_does_not_answer_is_asked_once_and_every_file_is_named(fetching, hub, quiltnet, monkeypatch):
    endpoint = f"http://{NOBODY}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    error = refused(fetching, hub, quiltnet[1], "does not answer (Connection refused)", page=f"{endpoint}/{REPO}")
    assert f"  {WEIGHTS} of hf {REPO}\n    to {quiltnet[2] / WEIGHTS}" in str(error)
    assert list(http._silent) == [NOBODY]
    refused(fetching, hub, quiltnet[1], "does not answer (Connection refused)", page=f"{endpoint}/{REPO}")


def test_offline_nothing_is_asked_and_every_file_is_named(fetching, hub, quiltnet, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = refused(fetching, hub, quiltnet[1], "cannot be fetched: HF_HUB_OFFLINE is set; put by hand", "unset it and")
    assert f"  {WEIGHTS} of hf {REPO}\n    to {quiltnet[2] / WEIGHTS}" in str(error)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 605156676\n", "a Git-LFS pointer"),
        (b'{"error": "Internal"}', "JSON text, not weights"),
        (b"PK other bytes", "the hub says"),
    ],
)
def test_other_content_than_the_hub_describes_is_not_kept(fetching, hub, quiltnet, body, says):
    hub.faults[WEIGHTS] = Fault(status=200, body=body, methods=("GET",))
    refused(fetching, hub, quiltnet[1], "another kind of content came, which was not kept", says)
    assert not (quiltnet[2] / WEIGHTS).exists()
    assert not list(quiltnet[2].glob("*.part"))
    hub.faults.clear()
    fetching("quiltnet", quiltnet[1])


@pytest.fixture
def zipped(hub, quiltnet):
    """QuiltNet's two files in a zip at a plain server: (entry, address, bytes)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as members:
        for name, data in next(iter(hub.repos[REPO].values())).items():
            members.writestr(f"quiltnet/{name}", data)
    hub.files["/files/quiltnet.zip"] = content.getvalue()
    url = f"{hub.url}/files/quiltnet.zip"
    entry = quiltnet[1] | {"download": [{"url": url, "files": ["open_clip_config.json", WEIGHTS]}]}
    return entry, url, content.getvalue()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=401), "wants a login: put it into ~/.netrc"),
        (Fault(status=403, methods=("GET",)), "the server forbids it (status 403"),
        (Fault(status=404), "there is no file"),
        (Fault(status=418), "the server refuses it (status 418"),
        (Fault(status=429, headers={"Retry-After": "3600"}), "asks to wait 3600 s"),
        (Fault(status=503), "is out of order (status 503"),
        (Fault(status=200, body=PORTAL, methods=("GET",)), "a proxy or the login page of a network"),
        (Fault(status=200, body=b"no zip at all", methods=("GET",)), "not a zip file"),
        (Fault(cut=100, methods=("GET",)), "cut off at 100 of"),
    ],
)
def test_a_server_of_files_that_misbehaves_is_named_and_then_works(fetching, hub, quiltnet, zipped, fault, says):
    entry, url, _ = zipped
    hub.faults[".zip"] = fault
    refused(fetching, hub, entry, says, page=url)
    hub.faults.clear()
    assert fetching("quiltnet", entry) == 2
    assert {path.suffix for path in quiltnet[2].iterdir()} == {".bin", ".json", ".safetensors"}


def test_a_server_that_does_not_answer_head_is_asked_for_the_file(fetching, hub, zipped):
    hub.faults[".zip"] = Fault(status=405, methods=("HEAD",))
    assert fetching("quiltnet", zipped[0]) == 2


def test_a_server_that_cannot_begin_in_the_middle_sends_the_whole_file(fetching, hub, quiltnet, zipped):
    hub.faults[".zip"] = Fault(cut=3000, times=1, methods=("GET",))
    hub.ranges = False
    assert fetching("quiltnet", zipped[0]) == 2


def test_a_server_that_refuses_the_range_of_a_whole_file_is_not_asked_for_ever(fetching, hub, quiltnet):
    hub.faults[WEIGHTS] = Fault(status=416, times=5, methods=("GET",))
    refused(fetching, hub, quiltnet[1], "the server refuses it (status 416")


@pytest.mark.parametrize(
    ("to", "login"), [("https://a.org/2", "Bearer x"), ("http://a.org/2", None), ("https://b.org/2", None)]
)
def test_a_login_goes_neither_to_another_host_nor_out_of_https(to, login):
    asked = urllib.request.Request("https://a.org/1", headers={"Authorization": "Bearer x"})
    followed = http._Redirects("a.org", follow=True).redirect_request(asked, io.BytesIO(), 302, "Found", {}, to)
    assert followed.full_url == to
    assert followed.get_header("Authorization") == login


def test_a_damaged_archive_and_one_without_the_file_are_said_and_fetched_anew(fetching, hub, quiltnet, zipped):
    entry, url, content = zipped
    broken = bytearray(content)
    broken[len(content) // 2] ^= 255
    hub.files["/files/quiltnet.zip"] = bytes(broken)
    refused(fetching, hub, entry, "the archive is damaged: Bad CRC-32", page=url)
    hub.files["/files/quiltnet.zip"] = content
    wrong = entry | {"download": [{"url": url, "files": ["model.bin"]}]}
    refused(fetching, hub, wrong, "the archive holds no model.bin, but quiltnet/open_clip_config.json", page=url)
    assert fetching("quiltnet", entry) > 0


def test_the_digest_of_a_zip_is_compared_before_it_is_unpacked(fetching, hub, quiltnet, zipped):
    entry, url, content = zipped
    stated = {"url": url, "files": [WEIGHTS, "open_clip_config.json"], "sha256": {"quiltnet.zip": "0" * 64}}
    digest = hashlib.sha256(content).hexdigest()
    said = f"the sha256 of the zip is {digest}, the pipeline states {'0' * 64}"
    refused(fetching, hub, entry | {"download": [stated]}, said, page=url)
    assert not list(quiltnet[2].iterdir())
    right = entry | {"download": [stated | {"sha256": {"quiltnet.zip": digest}}]}
    assert fetching("quiltnet", right) == 2
