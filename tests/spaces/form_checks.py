"""One form of a network against another: a pass forward and backward, and what they leave."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    """A scalar that every logit has another part in; x [N, C, H, W]."""
    outputs = net(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum((y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).sin()).sum() for y in outputs)


def close(found: Tensor, wanted: Tensor, tolerance=1e-11, scale=1e-3) -> bool:
    """Within a tolerance of the tensor's norm, or of a small number where that vanishes."""
    return bool((found - wanted).norm() <= tolerance * max(float(wanted.norm()), scale))


def assert_same(reference: nn.Module, fast: nn.Module, x: Tensor, tolerance=1e-11) -> None:
    """One pass forward and backward: output, all gradients, all buffers."""
    found = []
    for net in (reference, fast):
        x_of = x.clone().requires_grad_()
        loss = loss_of(net, x_of)
        loss.backward()
        found.append((loss.detach(), x_of.grad))
    (loss, dx), (loss_fast, dx_fast) = found
    assert close(loss_fast, loss, tolerance)
    assert close(dx_fast, dx, tolerance)
    for (name, parameter), other in zip(
        reference.named_parameters(), fast.parameters(), strict=True
    ):
        assert (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None:
            assert close(other.grad, parameter.grad, tolerance), name
    for (name, buffer), other in zip(reference.named_buffers(), fast.buffers(), strict=True):
        assert close(other.double(), buffer.double(), tolerance), name
