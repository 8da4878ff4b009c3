"""URLs are requested as they are meant, and an answer that breaks off is asked for again."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from store.corpus.image_source import ImageSource
from store.errors import LocationError, PairDecodeError
from store.io import remote
from store.io.location import locate, split_uri
from store.io.remote import _client

CONTENT = b"0123456789"


class Server(ThreadingHTTPServer):
    """Answers every request with ten bytes, or as S3 with one object; notes what was asked for.

    Attributes:
        asked: method, path with query, and authorization of each request.
        cut: how many answers to listings break off in their body.
        errors: statuses that are answered first.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.cut, self.errors = [], 0, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def host(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.command, self.path, self.headers["Authorization"]))
        body = LISTING if "list-type=2" in self.path else CONTENT
        self.send_response(self.server.errors.pop(0) if self.server.errors else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if body is LISTING and self.server.cut:
            self.server.cut -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_arguments):
        pass


LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult><Name>bucket</Name><Prefix></Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>
<IsTruncated>false</IsTruncated><Contents><Key>a/b.tar</Key><LastModified>2026-11-28T00:00:00.000Z</LastModified>
<ETag>"1"</ETag><Size>10</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"""


@pytest.fixture
def server():
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize(
    "path",
    [
        "/a.png",
        "/a.png?x=y",
        "/a/b.png?next=/c/../d&sign=%2F%3D+",
        "/a%20b/c%25.png",
        "/%C3%BC+1.png?q=a%20b",
    ],
)
def test_an_image_is_requested_at_the_url_that_the_table_has(server, path):
    assert ImageSource("/", allow=["127.0.0.1"]).fetch(f"http://{server.host}{path}", None) == CONTENT
    assert server.asked[-1] == ("GET", path, None)
    assert ImageSource(f"http://{server.host}/").fetch(path.removeprefix("/"), None) == CONTENT
    assert server.asked[-1] == ("GET", path, None)


def test_the_login_of_a_host_comes_from_the_netrc_file(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password pass@word\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    _client.cache_clear()
    url, login = f"http://{server.host}/folder/a.png", "Basic dXNlcjpwYXNzQHdvcmQ="
    assert locate(f"http://{server.host}/folder").read("a.png?x=y") == CONTENT
    assert ImageSource("/", allow=["127.0.0.1"]).fetch(url, None) == CONTENT
    assert [asked[2] for asked in server.asked] == [login, login]
    _client.cache_clear()


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://user:s3cr3t@host/a.tar", "netrc"),
        ("https://s3cr3t@host/a.tar", "netrc"),
        ("s3://KEY:s3cr3t@bucket/a.tar", "AWS_SECRET_ACCESS_KEY"),
        ("https://host/a.png?x=1&token=s3cr3t", "netrc"),
        ("https://host/a.tar?X-Amz-Credential=a&X-Amz-Signature=s3cr3t", "netrc"),
        ("https://account.blob.core.windows.net/c/a.tar?sv=1&sig=s3cr3t", "netrc"),
    ],
)
def test_a_url_with_a_credential_is_refused_without_repeating_it(url, hint):
    for take in (locate, split_uri):
        with pytest.raises(LocationError, match="holds a") as caught:
            take(url)
        assert "s3cr3t" not in f"{caught.value} {caught.value.hint}"
        assert hint in caught.value.hint
    with pytest.raises(PairDecodeError) as refused:
        ImageSource("/", allow=["any"]).fetch(url, None)
    assert "s3cr3t" not in f"{refused.value} {refused.value.hint}"


def test_a_url_of_a_host_alone_names_no_object():
    for url in ("http://host", "s3://bucket", "https://host?x=/y"):
        with pytest.raises(LocationError, match="names no object"):
            split_uri(url)
        with pytest.raises(PairDecodeError, match="names no object"):
            ImageSource("/", allow=["any"]).fetch(url, None)
    assert split_uri("s3://bucket/a?b/c") == ("s3://bucket/a?b", "c")
    assert split_uri("http://host/a?b/c") == ("http://host", "a?b/c")
    assert split_uri("/a") == ("/", "a")


@pytest.mark.parametrize("key", ["100%.png", "a%20b.png", "a b?c=d.png", "ü/é+.png"])
def test_keys_of_object_storage_are_taken_as_they_are(s3, tmp_path, key):
    locate(f"s3://bucket/{tmp_path.name}").write(key, b"v")
    assert (s3.folder / "bucket" / tmp_path.name / key).read_bytes() == b"v"
    assert locate(f"s3://bucket/{tmp_path.name}").list() == [(key, 1)]
    assert ImageSource(f"s3://bucket/{tmp_path.name}").fetch(key, None) == b"v"


@pytest.fixture
def stub(server, monkeypatch):
    """The server as an S3 endpoint, with short pauses between requests."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    settings = {"ENDPOINT_URL": f"http://{server.host}", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}
    for name, value in {**settings, "ALLOW_HTTP": "true", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    remote._client.cache_clear()
    yield server
    remote._client.cache_clear()


def test_a_listing_that_breaks_off_is_asked_for_again(stub):
    stub.cut = 3
    assert locate("s3://bucket").list() == [("a/b.tar", 10)]
    assert len(stub.asked) == 4


def test_a_listing_that_goes_on_breaking_off_is_an_error_in_the_end(stub, monkeypatch):
    monkeypatch.setattr(remote, "RETRY_S", 0.1)
    stub.cut = 1000
    with pytest.raises(LocationError, match="s3://bucket/a: the storage failed"):
        locate("s3://bucket").list("a")
    assert 2 <= len(stub.asked) < 50


def test_a_listing_that_is_refused_is_not_asked_for_again(stub):
    stub.errors = [400]
    with pytest.raises(LocationError, match="s3://bucket/: the storage failed"):
        locate("s3://bucket").list()
    assert len(stub.asked) == 1
    stub.errors = [404]  # of a bucket that is not there; a folder that is not there is an empty listing
    with pytest.raises(LocationError, match="404 Not Found"):
        locate("s3://bucket").list()
    assert len(stub.asked) == 2
