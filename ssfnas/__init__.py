"""Architecture search and training for long-tailed images, self-supervised and fair (SSF-NAS).

``run_search(config)``, ``run_retrain(config)`` and ``load(dir)`` do from Python what the commands
``python -m ssfnas.search`` and ``python -m ssfnas.retrain`` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssfnas.config import EvaluateConfig, ExportConfig, RetrainConfig, SearchConfig
from ssfnas.errors import NumericalError, RequestError
from ssfnas.runtime.waiting import choose_waiting

if TYPE_CHECKING:
    from ssfnas.exports.pretrained import PretrainedNetwork
    from ssfnas.pipeline.retrain_run import run_retrain
    from ssfnas.pipeline.run import Run, load
    from ssfnas.pipeline.search_run import run_search

__version__ = "0.1.0"

# Here, since nothing above imports torch, after which it would have no effect.
waiting = choose_waiting()

__all__ = [
    "EvaluateConfig",
    "ExportConfig",
    "NumericalError",
    "PretrainedNetwork",
    "RequestError",
    "RetrainConfig",
    "Run",
    "SearchConfig",
    "load",
    "run_retrain",
    "run_search",
]

# Imported when first used: the commands' --help and errors should not wait for torch.
_LAZY = {
    "run_search": "ssfnas.pipeline.search_run",
    "run_retrain": "ssfnas.pipeline.retrain_run",
    "PretrainedNetwork": "ssfnas.exports.pretrained",
    "Run": "ssfnas.pipeline.run",
    "load": "ssfnas.pipeline.run",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ssfnas' has no attribute '{name}'")
