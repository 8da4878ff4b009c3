"""Judges Ray: its version and mode, the cluster that the environment names, the ports of one that is to be started."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from store.errors import ConfigError

from .finding import Finding, State

ANSWER_S = 5.0
"""Seconds that a cluster has to take a connection."""

PORTS = {6379: "--port", 8265: "--dashboard-port"}
"""Ports of ``ray start --head``, and its options for others."""

MODES = ("disabled", "token")


def mode(version: str, chosen: str | None, *, has_token: bool) -> Finding:
    """Judge Ray's version and its way of authentication.

    Args:
        chosen: RAY_AUTH_MODE.
        has_token: whether this account has a token.
    """
    said = f"Ray {version}, RAY_AUTH_MODE is {chosen or 'not set'}"
    export = "export RAY_AUTH_MODE=disabled in every shell that starts Ray or talks to it (docs/cluster.md)"
    state: State = "ok"
    if chosen is None:
        state, said = "warn", f"{said}: a run's own Ray does without, `ray start` may not"
    elif chosen not in MODES:
        state, said, export = "fail", f"{said}; expected {' or '.join(MODES)}", "export RAY_AUTH_MODE=disabled"
    elif chosen == "token" and not has_token:
        state, said, export = "fail", f"{said}, and this account has no token", "ray get-auth-token --generate"
    return Finding("ray", state, said, "" if state == "ok" else export)


def cluster(address: str | None) -> Finding:
    """Try the address of RAY_ADDRESS; starts no cluster and joins none."""
    from extract.cluster.connect import check_address

    if address is None:
        return Finding("cluster", "ok", "RAY_ADDRESS is not set: a run starts Ray on this machine and ends it")
    try:
        check_address(address, answer_s=ANSWER_S)
    except ConfigError as error:
        return Finding("cluster", "fail", str(error), error.hint or "")
    return Finding("cluster", "ok", f"a cluster takes connections at RAY_ADDRESS={address}")


def ports(taken: Mapping[int, bool], *, address: str | None) -> Finding:
    """Judge the ports of a cluster that is started by hand.

    Args:
        taken: by port, whether another program has it.
    """
    found = [port for port, is_taken in taken.items() if is_taken]
    if address is not None or not found:
        text = "are free" if not found else "are the cluster's"
        return Finding("ports", "ok", f"{' and '.join(map(str, taken))} {text}, for ray start --head")
    options = " ".join(f"{PORTS[port]} N" for port in found)
    text = f"{' and '.join(map(str, found))}: another program has them, or a Ray that runs; a run takes other ports"
    return Finding("ports", "warn", text, f"ray status; or ray start --head {options}")


def is_taken(port: int) -> bool:
    """Return whether a port of this machine cannot be listened on."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError:
            return True
    return False
