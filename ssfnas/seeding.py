"""Independent random streams from one seed.

Everything random in a run draws from its own generator, seeded by the run's seed and the names of
what it is for; so nothing depends on what else was drawn before, and a run can go on anywhere.
"""

from __future__ import annotations

import hashlib

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
