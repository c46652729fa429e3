"""One optimizer's update: scaling, averaging over processes, clipping, finiteness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssfnas.errors import NumericalError
from ssfnas.runtime.distributed import World, average_gradients
from ssfnas.runtime.precision import make_scaler

Terms = dict[str, Tensor]
# How an optimizer computes, which the one that goes on decides.
_MANNERS = ("fused", "foreach", "capturable")


class Updater:
    """Updates parameters from gradients of a loss.

    Args:
        parameters: what is updated.
        optimizer: holds the same parameters.
        world: the processes whose gradients are averaged.
        precision: fp16 scales the loss.
        clip: largest norm of the gradient; 0: any.
        decays_unused: whether a parameter without part in the loss is updated as well, from a
            gradient of zeros: by its decay and momentum.
        capturable: nothing waits for the device, so that a CUDA graph can capture the update. Where
            a term is not finite, a ``fused`` optimizer leaves the update out on the device; the
            caller finds out from the terms, and must not keep what any other optimizer made of it.

    Attributes:
        frozen: parameters that stay as they are, by decay and momentum too.
        frozen_entries: those of other parameters: bool of the parameter's shape, by parameter.

    Raises:
        ValueError: capturable with losses that are scaled.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimizer: Optimizer,
        world: World,
        precision: str = "fp32",
        clip: float = 0.0,
        *,
        decays_unused: bool = False,
        capturable: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        self.optimizer = optimizer
        self.average = partial(average_gradients, world=world)
        self.scaler = make_scaler(precision, world.device)
        self.clip = clip
        self.decays_unused = decays_unused
        self.capturable = capturable
        self.frozen: frozenset[nn.Parameter] = frozenset()
        self.frozen_entries: Mapping[nn.Parameter, Tensor] = {}
        if capturable and self.scaler is not None:
            raise ValueError("scaled losses look at numbers on the host, which no graph can hold")

    def update(self, loss: Tensor, terms: Mapping[str, Tensor], whose: str) -> None:
        """One update from ``loss``, a scalar.

        Args:
            loss: what is minimized.
            terms: scalars that have to be finite, and are not if ``loss`` is not.
            whose: what comes before their names, for a message.

        Raises:
            NumericalError: see :meth:`check`. Nothing was updated.
        """
        self.check(terms, whose)
        self.apply(self.gradients(loss), terms)

    def check(self, terms: Mapping[str, Tensor], whose: str) -> None:
        """Refuse scalars that are NaN or infinite; a capturable update does not look.

        Raises:
            NumericalError: names them, after ``whose``.
        """
        if not self.capturable:
            require_finite({f"{whose}/{name}": value for name, value in terms.items()})

    def gradients(
        self, loss: Tensor, parameters: Sequence[nn.Parameter] | None = None
    ) -> list[Tensor | None]:
        """Averaged gradients of the scaled loss, in ``parameters`` or in those that are updated.

        None where a parameter has no part in the loss; zeros with ``decays_unused``.
        """
        parameters = self.parameters if parameters is None else parameters
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        asked = [parameter for parameter in parameters if parameter.requires_grad]
        found = iter(torch.autograd.grad(scaled, asked, allow_unused=True))
        gradients = [next(found) if parameter.requires_grad else None for parameter in parameters]
        if self.decays_unused:
            gradients = [
                torch.zeros_like(parameter)
                if gradient is None and parameter not in self.frozen
                else gradient
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ]
        # A parameter without a gradient has none on any process: all run the same graph.
        self.average(gradients)
        return gradients

    def apply(self, gradients: Sequence[Tensor | None], terms: Mapping[str, Tensor]) -> None:
        """One update from :meth:`gradients`.

        Args:
            gradients: of the parameters; may be changed.
            terms: scalars that were :meth:`check`-ed; a capturable update looks at them here.
        """
        taken: set[int] = set()
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if parameter in self.frozen:
                continue
            # Fused optimizers go through memory, in which both have to lie alike; and one tensor
            # may be the gradient of two parameters, which are clipped in place.
            if gradient is not None and (
                gradient.stride() != parameter.stride() or gradient.data_ptr() in taken
            ):
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
            if gradient is not None:
                taken.add(gradient.data_ptr())
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if self.capturable:
            # Where a GradScaler would say that gradients overflowed; a fused step heeds it.
            self.optimizer.found_inf = 1 - all_finite(terms).float()  # type: ignore[attr-defined]
        before = [(parameter, parameter.detach().clone()) for parameter in self.frozen_entries]
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(torch.where(self.frozen_entries[parameter], value, parameter))
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, its learning rates as numbers, and scaler."""
        state = self.optimizer.state_dict()
        groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
        return {
            "optimizer": {**state, "param_groups": groups},
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, be it of an optimizer that is fused or not.

        A learning rate that is a tensor stays that tensor.
        """
        own = [dict(group) for group in self.optimizer.param_groups]
        groups = [
            {**saved, **{name: group[name] for name in _MANNERS if name in group}}
            for saved, group in zip(state["optimizer"]["param_groups"], own, strict=True)
        ]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        for group, before in zip(self.optimizer.param_groups, own, strict=True):
            if isinstance(before["lr"], Tensor):
                before["lr"].fill_(group["lr"])
                group["lr"] = before["lr"]
        _start_momentum(self.optimizer)
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])


