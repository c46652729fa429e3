"""The dominant eigenvalue of a Hessian, by exact Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ssfnas.errors import NumericalError


def hessian_vector_product(
    gradients: Sequence[Tensor], parameters: Sequence[nn.Parameter], vector: Tensor
) -> Tensor:
    """H v by double backward.

    Args:
        gradients: of a scalar in ``parameters``, taken with ``create_graph=True``.
        parameters: P numbers in all.
        vector: [P].

    Returns:
        [P].
    """
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    parts = torch.autograd.grad(
        flat @ vector, parameters, retain_graph=True, materialize_grads=True
    )
    return torch.cat([part.reshape(-1) for part in parts])


def hessian_top_eigenvalue(
    loss: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    *,
    iterations: int = 30,
    tolerance: float = 1e-4,
    generator: torch.Generator | None = None,
) -> float:
    """The eigenvalue of largest magnitude of the Hessian of ``loss``, by Lanczos' method.

    The sharpness that tells when a search begins to fail (Zela et al., arXiv 1909.09656, who use
    the dominant eigenvalue too). Products with the Hessian are exact, by double backward: finite
    differences are far off where a network has kinks. The basis is kept orthogonal by a full second
    pass, which is cheap for as few parameters as alphas are.

    Args:
        loss: () -> scalar, made of operations that are differentiable twice.
        parameters: what the Hessian is taken in; others count as constants.
        iterations: most products with the Hessian.
        tolerance: relative change of the eigenvalue between two iterations at which to stop.
        generator: draws the first vector, on the CPU.

    Returns:
        The eigenvalue, with its sign.

    Raises:
        NumericalError: the loss or a product is not finite.
    """
    parameters = list(parameters)
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
    used = [(g, p) for g, p in zip(gradients, parameters, strict=True) if g is not None]
    if not any(gradient.requires_grad for gradient, _ in used):
        return 0.0
    kept, variables = zip(*used, strict=True)
    size = sum(variable.numel() for variable in variables)
    first = torch.randn(size, generator=generator, dtype=torch.float64).to(variables[0])
    basis: list[Tensor] = [first / first.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    eigenvalue = float("nan")
    for _ in range(min(iterations, size)):
        product = hessian_vector_product(kept, variables, basis[-1])
        if not bool(torch.isfinite(product).all()):
            raise NumericalError("a Hessian-vector product is not finite")
        diagonal.append(float(product @ basis[-1]))
        q = torch.stack(basis, dim=1)
        for _ in range(2):
            product = product - q @ (q.T @ product)
        before = eigenvalue
        eigenvalue = _dominant(diagonal, beside)
        length = float(product.norm())
        scale = max(abs(eigenvalue), 1e-30)
        if abs(eigenvalue - before) <= tolerance * scale or length <= 1e-12 * scale:
            break
        beside.append(length)
        basis.append(product / length)
    return eigenvalue


def _dominant(diagonal: Sequence[float], beside: Sequence[float]) -> float:
    """Of the symmetric tridiagonal matrix, the eigenvalue of largest magnitude."""
    upper = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + upper + upper.T
    values = torch.linalg.eigvalsh(matrix)
    return float(values[values.abs().argmax()])
