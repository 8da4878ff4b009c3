"""A Hugging Face Hub on loopback that misbehaves on request: what ``hf_hub_download`` asks it for, and plain files.

Repositories have commits. Large files are answered as the real hub does: HEAD and GET redirect to another host, where
the content is, and the answer has ``X-Linked-Etag`` and ``X-Linked-Size``.
"""

from __future__ import annotations

import hashlib
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

LOGIN = "hf_good"
NOBODY = "127.0.0.1:1"
"""An address that refuses connections; the system gives this port to no program by chance."""
LARGE = (".bin", ".pt", ".pth", ".safetensors", ".zip")
RESOLVE = re.compile(r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


class Fault:
    """One way in which a server answers wrongly.

    Args:
        status: sent in place of the file's; None lets the file be sent.
        cut: number of bytes of the body after which the connection ends.
        times: requests that meet it; None for all.
        methods: requests that it is for.
    """

    def __init__(self, *, status=None, headers=(), body=b"", cut=None, times=None, methods=("HEAD", "GET", "CONNECT")):
        self.status, self.headers, self.body, self.cut = status, dict(headers), body, cut
        self.times, self.methods = times, methods

    def meets(self, method):
        if method not in self.methods or self.times == 0:
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class HubServer(ThreadingHTTPServer):
    """Repositories, plain files, faults by the end of a path, and a log of requests."""

    daemon_threads = True

    def __init__(self, context=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.repos, self.files, self.faults, self.asked = {}, {}, {}, []
        self.gated, self.private = set(), set()
        self.scheme, self.ranges = "https" if context else "http", True
        self.url = f"{self.scheme}://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """Keep the test's output quiet: clients hang up on purpose."""

    def publish(self, repo, folder, names):
        """Add files of a folder to a repository as a new commit, and return the commit."""
        return self.commit(repo, {name: (folder / name).read_bytes() for name in names})

    def commit(self, repo, files):
        """Add files to a repository as a new commit, and return the commit."""
        commits = self.repos.setdefault(repo, {})
        before = next(reversed(commits.values()), {})
        commit = hashlib.sha1(f"{repo} {len(commits)}".encode(), usedforsecurity=False).hexdigest()
        commits[commit] = before | files
        return commit

    def asked_for(self, method="GET"):
        """Return the paths of requests to the hub, without those to the host of contents."""
        return [path for verb, path, _ in self.asked if verb == method and not path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_CONNECT(self):
        self._answer()

    def _answer(self):
        server, path = self.server, unquote(self.path)
        server.asked.append((self.command, path, dict(self.headers)))
        faults = (fault for end, fault in server.faults.items() if path.endswith(end) and "/cdn/" not in path)
        fault = next((one for one in faults if one.meets(self.command)), None)
        if fault and fault.status:
            self._send(fault.status, fault.body, fault.headers)
        elif path.startswith("/cdn/"):
            digest, _, name = path.removeprefix("/cdn/").partition("/")
            contents = (data for repo in server.repos.values() for files in repo.values() for data in files.values())
            data = next(data for data in contents if hashlib.sha256(data).hexdigest() == digest)
            self._send_file(data, {"ETag": f'"{digest}"'}, server.faults.get(f"cdn {name}"))
        elif found := RESOLVE.fullmatch(path):
            self._resolve(found["repo"], found["revision"], found["name"], fault)
        elif path in server.files:
            data = server.files[path]
            self._send_file(data, {"ETag": f'"{hashlib.sha256(data).hexdigest()[:16]}"'}, fault)
        else:
            self._send(404, b"not here")

    def _resolve(self, repo, revision, name, fault):
        server, login = self.server, self.headers.get("Authorization")
        has_login = login == f"Bearer {LOGIN}"
        if repo not in server.repos or (repo in server.private and not has_login):
            self._send(404 if has_login else 401, b"", {"X-Error-Code": "RepoNotFound"})
        elif login and not has_login:
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo in server.gated:
            said = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {repo} is restricted."}
            self._send(403 if has_login else 401, b"", said)
        else:
            commits = server.repos[repo]
            commit = next(reversed(commits)) if revision == "main" else revision
            if commit not in commits:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif name not in commits[commit]:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            else:
                self._describe(commits[commit][name], name, commit, fault)

    def _describe(self, data, name, commit, fault):
        headers = {"X-Repo-Commit": commit}
        if name.endswith(LARGE):
            digest = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "ETag": '"pointer"'}
            other = self.server.url.replace("127.0.0.1", "localhost")
            self._send(302, b"", headers | {"Location": f"{other}/cdn/{digest}/{name}"})
        else:
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            self._send_file(data, headers | {"ETag": f'"{etag}"'}, fault)

    def _send_file(self, data, headers, fault):
        asked = self.headers.get("Range") if self.server.ranges else None
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if first and first >= len(data):
            self._send(416, b"")
            return
        headers = headers | {"Accept-Ranges": "bytes"}
        if asked:
            headers |= {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        cut = fault.cut if fault and fault.cut is not None and fault.meets(self.command) else None
        self._send(206 if asked else 200, data[first:], headers, cut=None if cut is None else max(cut - first, 0))

    def _send(self, status, body, headers=None, *, cut=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])

    def log_message(self, *_):
        """Keep the test's output quiet."""


@contextmanager
def serving(context=None):
    """Run a hub and yield it; with an SSL context it speaks HTTPS."""
    server = HubServer(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
