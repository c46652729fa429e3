"""What stands in for a CUDA graph where there is no GPU, and what watches a recorded step."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Repeater:
    """Records by remembering the function: what a graph does, where there is none."""

    def __init__(self):
        self.recorded = 0

    def warm_up(self, step):
        return step()

    def record(self, step):
        self.recorded += 1
        terms = {}
        return lambda: terms.update(step()), terms


class Unable(Repeater):
    def record(self, step):
        try:
            raise ValueError("operation not permitted when stream is capturing\nmore of it")
        finally:
            raise RuntimeError("the capture was invalidated")


class NoLooking(TorchDispatchMode):
    """Fails on operators that wait for the device to tell the host a number or a size."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique"}, name
        return func(*args, **(kwargs or {}))
