"""A real S3 server on the loopback (rclone over a folder), behind a relay that counts requests.

rclone 1.75 answers a range with the right bytes and status 200 where S3 says 206, which obstore refuses; the relay
corrects that status and changes nothing else.
"""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET = "key", "secret"
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


def rclone():
    """Return rclone's program, which the environment of this Python or the path has; None if neither does."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.is_file() else shutil.which("rclone")


class _Quiet(ThreadingHTTPServer):
    """A server that prints no traceback where a client was killed."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class S3Server:
    """rclone and the relay; can be killed and started again at the relay's address.

    Args:
        relay: the relay's class, `Relay` if none is given.

    Attributes:
        port: rclone's, another one after each start; 0, where nobody listens, while it does not run.
        requests: how many of each HTTP method came through.
    """

    def __init__(self, folder, relay=None):
        self.folder, self.port = folder, 0
        (folder / "bucket").mkdir(parents=True)
        self.requests = Counter()
        self.process = None
        handler = type("Handler", (relay or Relay,), {"server_of": self})
        self.relay = _Quiet(("127.0.0.1", 0), handler)
        self.relay.daemon_threads = True
        threading.Thread(target=self.relay.serve_forever, daemon=True).start()

    @property
    def environment(self):
        """Return the environment that a program needs to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.relay.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
        }

    def start(self):
        command = [rclone(), "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}"]
        command += ["--vfs-cache-mode", "off", "--config", "", str(self.folder)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"Starting s3 server on \[http://127\.0\.0\.1:(\d+)/\]", line):
                self.port = int(found[1])
                threading.Thread(target=self.process.stderr.read, daemon=True).start()  # a full pipe would stop it
                return self
        raise RuntimeError(f"rclone ended before it listened: {''.join(said)}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.port = 0

    def close(self):
        self.kill()
        self.relay.shutdown()
        self.relay.server_close()


class Relay(BaseHTTPRequestHandler):
    """Hands each request on to rclone."""

    protocol_version = "HTTP/1.1"

    def _hand_on(self):
        server = self.server_of
        server.requests[self.command] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        except OSError:
            self.close_connection = True  # as a server that went away
            return
        partial = answer.status == 200 and answer.getheader("Content-Range")
        self.send_response(206 if partial else answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _hand_on

    def log_message(self, *_arguments):
        pass
