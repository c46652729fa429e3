"""Bilevel optimisation: one update of the alphas, then one of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ssfnas.errors import NumericalError

Terms = dict[str, Tensor]
FINITE_DIFFERENCE = 0.01


@contextmanager
def _without_gradients(parameters: Sequence[nn.Parameter]) -> Any:
    """Let autograd compute nothing for these parameters."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, needed in zip(parameters, before, strict=True):
            parameter.requires_grad_(needed)


class BilevelOptimizer:
    """Alternating updates of architecture parameters and weights (DARTS, arXiv 1806.09055).

    The alphas descend the loss on one half of the data, the weights on the other. ``order`` 1 takes
    the weights as they are; ``order`` 2 takes the gradient through one step of the weights, with
    the Hessian-vector product by central differences.

    The forward pass of a first-order alpha update moves BatchNorm's running statistics, as in the
    usual code; those of the unrolled passes of the second order do not.

    Args:
        weights: all that the weight optimiser updates, projector included.
        alphas: architecture parameters, disjoint from the weights.
        weight_optimizer: SGD over ``weights``.
        alpha_optimizer: Adam over ``alphas``.
        loss: batch -> scalar terms; ``"loss"`` is what is minimised.
        regulariser: () -> scalar terms; its ``"loss"`` is added for the alphas only.
        order: 1 or 2.
        clip: largest norm of the weights' gradient; 0: any.
        average: replaces a list of gradients by their means over the processes, in place; called
            once for each gradient that is taken.
        scaler: scales losses for fp16; the alphas get one of their own with the same settings.
        frozen: context in which forward passes leave running statistics alone.
        deferred: nothing waits for the device, as a step that is captured in a CUDA graph must not:
            where a term is not finite, the update is left out on the device and the caller finds
            out from the terms. Both optimisers have to be ``fused``, and ``order`` 1.
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        alphas: Sequence[nn.Parameter],
        weight_optimizer: torch.optim.SGD,
        alpha_optimizer: torch.optim.Optimizer,
        *,
        loss: Callable[[Any], Terms],
        regulariser: Callable[[], Terms] | None = None,
        order: int = 1,
        clip: float = 0.0,
        average: Callable[[Sequence[Tensor]], None] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        frozen: Callable[[], AbstractContextManager[Any]] = nullcontext,
        deferred: bool = False,
    ) -> None:
        if order not in (1, 2):
            raise ValueError(f"order is {order}: it is 1 or 2")
        if order == 2 and scaler is not None:
            raise ValueError("order 2 takes differences of gradients, for which fp16 is too coarse")
        optimizers = (weight_optimizer, alpha_optimizer)
        if deferred and (order == 2 or scaler is not None):
            raise ValueError("order 2 and scaled losses look at numbers on the host")
        if deferred and not all(optimizer.defaults.get("fused") for optimizer in optimizers):
            raise ValueError("a deferred step leaves updates out, which fused optimisers can")
        if {id(p) for p in weights} & {id(p) for p in alphas}:
            raise ValueError("a parameter is both a weight and an alpha")
        self.weights, self.alphas = list(weights), list(alphas)
        self.weight_optimizer, self.alpha_optimizer = weight_optimizer, alpha_optimizer
        self.loss, self.regulariser = loss, regulariser
        self.order, self.clip, self.average, self.frozen = order, clip, average, frozen
        self.deferred = deferred
        self.weight_scaler = scaler
        self.alpha_scaler = None if scaler is None else torch.amp.GradScaler(scaler._device)

    def step(self, alpha_batch: Any, weight_batch: Any) -> Terms:
        """Update the alphas on ``alpha_batch``, then the weights on ``weight_batch``.

        Returns:
            Detached scalars: the terms of both losses, as ``alpha/...`` and ``weight/...``.

        Raises:
            NumericalError: a term is NaN or infinite; names it. That update was not done. Not
                raised by a deferred step, which does not do that update either.
        """
        alpha_terms = self.alpha_step(alpha_batch, weight_batch)
        weight_terms = self.weight_step(weight_batch)
        return {
            **{f"alpha/{name}": value for name, value in alpha_terms.items()},
            **{f"weight/{name}": value for name, value in weight_terms.items()},
        }

    def alpha_step(self, alpha_batch: Any, weight_batch: Any = None) -> Terms:
        """One update of the alphas; no gradient of a weight is computed in first order."""
        if self.order == 2:
            terms, gradients = self._unrolled(alpha_batch, weight_batch)
        else:
            with _without_gradients(self.weights):
                terms, total = self._alpha_loss(self.loss(alpha_batch))
                gradients = self._gradients(total, self.alphas, self.alpha_scaler)
        self._apply(self.alpha_optimizer, self.alphas, gradients, terms, self.alpha_scaler)
        return terms

    def weight_step(self, batch: Any) -> Terms:
        """One update of the weights; no gradient of an alpha is computed."""
        with _without_gradients(self.alphas):
            terms = self.loss(batch)
            total = terms["loss"]
            terms = self._detached(terms, "weight")
            gradients = self._gradients(total, self.weights, self.weight_scaler)
        self._apply(
            self.weight_optimizer, self.weights, gradients, terms, self.weight_scaler, self.clip
        )
        return terms

    def _alpha_loss(self, terms: Terms) -> tuple[Terms, Tensor]:
        """Terms to report, and the task loss with the regulariser's added."""
        total = terms["loss"]
        named = {name: value for name, value in terms.items() if name != "loss"}
        if self.regulariser is not None:
            extra = self.regulariser()
            total = total + extra["loss"]
            named |= {name: value for name, value in extra.items() if name != "loss"}
        return self._detached({"loss": total, "task": terms["loss"], **named}, "alpha"), total

    def _detached(self, terms: Terms, whose: str) -> Terms:
        """The terms to report; unless deferred, once they are known to be finite."""
        detached = {name: value.detach() for name, value in terms.items()}
        if not self.deferred:
            require_finite({f"{whose} term {name}": value for name, value in detached.items()})
        return detached

    def _gradients(
        self,
        total: Tensor,
        parameters: Sequence[nn.Parameter],
        scaler: torch.amp.GradScaler | None = None,
    ) -> list[Tensor]:
        """Averaged gradients, zeros where a parameter has no part in ``total``."""
        scaled = total if scaler is None else scaler.scale(total)
        found = torch.autograd.grad(scaled, parameters, allow_unused=True)
        gradients = [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, found, strict=True)
        ]
        if self.average is not None:
            self.average(gradients)
        return gradients

    def _apply(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        gradients: Sequence[Tensor],
        terms: Terms,
        scaler: torch.amp.GradScaler | None,
        clip: float = 0.0,
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # Fused optimisers go through memory, in which both have to lie alike.
            alike = gradient.stride() == parameter.stride()
            parameter.grad = gradient if alike else torch.empty_like(parameter).copy_(gradient)
        if scaler is not None:
            scaler.unscale_(optimizer)
        if clip > 0:
            nn.utils.clip_grad_norm_(parameters, clip)
        if self.deferred:
            # Where a GradScaler would say that gradients overflowed; a fused step heeds it.
            optimizer.found_inf = 1 - _finite(terms).float()  # type: ignore[attr-defined]
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def _unrolled(self, alpha_batch: Any, weight_batch: Any) -> tuple[Terms, list[Tensor]]:
        """Gradient of L_alpha(w'(alpha), alpha), w' one SGD step from w.

        w' = w - eta (momentum * buffer + grad L_w + decay * w), without clipping. With
        v = grad_w' L_alpha(w'), the mixed second derivative times v is the central difference of
        grad_alpha L_w at w +- R v, R = 0.01 / ||v|| (arXiv 1806.09055, equation 7).
        """
        group = self.weight_optimizer.param_groups[0]
        eta, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        saved = [weight.detach().clone() for weight in self.weights]
        try:
            with self.frozen():
                with _without_gradients(self.alphas):
                    inner = self._gradients(self.loss(weight_batch)["loss"], self.weights)
                with torch.no_grad():
                    for weight, gradient in zip(self.weights, inner, strict=True):
                        direction = gradient + decay * weight
                        buffer = self.weight_optimizer.state[weight].get("momentum_buffer")
                        if buffer is not None:
                            direction = direction + momentum * buffer
                        weight.sub_(eta * direction)
                terms, total = self._alpha_loss(self.loss(alpha_batch))
                outer = self._gradients(total, [*self.alphas, *self.weights])
                direct, v = outer[: len(self.alphas)], outer[len(self.alphas) :]
                norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in v]))
                if not bool(norm > 0):
                    return terms, direct
                radius = FINITE_DIFFERENCE / norm
                shifted = []
                for sign in (1, -1):
                    with torch.no_grad():
                        for weight, start, part in zip(self.weights, saved, v, strict=True):
                            weight.copy_(start + sign * radius * part)
                    with _without_gradients(self.weights):
                        loss = self.loss(weight_batch)["loss"]
                        shifted.append(self._gradients(loss, self.alphas))
        finally:
            # Adding the step back would not give the same bits.
            with torch.no_grad():
                for weight, start in zip(self.weights, saved, strict=True):
                    weight.copy_(start)
        gradients = [
            d - eta * (plus - minus) / (2 * radius)
            for d, plus, minus in zip(direct, *shifted, strict=True)
        ]
        return terms, gradients

    def state_dict(self) -> dict[str, Any]:
        """Both optimisers and scalers."""
        scalers = (self.weight_scaler, self.alpha_scaler)
        return {
            "weight_optimizer": _optimizer_state(self.weight_optimizer),
            "alpha_optimizer": _optimizer_state(self.alpha_optimizer),
            "scalers": [None if scaler is None else scaler.state_dict() for scaler in scalers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, be it of optimisers that are fused or not."""
        _load_optimizer(self.weight_optimizer, state["weight_optimizer"])
        _load_optimizer(self.alpha_optimizer, state["alpha_optimizer"])
        scalers = (self.weight_scaler, self.alpha_scaler)
        for scaler, saved in zip(scalers, state["scalers"], strict=True):
            if scaler is not None:
                scaler.load_state_dict(saved)


# How an optimiser computes, which the one that goes on decides.
_MANNERS = ("fused", "foreach", "capturable")


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state, learning rates as numbers."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state; a learning rate that is a tensor stays that tensor."""
    own = [dict(group) for group in optimizer.param_groups]
    groups = [
        {**saved, **{name: group[name] for name in _MANNERS if name in group}}
        for saved, group in zip(state["param_groups"], own, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for group, before in zip(optimizer.param_groups, own, strict=True):
        if isinstance(before["lr"], Tensor):
            before["lr"].fill_(group["lr"])
            group["lr"] = before["lr"]


def _finite(terms: Mapping[str, Tensor]) -> Tensor:
    """Whether all scalars are finite: a bool, on their device."""
    values = torch.stack([value.reshape(()).double() for value in terms.values()])
    return torch.isfinite(values).all()


def require_finite(terms: Mapping[str, Tensor]) -> None:
    """Refuse scalars that are NaN or infinite.

    Raises:
        NumericalError: names them.
    """
    if not terms or bool(_finite(terms)):
        return
    wrong = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
    raise NumericalError(f"{', '.join(wrong)} is not finite")
