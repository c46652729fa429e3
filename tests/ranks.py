"""Environments of processes of this machine that run together, as torchrun makes them."""

from __future__ import annotations

import os
import socket


def environments(processes: int) -> list[dict[str, str]]:
    """One for each rank; they meet at a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": "1"}
    if processes == 1:
        return [common]
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
