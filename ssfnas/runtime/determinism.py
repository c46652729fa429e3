"""Settings of the process that decide whether two runs give the same bits."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch


def make_deterministic() -> None:
    """Only deterministic algorithms, as far as torch has them; slower.

    An operation without one warns instead of failing, so that the run can go on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def computing_place(device: torch.device) -> dict[str, Any]:
    """What the bits of a result depend on besides the seed: kind of device and threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def warn_of_another_place(saved: dict[str, Any], device: torch.device) -> None:
    """Warn when a run goes on where its bits may differ from an uninterrupted run's."""
    here = computing_place(device)
    changed = [
        f"{key} {saved[key]} -> {here[key]}"
        for key in here
        if key in saved and saved[key] != here[key]
    ]
    if changed:
        warnings.warn(
            "resuming in another place than the run was started in ("
            + ", ".join(changed)
            + "): results may differ in the last bits from an uninterrupted run",
            stacklevel=2,
        )
