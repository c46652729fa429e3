"""Bilevel optimization: one update of the alphas, then one of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ssfnas.runtime.updates import Terms, Updater

FINITE_DIFFERENCE = 0.01


@contextmanager
def _without_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let autograd compute nothing for these parameters."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, needed in zip(parameters, before, strict=True):
            parameter.requires_grad_(needed)


class Hooks(Protocol):
    """What a search strategy does about a bilevel step."""

    @property
    def weights_first(self) -> bool:
        """Whether the weights are updated before the alphas."""

    @property
    def wants_weight_gradients(self) -> bool:
        """Whether an update of the alphas finds the weights' gradients too."""

    def in_phase(self, phase: str) -> AbstractContextManager[None]:
        """What losses are computed in: of the ``"alpha"`` or of the ``"weight"`` step."""

    def after_alpha_step(self, gradients: Sequence[Tensor | None]) -> None:
        """After an update of the alphas; see ``wants_weight_gradients``."""

    def after_weight_step(self, gradients: Sequence[Tensor | None]) -> None:
        """With the gradients of the weights, before they are updated."""


def _detached(terms: Terms) -> Terms:
    return {name: value.detach() for name, value in terms.items()}


class BilevelOptimizer:
    """Alternating updates of architecture parameters and weights (DARTS, arXiv 1806.09055).

    The alphas descend the loss on one half of the data, the weights on the other. ``order`` 1 takes
    the weights as they are; ``order`` 2 takes the gradient through one step of the weights, with
    the Hessian-vector product by central differences.

    The forward pass of a first-order alpha update moves BatchNorm's running statistics, as in the
    usual code; those of the unrolled passes of the second order do not.

    Args:
        weights: SGD over all weights, projector included.
        alphas: Adam over the architecture parameters, disjoint from the weights. Parameters
            without part in a loss have zero gradients in both (``decays_unused``), which order 2
            needs. Both or none are ``capturable``, and then fused.
        loss: batch -> scalar terms; ``"loss"`` is what is minimized.
        regularizer: () -> scalar terms; its ``"loss"`` is added for the alphas only.
        hooks: of a search strategy: the phase of each loss, the order of the updates, and what
            comes after them; None: there are none.
        order: 1 or 2.
        frozen: context in which forward passes leave running statistics alone.
    """

    def __init__(
        self,
        weights: Updater,
        alphas: Updater,
        *,
        loss: Callable[[Any], Terms],
        regularizer: Callable[[], Terms] | None = None,
        hooks: Hooks | None = None,
        order: int = 1,
        frozen: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if order not in (1, 2):
            raise ValueError(f"order is {order}: it is 1 or 2")
        updaters = (weights, alphas)
        if order == 2 and any(updater.scaler is not None for updater in updaters):
            raise ValueError("order 2 takes differences of gradients, for which fp16 is too coarse")
        if weights.capturable != alphas.capturable:
            raise ValueError("one update looks at numbers on the host, and the other does not")
        if weights.capturable and order == 2:
            raise ValueError("order 2 looks at numbers on the host")
        if weights.capturable and not all(u.optimizer.defaults.get("fused") for u in updaters):
            raise ValueError("a capturable step leaves updates out, which fused optimizers can")
        if {id(p) for p in weights.parameters} & {id(p) for p in alphas.parameters}:
            raise ValueError("a parameter is both a weight and an alpha")
        self.weights, self.alphas = weights, alphas
        self.loss, self.regularizer = loss, regularizer
        self.hooks, self.order, self.frozen = hooks, order, frozen

    def step(self, alpha_batch: Any | None, weight_batch: Any) -> Terms:
        """Update the alphas on ``alpha_batch``, then the weights on ``weight_batch``.

        Without an ``alpha_batch`` the alphas stay as they are, and so does their optimizer.

        Returns:
            Detached scalars: the terms of both losses, as ``alpha/...`` and ``weight/...``.

        Raises:
            NumericalError: a term is NaN or infinite; names it. That update was not done. Not
                raised by a capturable step, which does not do that update either.
        """
        weights_first = self.hooks is not None and self.hooks.weights_first
        weight_terms = self.weight_step(weight_batch) if weights_first else {}
        alpha_terms = {} if alpha_batch is None else self.alpha_step(alpha_batch, weight_batch)
        if not weights_first:
            weight_terms = self.weight_step(weight_batch)
        return {
            **{f"alpha/{name}": value for name, value in alpha_terms.items()},
            **{f"weight/{name}": value for name, value in weight_terms.items()},
        }

    def alpha_step(self, alpha_batch: Any, weight_batch: Any = None) -> Terms:
        """One update of the alphas.

        No gradient of a weight is computed in first order unless the hooks want them.
        """
        gradients: Sequence[Tensor | None]
        of_weights: Sequence[Tensor | None] = ()
        if self.order == 2:
            terms, gradients = self._unrolled(alpha_batch, weight_batch)
        elif self.hooks is not None and self.hooks.wants_weight_gradients:
            terms, total = self._alpha_loss(self._loss(alpha_batch, "alpha"))
            both = [*self.alphas.parameters, *self.weights.parameters]
            found = self.alphas.gradients(total, both)
            count = len(self.alphas.parameters)
            gradients, of_weights = found[:count], found[count:]
        else:
            with _without_gradients(self.weights.parameters):
                terms, total = self._alpha_loss(self._loss(alpha_batch, "alpha"))
                gradients = self.alphas.gradients(total)
        self.alphas.apply(gradients, terms)
        if self.hooks is not None:
            self.hooks.after_alpha_step(of_weights)
        return terms

    def weight_step(self, batch: Any) -> Terms:
        """One update of the weights; no gradient of an alpha is computed."""
        with _without_gradients(self.alphas.parameters):
            losses = self._loss(batch, "weight")
            terms = _detached(losses)
            self.weights.check(terms, "weight")
            gradients = self.weights.gradients(losses["loss"])
        if self.hooks is not None:
            self.hooks.after_weight_step(gradients)
        self.weights.apply(gradients, terms)
        return terms

    def _loss(self, batch: Any, phase: str) -> Terms:
        with nullcontext() if self.hooks is None else self.hooks.in_phase(phase):
            return self.loss(batch)

    def _alpha_loss(self, terms: Terms) -> tuple[Terms, Tensor]:
        """Terms to report, and the task loss with the regularizer's added."""
        task = terms["loss"]
        extra = {} if self.regularizer is None else self.regularizer()
        total = task + extra["loss"] if "loss" in extra else task
        reported = {"loss": total, "task": task}
        reported |= {name: v for name, v in (terms | extra).items() if name != "loss"}
        detached = _detached(reported)
        self.alphas.check(detached, "alpha")
        return detached, total

    def _unrolled(self, alpha_batch: Any, weight_batch: Any) -> tuple[Terms, list[Tensor]]:
        """Gradient of L_alpha(w'(alpha), alpha), w' one SGD step from w.

        w' = w - eta (momentum * buffer + grad L_w + decay * w), without clipping. With
        v = grad_w' L_alpha(w'), the mixed second derivative times v is the central difference of
        grad_alpha L_w at w +- R v, R = 0.01 / ||v|| (arXiv 1806.09055, equation 7).
        """
        weights, alphas = self.weights.parameters, self.alphas.parameters
        group = self.weights.optimizer.param_groups[0]
        eta, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        saved = [weight.detach().clone() for weight in weights]
        try:
            with self.frozen():
                with _without_gradients(alphas):
                    inner = self.weights.gradients(self._loss(weight_batch, "weight")["loss"])
                with torch.no_grad():
                    for weight, gradient in zip(weights, inner, strict=True):
                        if gradient is None or weight in self.weights.frozen:
                            continue  # its step does not move it, either
                        direction = gradient + decay * weight
                        buffer = self.weights.optimizer.state[weight].get("momentum_buffer")
                        if buffer is not None:
                            direction = direction + momentum * buffer
                        weight.sub_(eta * direction)
                terms, total = self._alpha_loss(self._loss(alpha_batch, "alpha"))
                outer = cast(list[Tensor], self.alphas.gradients(total, [*alphas, *weights]))
                direct, v = outer[: len(alphas)], outer[len(alphas) :]
                norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in v]))
                if not bool(norm > 0):
                    return terms, direct
                radius = FINITE_DIFFERENCE / norm
                shifted = []
                for sign in (1, -1):
                    with torch.no_grad():
                        for weight, start, part in zip(weights, saved, v, strict=True):
                            weight.copy_(start + sign * radius * part)
                    with _without_gradients(weights):
                        loss = self._loss(weight_batch, "weight")["loss"]
                        shifted.append(cast(list[Tensor], self.alphas.gradients(loss)))
        finally:
            # Adding the step back would not give the same bits.
            with torch.no_grad():
                for weight, start in zip(weights, saved, strict=True):
                    weight.copy_(start)
        gradients = [
            d - eta * (plus - minus) / (2 * radius)
            for d, plus, minus in zip(direct, *shifted, strict=True)
        ]
        return terms, gradients

    def state_dict(self) -> dict[str, Any]:
        """Both optimizers and scalers."""
        weights, alphas = self.weights.state_dict(), self.alphas.state_dict()
        return {
            "weight_optimizer": weights["optimizer"],
            "alpha_optimizer": alphas["optimizer"],
            "scalers": [weights["scaler"], alphas["scaler"]],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        names = ("weight_optimizer", "alpha_optimizer")
        updaters = (self.weights, self.alphas)
        for updater, name, scaler in zip(updaters, names, state["scalers"], strict=True):
            updater.load_state_dict({"optimizer": state[name], "scaler": scaler})
