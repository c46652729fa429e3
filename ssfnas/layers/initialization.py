"""Initial weights as a function of one generator, with PyTorch's own initialization rules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ssfnas.seeding import seeded_draws


@contextmanager
def initial_draws(generator: torch.Generator | None) -> Iterator[None]:
    """Modules built inside draw their CPU weights from ``generator`` alone.

    PyTorch's layers initialize from the global generator only, so it is seeded by one draw of
    ``generator`` and put back afterward. Without a generator nothing is done, and layers draw from
    the global one as usual.
    """
    if generator is None:
        yield
        return
    device = generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device, dtype=torch.int64))
    with seeded_draws(seed):
        yield
