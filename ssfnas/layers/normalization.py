"""Batch normalization whose statistics can span several processes, or be left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssfnas.errors import RequestError
from ssfnas.ops.collectives import Grouped, merged_moments
from ssfnas.ops.differentiable_once import differentiable_once
from ssfnas.ops.torch_sums import per_channel


class _SynchronizedNormalization(torch.autograd.Function):
    """BatchNorm over the batches of all processes of a group.

    Local moments are merged in the order of ranks, so every process holds the same bits. The
    backward pass sums the two reductions of BatchNorm's gradient over the processes;
    weight and bias keep their local sums, since gradients are averaged over processes afterward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        local_count = x.numel() // x.shape[1]
        local_mean = wide.sum(axes) / max(local_count, 1)
        deviations = wide - per_channel(local_mean, x)
        mean, variance, count = merged_moments(
            local_mean, (deviations**2).sum(axes), local_count, group
        )
        if local_count <= 1 and count.item() <= 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, over all processes, "
                f"got input size {tuple(x.shape)} on this one"
            )
        rstd = (variance + eps).rsqrt()
        normalized = (wide - per_channel(mean, x)) * per_channel(rstd, x)
        y = normalized
        if weight is not None and bias is not None:
            y = y * per_channel(weight, x) + per_channel(bias, x)
        ctx.save_for_backward(x, weight, mean, rstd, count)
        ctx.group, ctx.axes = group, axes
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    @differentiable_once(
        "a BatchNorm over several processes",
        "compute the loss in one process, or after synchronize_batchnorm(net, None)",
    )
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd, count = ctx.saved_tensors
        wide = grad if grad.dtype == torch.float64 else grad.float()
        normalized = (x.to(wide.dtype) - per_channel(mean, x)) * per_channel(rstd, x)
        sum_grad = wide.sum(ctx.axes)
        sum_grad_normalized = (wide * normalized).sum(ctx.axes)
        grad_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([sum_grad, sum_grad_normalized])
            dist.all_reduce(sums, group=ctx.group)
            scale = rstd if weight is None else rstd * weight
            grad_x = wide - per_channel(sums[0] / count, x)
            grad_x = grad_x - normalized * per_channel(sums[1] / count, x)
            grad_x = (grad_x * per_channel(scale, x)).to(x.dtype)
        if weight is None:
            return grad_x, None, None, None, None
        affine = sum_grad_normalized.to(weight.dtype), sum_grad.to(weight.dtype)
        return grad_x, *affine, None, None


class _Synchronizable(Grouped, _BatchNorm):
    """BatchNorm that is PyTorch's, until :attr:`group` names the processes to synchronize with."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize [N, C, ...]; statistics in fp32, or fp64 for fp64 input.

        Raises:
            ValueError: a channel has a single value in training, over all processes of the group.
        """
        group = self.group
        if group is None or not self.training or dist.get_world_size(group) == 1:
            return super().forward(input)
        self._check_input_dim(input)
        y, mean, variance, count = _SynchronizedNormalization.apply(
            input, self.weight, self.bias, self.eps, group
        )
        if self.track_running_stats and self.running_mean is not None:
            self._update_running_statistics(mean, variance * (count / (count - 1)))
        return y

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            running.mul_(1 - momentum).add_(new.to(running.dtype), alpha=momentum)


class BatchNorm1d(_Synchronizable, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` whose statistics span the processes of ``.group`` where that is set.

    Differentiable any number of times where no group is set, and once with one.
    """


class BatchNorm2d(_Synchronizable, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics span the processes of ``.group`` where that is set.

    With a group, gradients are such that their *average* over the processes is the gradient of the
    mean of the processes' losses. Differentiable any number of times where no group is set, and
    once with one.
    """


class _BatchNormAct2d(BatchNorm2d):
    """timm's BatchNorm that is followed by dropout and an activation."""

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))  # type: ignore[operator]


_OURS: dict[type[nn.Module], type[_Synchronizable]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
}


def synchronize_batchnorm(net: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    """Make every BatchNorm of ``net`` normalize over the batches of all processes of ``group``.

    PyTorch's and timm's layers become ours in place: parameters, buffers and names stay, so
    optimizers and checkpoints do not notice. ``None`` ends the synchronization of our layers.

    Returns:
        ``net`` itself.

    Raises:
        RequestError: a kind of BatchNorm that cannot be synchronized.
    """
    for name, module in net.named_modules():
        if not isinstance(module, _BatchNorm) or isinstance(module, nn.SyncBatchNorm):
            continue
        if not isinstance(module, _Synchronizable):
            if group is None:
                continue
            kind = type(module)
            if kind in _OURS:
                module.__class__ = _OURS[kind]
            elif isinstance(module, nn.BatchNorm2d) and kind.__name__ == "BatchNormAct2d":
                module.__class__ = _BatchNormAct2d
            else:
                raise RequestError(
                    f"layer '{name}' is a {kind.__name__}, whose statistics cannot be shared "
                    "between processes: use nn.BatchNorm1d or nn.BatchNorm2d, or one process"
                )
        assert isinstance(module, _Synchronizable)
        module.group = group
    return net


@contextmanager
def frozen_statistics(*nets: nn.Module) -> Iterator[None]:
    """Leave running statistics and batch counts of all BatchNorms of ``nets`` as they are.

    In training mode batches are still normalized by their own statistics: for passes that must not
    be seen afterward (unrolled steps, Hessian-vector products, recomputation).
    """
    with ExitStack() as stack:
        for net in nets:
            for module in net.modules():
                if isinstance(module, _BatchNorm):
                    # _BatchNorm updates its buffers if and only if it tracks them, and in
                    # evaluation it uses them all the same.
                    stack.callback(
                        setattr, module, "track_running_stats", module.track_running_stats
                    )
                    module.track_running_stats = False
        yield
