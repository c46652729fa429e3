"""Dirichlet variates made of given noise, with implicit gradients, and their divergence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Each try is refused with a probability of at most 0.0484 (shape 1): all are, below 1e-13.
TRIES = 10
# Below exp of it, a gamma variate's distribution is the first term of its series in any precision.
_LOWEST = -40.0


def gamma_noise(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal and then uniform numbers, of which :class:`LogGamma` makes variates.

    Returns:
        fp64 [2 * TRIES + 1, *shape] on the CPU, as the generator is; uniforms are in (0, 1].
    """
    device = generator.device
    normals = torch.randn(TRIES, *shape, generator=generator, dtype=torch.float64, device=device)
    uniforms = torch.rand(
        TRIES + 1, *shape, generator=generator, dtype=torch.float64, device=device
    )
    return torch.cat([normals, 1 - uniforms])


class LogGamma(torch.autograd.Function):
    """Logarithms of gamma variates of given shapes and scale 1; nothing waits for the device.

    Marsaglia and Tsang's method, for shape a >= 1: with d = a - 1/3, x a normal and u a uniform
    number, v = (1 + x / sqrt(9 d))^3; d v is the variate where v > 0 and
    log u < x^2 / 2 + d (1 - v + log v). The first of :data:`TRIES` that holds is taken. For a < 1
    the variate of a + 1 is multiplied by u^(1 / a). Logarithms, since that is often below what a
    float can be.

    The gradient is the implicit one, dg/da = -(dF/da) / (dF/dg), F the distribution function: as g
    moves where its quantile stays (arXiv 1805.08498). Differentiable once.

    ``LogGamma.apply(shapes, noise)``: shapes above 0, fp32 or fp64; noise of :func:`gamma_noise`,
    [2 * TRIES + 1, *shapes], in their dtype and on their device -> what ``shapes`` is like.

    Source: Marsaglia and Tsang, ACM Transactions on Mathematical Software 26 (2000), 363-372.
    """

    @staticmethod
    def forward(ctx: Any, shapes: Tensor, noise: Tensor) -> Tensor:
        """Variates, and what the gradient needs."""
        normals, uniforms, boost = noise.split([TRIES, TRIES, 1])
        small = shapes < 1
        d = torch.where(small, shapes + 1, shapes) - 1 / 3
        root = 1 + normals / (9 * d).sqrt()
        log_v = 3 * root.clamp_min(torch.finfo(root.dtype).tiny).log()
        bound = normals.square() / 2 + d * (1 - root**3 + log_v)
        taken = (root > 0) & (uniforms.log() < bound)
        first = taken.int().argmax(0, keepdim=True)
        result = d.log() + log_v.gather(0, first)[0]
        result = result + torch.where(small, boost[0].log() / shapes, 0)
        ctx.save_for_backward(shapes, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Implicit gradients; far down F is g^a / Gamma(a + 1), so g = (u Gamma(a + 1))^(1 / a)."""
        shapes, log_variates = ctx.saved_tensors
        variates = log_variates.exp()
        slope = torch._standard_gamma_grad(shapes, variates) / variates
        lowest = (1 / shapes + shapes.digamma() - log_variates) / shapes
        return gradient * torch.where(log_variates < _LOWEST, lowest, slope), None


def dirichlet(concentration: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """A variate of each row's Dirichlet distribution over the operations that are left.

    Args:
        concentration: [E, O] above 0.
        noise: of :func:`gamma_noise`, [2 * TRIES + 1, E, O].
        left: bool [E, O], of each row at least one; the others are 0.

    Returns:
        [E, O], rows sum to 1; differentiable in ``concentration``, once.
    """
    log_variates = LogGamma.apply(concentration, noise)
    return log_variates.masked_fill(~left, -torch.inf).softmax(-1)


def divergence_from_even(concentration: Tensor, left: Tensor) -> Tensor:
    """KL(Dir(c) || Dir(1)) of each row: how far it is from weights that are all alike probable.

    With S the sum of the K entries of c that are left: log Gamma(S) - sum log Gamma(c) -
    log Gamma(K) + sum (c - 1) (psi(c) - psi(S)).

    Args:
        concentration: [E, O] above 0.
        left: bool [E, O], of each row at least one.

    Returns:
        [E].
    """
    kept = left.to(concentration.dtype)
    count, total = kept.sum(-1), (concentration * kept).sum(-1)
    moved = (concentration - 1) * (concentration.digamma() - total.digamma()[:, None])
    entries = (moved - concentration.lgamma()) * kept
    return total.lgamma() - count.lgamma() + entries.sum(-1)
