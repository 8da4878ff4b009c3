"""Connects to the Ray cluster that the environment names, or starts one for this run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import ray

from extract.config import ExtractSection
from store.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]

JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for programs that ``ray job submit`` starts; such a job brings its code along."""

ADDRESS = "RAY_ADDRESS"

OBJECT_STORE_BYTES = 128 * 2**20
"""Shared memory of a local cluster: only receipts pass through it."""

ANSWER_S = 30.0
"""A cluster that runs answers within this time."""

AGAIN_S = 0.001
"""Time between two settings of the handler of SIGTERM while Ray shuts down."""


@contextlib.contextmanager
def connected(settings: ExtractSection) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS, which Ray sets in a job too; else start a local one and end it afterwards.

    The caller's handler of SIGTERM stays in force, except for the third of a second in which Ray's C++ code connects
    and holds the interpreter's lock: SIGTERM then ends the program by SIGABRT, with a stack of Ray's.

    Raises:
        ConfigError: no cluster answers there, or this program cannot use it.
        KeyboardInterrupt: SIGTERM came while Ray started.
    """
    handler = signal.getsignal(signal.SIGTERM)
    address = os.environ.get(ADDRESS)
    options = _local(settings) if address is None else _remote(address)
    try:
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
        except SystemExit as ended:  # raised by Ray's own handler of SIGTERM
            raise KeyboardInterrupt from ended
        # A RuntimeError, ConnectionError or AuthenticationError, and a plain Exception where a node starts too slowly.
        except Exception as error:
            raise ConfigError(
                f"the Ray cluster at {address or 'this machine'} cannot be used: {error}",
                hint="docs/cluster.md: it must run with the same Python and Ray as here, and RAY_AUTH_MODE must be the "
                "same for `ray start`, `ray job submit` and this program",
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        _shut_down()


def _shut_down() -> None:
    """Shut Ray down, and keep this program's handler of SIGTERM meanwhile.

    Ray's C++ code sets the default handler a second before `ray.shutdown` returns, which
    https://github.com/ray-project/ray/pull/65749 is to change. Python sets handlers in the main thread only, so Ray
    is shut down in another one.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with ThreadPoolExecutor(1) as thread:
            call = thread.submit(ray.shutdown)
            while wait([call], timeout=AGAIN_S).not_done:
                signal.signal(signal.SIGTERM, handler)
        call.result()
    finally:
        signal.signal(signal.SIGTERM, handler)


def may_grow() -> bool:
    """Return whether nodes may join the cluster: not one that a run started itself."""
    return ADDRESS in os.environ


def _local(settings: ExtractSection) -> dict[str, Any]:
    # A number of workers is taken at its word, and one worker finds room on the smallest machine.
    cpus = int(settings.asked["CPU"])
    slots = settings.workers * cpus if settings.workers else max(os.cpu_count() or 1, cpus)
    return {
        # Without "local" Ray would use any cluster whose address was left behind on this machine.
        "address": "local",
        "num_cpus": slots,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        # Workers import these packages from the repository, wherever the driver was started.
        "runtime_env": {"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
    }


def _remote(address: str) -> dict[str, Any]:
    check_address(address)
    if JOB in os.environ:
        return {}
    # The nodes may not see this folder.
    return {"runtime_env": {"py_modules": [str(REPOSITORY / name) for name in ("extract", "store")]}}


def check_address(address: str, *, answer_s: float = ANSWER_S) -> None:
    """Try the port of RAY_ADDRESS: Ray itself would try for minutes, and its error names no address.

    Raises:
        ConfigError: nothing answers there, or it is an address of Ray Client.
    """
    if address.startswith("ray://"):
        raise ConfigError(
            f"{ADDRESS}={address}: Ray Client addresses are not supported",
            hint="submit the run as a job (docs/cluster.md), or use the address of the cluster's GCS, HOST:6379",
        )
    host, found, port = address.rpartition(":")
    if not found or not port.isdigit():  # "auto", which Ray resolves
        return
    try:
        socket.create_connection((host, int(port)), timeout=answer_s).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{ADDRESS}={address}: no Ray cluster answers there ({reason})",
            hint="`ray status` shows whether one runs; unset RAY_ADDRESS to run on this machine alone",
        ) from error
