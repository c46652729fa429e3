"""How the steps of a training are launched."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option


@dataclass(kw_only=True)
class Launching:
    """Trainings whose steps can be recorded."""

    cuda_graph: str = option(
        "auto",
        "launch a step as one CUDA graph; auto: on a GPU, where nothing forbids it",
        choices=("auto", "on", "off"),
    )
