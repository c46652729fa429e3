"""Independent random streams from one seed.

Everything random in a run draws from its own generator, seeded by the run's seed and the names of
what it is for; so nothing depends on what else was drawn before, and a run can go on anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the purpose that ``names`` spell, from sha256 of both.

    Args:
        seed: the run's seed.
        names: what the numbers are for: ``derive_seed(seed, "views", epoch)``.
    """
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` on ``device``, seeded by :func:`derive_seed`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded_draws(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, PyTorch's global generators start at ``seed``; afterward they are as they were.

    For what draws from nowhere else: initial weights of layers, dropout, operations of users. A
    CUDA graph that is launched inside reads the generator as kernels that are launched one by one
    do, so a recorded step draws what the step itself would. Generators of NumPy and Python are left
    alone: to keep and restore them takes longer than a small step may.

    Args:
        seed: from 0 on, below 2^63.
        device: a GPU's generator is treated like the CPU's; the others are left alone.
    """
    generators = [torch.default_generator]  # torch.manual_seed would reseed those of all GPUs
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
