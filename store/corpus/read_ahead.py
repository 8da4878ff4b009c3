"""Reads images ahead of need over a few connections: neighbours in an archive on object storage cost one request.

A request to an object storage waits tens of milliseconds, whatever it brings. A corpus on a disk is read where and when
its images are wanted, because a disk gains nothing by threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, Self

from .image_source import ImageSource, ReadPart, span_of

BLOCK_BYTES = 8 * 2**20
"""Bytes that one request brings at most, but for a larger image: most of its time is transfer by then."""

GAP_BYTES = 2**17
"""Bytes between two neighbours that are read for nothing rather than asked for around; a storage sends as many in the
time of a few milliseconds, a tenth of what a request waits.
"""

AHEAD_BYTES = 8 * BLOCK_BYTES
"""Bytes that are read, or being read, before they are wanted."""

AHEAD_READS = 64
"""Requests that are made before they are wanted: what a file of its own holds is known only when it was read."""

CONNECTIONS = 8

CLOSE_S = 2.0
"""Time for which `ReadAhead.close` waits for requests that are under way."""

Take = Callable[[], bytes]


class ReadAhead:
    """Reads images of a corpus before they are wanted.

    Memory holds `AHEAD_BYTES`, and a block for each thread that waits for one that was not begun. A block is let go
    when its last image is taken, or given up with the callable that would take it.

    Args:
        connections: requests that are made at a time; each has a thread, which begins with the first image that is not
            on a disk of this machine.
    """

    def __init__(self, images: ImageSource, *, connections: int = CONNECTIONS) -> None:
        self._images, self._connections = images, connections
        self._changed = threading.Condition()
        self._urgent: deque[_Read] = deque()
        # Weak, so that what nobody can take any more is neither read nor counted.
        self._waiting: deque[weakref.ref[_Read]] = deque()
        self._begun: list[weakref.ref[_Read]] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def request(self, rows: Sequence[Mapping[str, Any]]) -> list[Take]:
        """Begin to read the images of some rows; return for each row what waits for its image and returns the bytes.

        Each may be called from any thread, best in the order of the rows. It raises what `ImageSource.fetch` raises,
        and CancelledError after `close`.

        Args:
            rows: with ``uri`` and ``member`` of the pair table, and ``image_sha256`` if it is to be compared.
        """
        takes: list[Take] = []
        spans: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        reads: list[tuple[int, _Read]] = []
        for number, row in enumerate(rows):
            uri, span = row["uri"], span_of(row["member"])
            fetch = partial(self._images.fetch, uri, row["member"], sha256=row.get("image_sha256"))
            takes.append(fetch)
            if uri is None or not self._images.is_far(uri):
                continue
            if span is not None:
                spans[uri].append((*span, number))
                continue
            read = _Read(fetch)
            takes[number] = _Take(self, read, fetch)
            reads.append((number, read))
        for uri, members in spans.items():
            for first, nbytes, numbers in _blocks(sorted(members)):
                read = _Block(partial(self._images.part, uri), first, nbytes)
                for number in numbers:
                    takes[number] = _Take(self, read, takes[number])
                reads.append((min(numbers), read))
        self._plan([read for _, read in sorted(reads, key=lambda found: found[0])])
        return takes

    def close(self) -> None:
        """End the threads; whatever waits for an image gets a CancelledError."""
        with self._changed:
            self._closed = True
            for read in filter(None, (found() for found in (*self._waiting, *self._begun))):
                read.done.cancel()
            self._changed.notify_all()
        deadline = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def want(self, read: _Read) -> None:
        """See to it that something is read next, beyond all bounds, if it was not begun."""
        with self._changed:
            if self._closed:
                read.done.cancel()
            elif not read.begun:
                read.begun = True
                self._begun.append(weakref.ref(read))
                self._urgent.append(read)
                self._changed.notify()

    def let_go(self) -> None:
        """Look whether there is room to read further."""
        with self._changed:
            self._changed.notify()

    def _plan(self, reads: Sequence[_Read]) -> None:
        with self._changed:
            self._waiting.extend(map(weakref.ref, reads))
            while reads and len(self._threads) < self._connections:
                # Daemons, because a storage that is away holds a request for minutes, and the program with it.
                self._threads.append(threading.Thread(target=self._serve, daemon=True))
                self._threads[-1].start()
            self._changed.notify(len(reads))

    def _serve(self) -> None:
        while True:
            with self._changed:
                while (read := self._next()) is None and not self._closed:
                    self._changed.wait()
            if read is None or self._closed:
                return
            read.make()
            del read  # it would be held until the next one is there

    def _next(self) -> _Read | None:
        """Return what is to be read now; None while there is nothing, or no room for it."""
        if self._urgent:
            return self._urgent.popleft()
        begun = [read for found in self._begun if (read := found()) is not None and not read.failed]
        self._begun, held = [*map(weakref.ref, begun)], sum(read.nbytes for read in begun)
        while self._waiting:
            read = self._waiting[0]()
            if read is not None and not read.begun:
                if begun and (held + read.nbytes > AHEAD_BYTES or len(begun) >= AHEAD_READS):
                    return None
                read.begun = True
                self._begun.append(self._waiting.popleft())
                return read
            self._waiting.popleft()
        return None


class _Read:
    """One request for an image.

    Attributes:
        nbytes: of what it brings, 0 where that is not known before.
        begun: it was made, or will be next.
        failed: it holds an error and no bytes.
    """

    def __init__(self, fetch: Take, *, nbytes: int = 0) -> None:
        self._fetch, self.nbytes, self.begun, self.failed = fetch, nbytes, False, False
        self.done: Future[bytes] = Future()

    def make(self) -> None:
        """Read, and tell whoever waits."""
        with contextlib.suppress(InvalidStateError):  # it was closed meanwhile
            try:
                data = self._fetch()
            except BaseException as error:  # noqa: BLE001 - it is raised where the image is wanted
                self.failed = True
                self.done.set_exception(error)
            else:
                self.nbytes = len(data)
                self.done.set_result(data)

    def image(self, _: Callable[..., bytes]) -> bytes:
        """Wait for the image."""
        return self.done.result()


class _Block(_Read):
    """One request for neighbouring members of a file."""

    def __init__(self, read_part: ReadPart, first: int, nbytes: int) -> None:
        super().__init__(partial(read_part, first, nbytes), nbytes=nbytes)
        self._read_part, self._first = read_part, first

    def image(self, fetch: Callable[..., bytes]) -> bytes:
        """Wait for the block and have an image of it checked."""
        return fetch(read_part=self._part)

    def _part(self, offset: int, nbytes: int) -> bytes:
        start = offset - self._first
        found = self.done.result()[start : start + nbytes]
        # A file that ends too early is rare; the storage says in its own words what is wrong with it.
        return found if len(found) == nbytes else self._read_part(offset, nbytes)


class _Take:
    """Returns the image of one row; where it is called again, by a request of its own."""

    __slots__ = ("_ahead", "_fetch", "_read")

    def __init__(self, ahead: ReadAhead, read: _Read, fetch: Callable[..., bytes]) -> None:
        self._ahead, self._fetch = ahead, fetch
        self._read: _Read | None = read

    def __call__(self) -> bytes:
        read, self._read = self._read, None
        if read is None:
            return self._fetch()
        self._ahead.want(read)
        try:
            return read.image(self._fetch)
        finally:
            read = None
            self._ahead.let_go()


def _blocks(members: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, list[int]]]:
    """Yield the offset, the bytes and the row numbers of each block of members, given offset, bytes and number each."""
    first, end, numbers = 0, 0, list[int]()
    for offset, nbytes, number in members:
        stop = max(end, offset + nbytes)
        if numbers and (offset - end > GAP_BYTES or stop - first > BLOCK_BYTES):
            yield first, end - first, numbers
            numbers = []
        if not numbers:
            first, stop = offset, offset + nbytes
        end = stop
        numbers.append(number)
    if numbers:
        yield first, end - first, numbers
