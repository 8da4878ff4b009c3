"""Images per second out of a tar on object storage: a request for each image beside blocks of neighbours.

A server on the loopback waits before each answer, as a storage does. Both ways have the same connections.

python -m tests.benchmarks.extract.object_storage
"""

from __future__ import annotations

import argparse
import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from store.corpus.image_source import ImageSource
from store.corpus.read_ahead import CONNECTIONS, ReadAhead
from tests.benchmarks.tables import table

HEADER_BYTES = 512
"""Bytes of a tar between two members, at least."""


class Storage(ThreadingHTTPServer):
    """Answers ranges of one object, each after a wait; counts the requests."""

    daemon_threads = True

    def __init__(self, content: bytes, *, wait_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.wait_s, self.requests, self.lock = content, wait_s, 0, threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """Answers a GET with a range."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and content in one piece
    server: Storage

    def do_GET(self) -> None:
        """Wait, then send the range."""
        with self.server.lock:
            self.server.requests += 1
        time.sleep(self.server.wait_s)
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = self.server.content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(self.server.content)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def corpus(images: int, nbytes: int) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the content of an archive of drawn images, and its rows."""
    drawn = np.random.default_rng(0).bytes(images * (HEADER_BYTES + nbytes))
    rows = []
    for offset in range(HEADER_BYTES, len(drawn), HEADER_BYTES + nbytes):
        digest = hashlib.sha256(drawn[offset : offset + nbytes]).hexdigest()
        member = {"offset": offset, "nbytes": nbytes, "column": None, "row": None}
        rows.append({"uri": "a.tar", "member": member, "image_sha256": digest})
    return drawn, rows


def main() -> None:
    """Read all images both ways, for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--nbytes", type=int, nargs="+", default=[4_000, 100_000], help="of each image")
    parser.add_argument("--wait-ms", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts")
    options = parser.parse_args()
    print(f"{options.images} images, {CONNECTIONS} connections, {options.wait_ms:g} ms before each answer.")
    head = ("bytes of an image", "one request each, images/s", "requests", "in blocks, images/s", "requests", "times")
    table(head, (compared(nbytes, options) for nbytes in options.nbytes))


def compared(nbytes: int, options: argparse.Namespace) -> list[object]:
    """Return bytes of an image, images per second and requests of both ways, and their ratio."""
    content, rows = corpus(options.images, nbytes)
    storage = Storage(content, wait_s=options.wait_ms / 1000)
    images = ImageSource(f"http://127.0.0.1:{storage.server_port}/bucket")

    def singly(pool: ThreadPoolExecutor) -> list[bytes]:
        return list(pool.map(lambda row: images.fetch(row["uri"], row["member"], sha256=row["image_sha256"]), rows))

    def in_blocks(pool: ThreadPoolExecutor) -> list[bytes]:
        with ReadAhead(images) as ahead:
            return list(pool.map(lambda take: take(), ahead.request(rows)))

    cells: list[object] = [nbytes]
    rates = []
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for read in (singly, in_blocks):
            best_s = float("inf")
            for _ in range(options.rounds):
                storage.requests, began = 0, time.perf_counter()
                found = read(pool)
                best_s = min(best_s, time.perf_counter() - began)
            if [hashlib.sha256(data).hexdigest() for data in found] != [row["image_sha256"] for row in rows]:
                raise SystemExit(f"{read.__name__}: other bytes than those of the archive")
            rates.append(options.images / best_s)
            cells += [rates[-1], storage.requests]
    return [*cells, rates[1] / rates[0]]


if __name__ == "__main__":
    main()
