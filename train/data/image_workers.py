"""Reads and decodes images in separate processes, where the threads of one interpreter are too few.

Workers are spawned, not forked: obstore, Arrow and CUDA do not survive a fork. Pixels come back through shared memory.
The work is a function of row and epoch, so batches do not depend on the number of workers.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from store.errors import MMKDError, PairDecodeError

if TYPE_CHECKING:
    from .image_loader import RowImages, View

FETCH_THREADS = 8
"""Number of threads of a worker that fetch while it decodes: an object storage answers in tens of milliseconds."""

Places = list[tuple[int, int]]
"""Positions in a batch, with their rows."""

Reasons = dict[int, str]
"""Rows without a usable image, with the reason."""


class ImageWorkers:
    """Processes that read and decode images.

    Args:
        source: is pickled to each process.
        batch_rows: largest number of rows of a batch.
        block_rows: neighbouring rows that one worker reads, so that each chunk of a pixel cache is read once.
    """

    def __init__(self, source: RowImages, *, view: View, number: int, batch_rows: int, block_rows: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._shape, self._block_rows = (batch_rows, view.size_px, view.size_px, 3), block_rows
        self._memory = context.RawArray("B", int(np.prod(self._shape)))
        self._pixels_BHWC = np.frombuffer(self._memory, np.uint8).reshape(self._shape)
        self._pipes: list[Any] = []
        self._processes = []
        # multiprocessing's own exit handler would send SIGTERM, which the workers ignore, and wait for ever.
        atexit.register(self.close)
        for _ in range(number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, source, view, self._memory, self._shape), daemon=True)
            process.start()
            # Now only the worker holds this end, so each side notices when the other is gone.
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def load(self, rows_B: npt.NDArray[np.int64], *, epoch: int) -> tuple[npt.NDArray[np.uint8], Reasons]:
        """Return images of rows, (B, H, W, 3) uint8, and the reasons of unreadable ones, whose pixels are undefined.

        Raises:
            MMKDError: the corpus is missing, or a worker is gone.
        """
        dealt: list[Places] = [[] for _ in self._pipes]
        for place, row in enumerate(rows_B.tolist()):
            dealt[row // self._block_rows % len(dealt)].append((place, row))
        reasons: Reasons = {}
        failures: list[Exception] = []
        for pipe, places in zip(self._pipes, dealt, strict=True):
            self._exchange(pipe.send, (epoch, places))
        for pipe in self._pipes:
            answer = self._exchange(pipe.recv)
            if isinstance(answer, Exception):
                failures.append(answer)
            else:
                reasons |= answer
        if failures:
            raise failures[0]
        # A copy: the workers write the next batch into the same memory.
        return self._pixels_BHWC[: len(rows_B)].copy(), reasons

    @staticmethod
    def _exchange(act: Any, *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except (EOFError, OSError) as error:
            raise MMKDError(
                "a process that decodes images is gone; was it killed, perhaps for its memory?",
                hint="lower optimization.image_workers, and run the same command again",
            ) from error

    def close(self) -> None:
        """Stop the processes."""
        atexit.unregister(self.close)
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(pipe: Connection, source: RowImages, view: View, memory: Any, shape: tuple[int, ...]) -> None:
    """Serve the trainer's requests until the pipe is closed."""
    from .image_loader import cut

    # A terminal sends Ctrl-C to all its processes, torchrun SIGTERM to a group. Only the trainer reacts to them, and it
    # needs images until its step is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pixels_BHWC = np.frombuffer(memory, np.uint8).reshape(shape)
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        while True:
            try:
                epoch, places = pipe.recv()
            except (EOFError, OSError):
                return
            reasons: Reasons = {}
            try:
                fetched = [pool.submit(source.fetch, row) for _, row in places]
                for (place, row), data in zip(places, fetched, strict=True):
                    try:
                        pixels_BHWC[place] = cut(data.result(), view, row=row, epoch=epoch)
                    except PairDecodeError as error:
                        reasons[row] = str(error)
                pipe.send(reasons)
            except Exception as error:  # noqa: BLE001 - it is raised in the trainer
                pipe.send(error)
