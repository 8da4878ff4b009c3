"""Decodes images in separate processes, where the threads of one interpreter are too few.

Workers are spawned, not forked: obstore, Arrow and CUDA do not survive a fork. They are sent image files and write
pixels into shared memory. The work is a function of row and epoch, so batches do not depend on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, TypeAlias

from store.errors import MMKDError

if TYPE_CHECKING:
    from .image_loader import View

GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ignored by the processes here. A terminal sends Ctrl-C to all its processes, torchrun SIGTERM to a group; only the
trainer reacts to them, and it needs images until its step is done."""

File: TypeAlias = tuple[int, int, bytes]
"""An image file: the place in its batch, its row, its content."""

Reasons: TypeAlias = dict[int, str]
"""Rows without a usable image, with the reason."""


class ImageWorkers:
    """Processes that decode images; whichever is free gets the next part of a batch.

    Args:
        memories: the shared memory of each buffer.
        shape: of each buffer.
    """

    def __init__(self, number: int, *, view: View, memories: Sequence[Any], shape: tuple[int, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._askers = ThreadPoolExecutor(max(1, number), "image-workers")
        self._pipes: list[Any] = []
        self._processes = []
        # Before multiprocessing's own end, which would send SIGTERM, which the workers ignore, and wait for ever. In a
        # process that multiprocessing has started itself, handlers of atexit do not run.
        self._at_exit = Finalize(None, self.close, exitpriority=1)
        for _ in range(number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, view, memories, shape), daemon=True)
            # A process inherits blocked signals: one that comes before it can ignore them waits, and would end it else.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            # Now only the worker holds this end, so each side notices when the other is gone.
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
            self._free.put(ours)

    def __len__(self) -> int:
        """Return the number of processes."""
        return len(self._processes)

    def fill(self, number: int, files: list[File], *, epoch: int) -> Reasons:
        """Have the crops of some image files written into a buffer; return why some cannot be decoded.

        Raises:
            MMKDError: the worker is gone.
        """
        # In the order of the calls. A lock would give a free worker to any waiting thread, and so to a later batch.
        found: Reasons = self._askers.submit(self._ask, number, files, epoch).result()
        return found

    def _ask(self, number: int, files: list[File], epoch: int) -> Any:
        pipe = self._free.get()
        try:
            pipe.send((number, epoch, [(place, row) for place, row, _ in files]))
            for _, _, data in files:
                pipe.send_bytes(data)  # not pickled: that would copy it and hold the interpreter's lock
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            raise MMKDError(
                "a process that decodes images is gone; was it killed, perhaps for its memory?",
                hint="lower optimization.image_workers, and run the same command again",
            ) from error
        finally:
            self._free.put(pipe)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Stop the processes."""
        self._at_exit.cancel()
        self._askers.shutdown()
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()


def _work(pipe: Connection, view: View, memories: Sequence[Any], shape: tuple[int, ...]) -> None:
    """Serve the trainer's requests until the pipe is closed."""
    from .buffers import as_array
    from .image_loader import fill

    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    buffers = [as_array(memory, shape) for memory in memories]
    while True:
        try:
            number, epoch, places = pipe.recv()
            files = [(place, row, pipe.recv_bytes()) for place, row in places]
        except (EOFError, OSError):
            return
        try:
            pipe.send(fill(buffers[number], files, view, epoch=epoch))
        except Exception as error:  # noqa: BLE001 - it is raised in the trainer
            pipe.send(error)