def sgd_updater(
    parameters: Iterable[nn.Parameter],
    world: World,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    precision: str,
    clip: float,
    decays_unused: bool = False,
    capturable: bool = False,
) -> Updater:
    """Updates by SGD, all parameters in one call where that can be; see :class:`Updater`.

    Args:
        parameters, world, precision, clip, decays_unused, capturable: of the updater.
        lr, momentum, weight_decay: of :class:`torch.optim.SGD`.
    """
    chosen = list(parameters)
    optimizer = torch.optim.SGD(
        chosen,
        lr=learning_rate(lr, world, capturable=capturable),
        momentum=momentum,
        weight_decay=weight_decay,
        fused=capturable or all(map(_is_fused_on_cpu, chosen)) or None,
    )
    _start_momentum(optimizer)
    return Updater(
        chosen,
        optimizer,
        world,
        precision,
        clip,
        decays_unused=decays_unused,
        capturable=capturable,
    )


def _is_fused_on_cpu(parameter: nn.Parameter) -> bool:
    """Whether PyTorch's fused SGD is right for it and faster: on a CPU, in float32 or float64.

    There it loses updates of bfloat16, and goes through memory as it lies.
    """
    return (
        parameter.device.type == "cpu"
        and parameter.dtype in (torch.float32, torch.float64)
        and any(
            parameter.is_contiguous(memory_format=order)
            for order in (torch.contiguous_format, torch.channels_last)
        )
    )


def _start_momentum(optimizer: Optimizer) -> None:
    """Give each parameter of a fused SGD a momentum, of zeros, laid as it is.

    A first step then does what it does without one. Left to itself, fused SGD takes memory as it
    comes where a first update is left out, and fails where a parameter has its first gradient late.
    """
    for group in optimizer.param_groups:
        if not (group.get("fused") and group.get("momentum")):
            continue
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            known = state.get("momentum_buffer")
            if known is None or known.stride() != parameter.stride():
                state["momentum_buffer"] = torch.zeros_like(parameter)
                if known is not None:
                    state["momentum_buffer"].copy_(known)


def learning_rate(rate: float, world: World, *, capturable: bool) -> float | Tensor:
    """``rate`` as an optimizer is given it: where a graph reads it, a tensor that can be filled."""
    return torch.tensor(rate, dtype=torch.float32, device=world.device) if capturable else rate


def all_finite(terms: Mapping[str, Tensor]) -> Tensor:
    """Whether all scalars are finite: a bool, on their device."""
    values = torch.stack([value.reshape(()).double() for value in terms.values()])
    return torch.isfinite(values).all()


def require_finite(terms: Mapping[str, Tensor]) -> None:
    """Refuse scalars that are NaN or infinite.

    Raises:
        NumericalError: names them.
    """
    if not terms or bool(all_finite(terms)):
        return
    *others, last = [name for name, value in terms.items() if not bool(torch.isfinite(value))]
    told = f"terms {', '.join(others)} and {last} are" if others else f"term {last} is"
    raise NumericalError(f"the {told} not finite")
