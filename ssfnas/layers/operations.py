"""Candidate operations of the DARTS space, and the registry that further ones enter.

An operation maps [N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.errors import RequestError
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.registry import Registry
from ssfnas.seeding import seeded_draws

Builder = Callable[[int, int, bool], nn.Module]


@dataclass(frozen=True)
class Operation:
    """How a named operation is built.

    Attributes:
        build: ``(channels, stride, affine)`` -> module; ``affine`` says whether its BatchNorms have
            weights.
        pool: it has no BatchNorm of its own, so in the search, where operations compete, an
            affine-free one follows; in a derived network none does.
        trusted: it keeps the contract of shapes by construction, and is not tried out.
    """

    build: Builder
    pool: bool = False
    trusted: bool = False


class Operations(Registry[Operation]):
    """The registry of candidate operations."""

    def register(self, name: str, *, pool: bool = False) -> Callable[[Builder], Builder]:  # type: ignore[override]
        """Enter a function ``(channels, stride, affine) -> nn.Module`` as the operation ``name``.

        The module maps [N, channels, H, W] to [N, channels, ceil(H / stride), ceil(W / stride)],
        stride 1 or 2; this is tried when a network first uses it. From then on the name works
        everywhere: in searches (``--operations``), genotypes, and derived networks.

        Args:
            name: how genotypes call it.
            pool: the module has no BatchNorm and no weights; the search appends a BatchNorm.

        Raises:
            RequestError: the name is taken, or is not a word.
        """
        if not name or not name.isprintable() or name != name.strip():
            raise RequestError(
                f"operation {name!r}: a name is printable, not empty, without margins"
            )

        def enter(build: Builder) -> Builder:
            self.add(name, Operation(build, pool))
            return build

        return enter


OPERATIONS = Operations("operation")
register_operation = OPERATIONS.register


def check_operations(names: tuple[str, ...]) -> None:
    """Accept a list of candidates, or say what is wrong with it.

    Raises:
        RequestError: it is empty or has nothing that a genotype could keep, names something twice,
            or names what is not registered.
    """
    if not names:
        raise RequestError(f"no operations: give some of {', '.join(OPERATIONS)}")
    if all(name == "none" for name in names):
        raise RequestError(
            "no operation besides 'none': a genotype needs others to keep, some of "
            f"{', '.join(name for name in OPERATIONS if name != 'none')}"
        )
    for position, name in enumerate(names):
        OPERATIONS.get(name)
        if name in names[:position]:
            raise RequestError(f"operation '{name}' is listed twice: once is enough")


def make_operation(name: str, channels: int, stride: int, *, searching: bool) -> nn.Module:
    """The operation's module for one edge.

    Args:
        name: a registered operation.
        channels: of input and output.
        stride: 1, or 2 on the edges from a reduction cell's inputs.
        searching: BatchNorms have no weights, and pools are followed by one. Otherwise BatchNorms
            have weights, and pools have none.

    Raises:
        RequestError: an unknown name, or a registered operation that cannot be built, raises, or
            breaks the contract of shapes.
    """
    operation = OPERATIONS.get(name)
    if operation.trusted:
        module = operation.build(channels, stride, not searching)
    else:
        _try_out(name, operation)
        module = _built(name, operation, channels, stride, not searching)
    if operation.pool and searching:
        return nn.Sequential(module, BatchNorm2d(channels, affine=False))
    return module


def _built(name: str, operation: Operation, channels: int, stride: int, affine: bool) -> nn.Module:
    try:
        module = operation.build(channels, stride, affine)
    except Exception as error:
        raise RequestError(
            f"operation '{name}' cannot be built with channels={channels}, stride={stride}, "
            f"affine={affine} ({_brief(error)}): its function has to take (channels, stride, "
            "affine) and return an nn.Module"
        ) from error
    if not isinstance(module, nn.Module):
        raise RequestError(
            f"operation '{name}' gives a {type(module).__name__}: its function has to "
            "return an nn.Module"
        )
    return module


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@functools.cache
def _try_out(name: str, operation: Operation) -> None:
    channels, size = 8, 9
    # What this draws must not shift the draws of the network that is being built.
    with seeded_draws(0), torch.device("cpu"), torch.no_grad():
        for stride in (1, 2):
            module = _built(name, operation, channels, stride, True)
            wanted = (2, channels, -(-size // stride), -(-size // stride))
            try:
                output = module.eval()(torch.zeros(2, channels, size, size))
            except Exception as error:
                raise RequestError(
                    f"operation '{name}' with stride {stride} fails on an input of (2, {channels}, "
                    f"{size}, {size}) ({_brief(error)}): it has to give {wanted}"
                ) from error
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            if found != wanted:
                raise RequestError(
                    f"operation '{name}' with stride {stride} maps (2, {channels}, {size}, {size}) "
                    f"to {found}: it has to be {wanted}"
                )


class Zero(nn.Module):
    """``none``: nothing passes."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the output's shape."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class MaxPool(nn.MaxPool2d):
    """3x3 maximum, padding 1."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride=stride, padding=1)


class AvgPool(nn.AvgPool2d):
    """3x3 average over the pixels inside the image."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride=stride, padding=1, count_include_pad=False)


