"""A network as a program of torch.export, which torch loads without ssfnas."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ssfnas.exports.plain_network import PlainNetwork, trace

FACTS_NAME = "ssfnas.json"


def program_bytes(network: PlainNetwork, facts: Mapping[str, Any]) -> bytes:
    """The content of a ``.pt2`` file.

    Args:
        network: what it computes.
        facts: stand in it as JSON under :data:`FACTS_NAME`.
    """
    content = io.BytesIO()
    text = json.dumps(facts, ensure_ascii=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(trace(network), content, extra_files={FACTS_NAME: text})
    return content.getvalue()


def loaded_program(content: bytes) -> Callable[[Tensor], Tensor]:
    """What such a file computes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(io.BytesIO(content)).module()
    called: Callable[[Tensor], Tensor] = module
    return called
