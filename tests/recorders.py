"""What stands in for a CUDA graph where there is no GPU, and what watches a recorded step."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


class Tape:
    """Records operators with the memory that they read and write, as a CUDA graph does kernels.

    What the host decides while it records is done again each time, whatever the host would decide
    then. Works where all is computed by PyTorch's own operators.
    """

    def warm_up(self, step):
        return step()

    def record(self, step):
        calls = _Calls()
        with calls:
            terms = step()
        calls.undo()
        return calls.repeat, terms


class _Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls, self.own, self.before = [], {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        places = {x.untyped_storage().data_ptr() for x in given}
        for x in given:
            storage = x.untyped_storage()
            if storage.data_ptr() not in {*self.own, *self.before}:
                self.before[storage.data_ptr()] = storage, storage.clone()
        result = func(*args, **kwargs)
        made = tree_leaves(result)
        assert all(x is None or isinstance(x, torch.Tensor) for x in made), func
        fresh = [x is not None and x.untyped_storage().data_ptr() not in places for x in made]
        for x, new in zip(made, fresh, strict=True):
            if new:
                self.own[x.untyped_storage().data_ptr()] = x
        self.calls.append((func, args, kwargs, made, fresh))
        return result

    def undo(self):
        """Recording computes nothing."""
        for storage, value in self.before.values():
            storage.copy_(value)

    @torch.no_grad()
    def repeat(self):
        for func, args, kwargs, made, fresh in self.calls:
            for x, again, new in zip(made, tree_leaves(func(*args, **kwargs)), fresh, strict=True):
                if new:
                    x.detach().copy_(again)