class ReLUConvBN(nn.Sequential):
    """ReLU, 1x1 convolution, BatchNorm."""

    def __init__(self, in_channels: int, channels: int, affine: bool) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            BatchNorm2d(channels, affine=affine),
        )


class FactorizedReduce(nn.Module):
    """Half the resolution without losing pixels: two 1x1 convolutions of every other one.

    [N, in_channels, H, W] -> [N, channels, ceil(H / 2), ceil(W / 2)]. An odd side gets a row or
    column of zeros first, at its end.

    Raises:
        RequestError: fewer than two output channels.
    """

    def __init__(self, in_channels: int, channels: int, affine: bool) -> None:
        super().__init__()
        if channels < 2:
            raise RequestError(f"a factorized reduce needs at least 2 channels, not {channels}")
        second = channels // 2
        self.even = nn.Conv2d(in_channels, channels - second, 1, bias=False)
        self.odd = nn.Conv2d(in_channels, second, 1, bias=False)
        self.norm = BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU, both convolutions, concatenation, BatchNorm."""
        x = F.relu(x)
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        # Not slices, whose gradients would come back in NCHW.
        shifted = F.pad(x, (-1, 0, -1, 0))
        halves = torch.cat([self.even(_every_other(x)), self.odd(_every_other(shifted))], dim=1)
        return self.norm(halves)


def _every_other(x: Tensor) -> Tensor:
    """Every other pixel each way, for a convolution of stride 1 in place of one of stride 2.

    PyTorch 2.11 writes beyond its memory in the backward pass of the latter on CPUs (1x1,
    channels_last, fewer than 8 output channels, 56 pixels or more).
    """
    return F.avg_pool2d(x, 1, stride=2)


def _depthwise_separable(
    channels: int, kernel: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(
            channels,
            channels,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=channels,
            bias=False,
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        BatchNorm2d(channels, affine=affine),
    ]


class SepConv(nn.Sequential):
    """(ReLU, depthwise, 1x1, BatchNorm) twice, the stride in the first."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(
            *_depthwise_separable(channels, kernel, stride, 1, affine),
            *_depthwise_separable(channels, kernel, 1, 1, affine),
        )


class DilConv(nn.Sequential):
    """ReLU, depthwise with dilation 2, 1x1, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(*_depthwise_separable(channels, kernel, stride, 2, affine))


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


_BUILT_IN: dict[str, Builder] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": lambda channels, stride, affine: MaxPool(stride),
    "avg_pool_3x3": lambda channels, stride, affine: AvgPool(stride),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda channels, stride, affine: SepConv(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: SepConv(channels, 5, stride, affine),
    "dil_conv_3x3": lambda channels, stride, affine: DilConv(channels, 3, stride, affine),
    "dil_conv_5x5": lambda channels, stride, affine: DilConv(channels, 5, stride, affine),
}
for _name, _build in _BUILT_IN.items():
    OPERATIONS.add(_name, Operation(_build, pool=_name.endswith("pool_3x3"), trusted=True))
