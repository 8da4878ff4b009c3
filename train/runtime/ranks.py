"""The processes of one training run, as torchrun starts them, and the ways in which they agree.

Without torchrun there is one process, and nothing of ``torch.distributed`` is touched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from store.errors import ConfigError, MMKDError
from train.config import Optimization

log = logging.getLogger(__name__)

T = TypeVar("T")

_FAILED = "mmkd/failed"
"""Key under which a failing rank leaves its error for the others."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Ranks:
    """The processes that train together.

    Attributes:
        rank: of this process, from 0; only rank 0 writes.
        local_rank: number of this process on its machine, which is the number of its GPU.
        control: a group on the CPU for agreement between processes; None for a single process.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    control: Any = None

    @property
    def is_first(self) -> bool:
        """True in the process that writes."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """Return the device of this process."""
        return torch.device("cuda", self.local_rank) if kind == "cuda" and self.world_size > 1 else torch.device(kind)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Return the mean of each value over all processes; all must call this with the same names."""
        if self.world_size == 1:
            return values
        found = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
        torch.distributed.all_reduce(found, group=self.control)
        means = dict(zip(sorted(values), (found / self.world_size).tolist(), strict=True))
        return {name: means[name] for name in values}

    def from_first(self, make: Callable[[], T]) -> T:
        """Return the value that rank 0 makes to all processes; it must be picklable."""
        if self.world_size == 1:
            return make()
        box = [make() if self.is_first else None]
        torch.distributed.broadcast_object_list(box, src=0, group=self.control)
        return box[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in rank order, to all of them."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(box, value, group=self.control)
        return box

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.world_size > 1:
            torch.distributed.barrier(group=self.control)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of some parameters over all processes.

        A missing gradient counts as zero, also with one process: the result must not depend on how a batch is
        shared out.
        """
        gradients: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if self.world_size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat / self.world_size, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


ALONE = Ranks()
"""A run of one process."""


class Agreement:
    """Tells whether any process raised a flag, one call late, so that no process waits for the slowest at each step."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked: tuple[Tensor, Any] | None = None

    def __call__(self, *, flag: bool) -> bool:
        """Return whether a flag was raised anywhere at the call before; with one process, at this call.

        All processes must call this equally often.
        """
        if self._ranks.world_size == 1:
            return flag
        before, raised = self._asked, torch.tensor(flag, dtype=torch.int32)
        largest = torch.distributed.ReduceOp.MAX
        work = torch.distributed.all_reduce(raised, largest, group=self._ranks.control, async_op=True)
        self._asked = raised, work
        if before is None:
            return False
        before[1].wait()
        return bool(before[0])


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes that torchrun started while the block runs.

    If the block of one process raises an error, the others end too, and only the first error is reported.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield ALONE
        return
    distributed, local_rank = torch.distributed, int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available() and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")
    # torch warns of every 1 x 1 convolution, whose strides can be written in several ways.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
    rank, store = distributed.get_rank(), distributed.distributed_c10d._get_default_store()  # noqa: SLF001
    if rank:
        for package in ("store", "train"):
            logging.getLogger(package).setLevel(logging.WARNING)
    control = distributed.new_group(backend="gloo")
    try:
        yield Ranks(rank=rank, world_size=world_size, local_rank=local_rank, control=control)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        mine = f"rank {rank}: {error}"
        first = store.compare_set(_FAILED, "", mine).decode()
        if first != mine:
            log.debug("rank %d ends because of %s", rank, first)
            raise SystemExit(1) from None
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise MMKDError(
                f"rank {rank}: another process of this run is gone ({str(error).splitlines()[0]})",
                hint="what torchrun prints below says which; the same command goes on from the last checkpoint",
            ) from error
        raise
    # Not after an error: the others may be waiting in a collective, and this call would wait for them.
    distributed.destroy_process_group()


def require_device(key: str, settings: Optimization, ranks: Ranks) -> None:
    """Check that this process has the device of ``optimization.device``.

    Raises:
        ConfigError: it does not.
    """
    if settings.device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"{key}.optimization.device: no CUDA device is visible; set optimization.device=cpu",
            hint=f"--set {key}.optimization.device=cpu trains on the CPU",
        )
    if ranks.local_rank >= torch.cuda.device_count():
        raise MMKDError(
            f"process {ranks.local_rank + 1} of this machine has no GPU: {torch.cuda.device_count()} are visible",
            hint="start at most one process per GPU: torchrun --nproc-per-node NUMBER",
        )


def require_even_shares(key: str, settings: Optimization, ranks: Ranks) -> None:
    """Check that processes and parts of a step divide the batch.

    Raises:
        ConfigError: they do not.
    """
    shares = ranks.world_size * settings.accumulate
    if settings.batch_size % shares:
        parts = f" in {settings.accumulate} parts (accumulate)" if settings.accumulate > 1 else ""
        raise ConfigError(
            f"{key}.optimization.batch_size: {settings.batch_size} pairs cannot be shared evenly by "
            f"{ranks.world_size} processes{parts}",
            hint=f"take a multiple of {shares}, e.g. {-(-settings.batch_size // shares) * shares}",
        )
