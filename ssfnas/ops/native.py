"""Sums in C++ and CUDA C++ (csrc/), on raw memory: what is handed over is checked here.

Definitions: :mod:`ssfnas.ops.torch_sums`. Tensors that are not alike, and coefficients of another
shape or device, are a :class:`~ssfnas.errors.RequestError`; layouts are brought to that of the
first tensor, and coefficients to the dtype of sums. On CPUs results do not depend on the number of
threads, which is PyTorch's. On GPUs a call enqueues kernels on PyTorch's current stream and waits
for nothing.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.kernels.layout import Extent, accumulator, memory_format
from ssfnas.ops import torch_sums

try:
    # After torch, whose OpenMP it then shares: two would fight for the cores.
    from ssfnas import _C

    _WHY: str | None = None
except ImportError as error:
    _WHY = (
        "ssfnas._C is not built: install ssfnas again where there is a C++ compiler "
        f"(pip install -v says what it finds; {error})"
    )

# In the order of Dtype in csrc/primitives.h.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def unavailable() -> str | None:
    """Why native code cannot run in this process, or None if it can."""
    return _WHY


def instruction_set() -> str:
    """What native code runs with on this CPU: ``baseline``, ``avx2``, ``avx512`` or ``amx``.

    Only where :func:`unavailable` gives no reason.
    """
    return _C.instruction_set()


def unsupported(op: str, tensors: Sequence[Tensor]) -> str | None:
    """Why ``op`` cannot run on these tensors, or None if it can.

    Args:
        op: ``"mixed_sum"``, ``"mixed_norm_sum"``, ``"candidate_operations"``, ``"pointwise"``,
            ``"reduces"`` or ``"partial_channels"``.
        tensors: the tensors that are summed, or sources; one dtype, one device.
    """
    if _WHY is not None:
        return _WHY
    device, dtype = tensors[0].device, tensors[0].dtype
    if dtype not in DTYPES:
        return f"dtype {dtype} is none of {', '.join(str(known) for known in DTYPES)}"
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"native code takes tensors of CPUs and NVIDIA GPUs, not of '{device}'"
    if len(tensors) > _C.max_inputs > 0:
        return f"{len(tensors)} tensors are more than the {_C.max_inputs} that one kernel takes"
    return _why_not_on_gpu(device.index)


@functools.cache
def _why_not_on_gpu(index: int) -> str | None:
    built = _C.cuda_architectures.split()
    if not built:
        return "ssfnas._C was built without CUDA"
    if torch.version.hip is not None:
        return "native code is for NVIDIA GPUs"
    capability = torch.cuda.get_device_capability(index)
    if any(_runs_on(name, capability) for name in built):
        return None
    return (
        f"ssfnas._C was built for {', '.join(built)}, and the GPU has "
        f"{'.'.join(map(str, capability))}: name that in TORCH_CUDA_ARCH_LIST when installing"
    )


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for e.g. ``"sm_80"`` or ``"compute_90"`` (PTX) runs on a GPU."""
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
    if match is None:
        return False
    of = (int(match[2]), int(match[3]))
    if match[4]:
        # With a letter it is for that GPU alone.
        return of == capability
    # Machine code runs within a generation, PTX on whatever is newer.
    return of <= capability and (match[1] == "compute" or of[0] == capability[0])


def mixed_sum_forward(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """See :func:`ssfnas.ops.torch_sums.mixed_sum_forward`."""
    xs = _in_layout_of(xs[0], xs)
    first = xs[0]
    weights = coefficients(weights, first, (len(xs),))
    out = torch.empty_like(first)
    if out.numel() != 0:
        _C.mixed_sum_forward(
            *_place(first), addresses(xs), weights.data_ptr(), out.data_ptr(), out.numel()
        )
    return out


def mixed_sum_backward(
    grad: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    needs_x: Sequence[bool],
    needs_weights: bool,
) -> tuple[list[Tensor | None], Tensor | None]:
    """See :func:`ssfnas.ops.torch_sums.mixed_sum_backward`."""
    count, first = len(xs), xs[0]
    xs = _in_layout_of(first, xs) if needs_weights else []
    (grad,) = _in_layout_of(first, [grad])
    weights = coefficients(weights, grad, (count,))
    dxs = [torch.empty_like(grad) if needed else None for needed in needs_x]
    if len(dxs) != count:
        raise RequestError(f"mixed_sum: {len(dxs)} flags for {count} tensors")
    dweights = weights.new_zeros(count) if needs_weights else None
    if grad.numel() == 0 or not (needs_weights or any(needs_x)):
        return dxs, dweights
    partials = None
    if needs_weights and grad.is_cuda:
        size = _C.mixed_sum_partials(DTYPES[grad.dtype], grad.numel(), count)
        partials = torch.empty(size, dtype=weights.dtype, device=grad.device)
    _C.mixed_sum_backward(
        *_place(grad),
        grad.data_ptr(),
        addresses(xs),
        weights.data_ptr(),
        addresses(dxs),
        address(dweights),
        grad.numel(),
        address(partials),
    )
    return dxs, dweights


def norm_statistics(zs: Sequence[Tensor], normalize: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_sums.norm_statistics`; inputs that are not wanted are not read.

    A block's variance is computed around its own mean, and blocks are merged by the formula of
    Chan, Golub and LeVeque (1983).
    """
    zs = _in_layout_of(zs[0], zs)
    first, extent = zs[0], Extent.of(zs[0])
    mean = torch.empty(
        len(zs), extent.channels, dtype=accumulator(first.dtype), device=first.device
    )
    var = torch.empty_like(mean)
    if first.numel() == 0:
        # Of nothing, as PyTorch has it.
        for k, wanted in enumerate(normalize):
            mean[k], var[k] = (math.nan, math.nan) if wanted else (0, 1)
        return mean, var
    read = addresses([z if wanted else None for z, wanted in zip(zs, normalize, strict=True)])
    partials = _norm_partials(first, read, extent, 2 * len(zs))
    _C.norm_statistics(*_place(first), read, extent, *addresses([mean, var, partials]))
    return mean, var


def norm_sum_forward(
    zs: Sequence[Tensor], a: Tensor, b: Tensor, factors: Tensor | None = None
) -> Tensor:
    """See :func:`ssfnas.ops.torch_sums.norm_sum_forward`."""
    if factors is not None and not _takes_factors(zs[0]):
        return torch_sums.norm_sum_forward(zs, a, b, factors)
    zs = _in_layout_of(zs[0], zs)
    first, extent = zs[0], Extent.of(zs[0])
    rows = (len(zs), extent.channels)
    factors = _of_images(factors, first, len(zs))
    a = coefficients(a, first, rows)
    b = coefficients(b, first, rows[1:] if factors is None else rows)
    out = torch.empty_like(first)
    if out.numel() != 0:
        _C.norm_sum_forward(
            *_place(first),
            addresses(zs),
            extent,
            a.data_ptr(),
            b.data_ptr(),
            out.data_ptr(),
            address(factors),
            first.shape[0],
        )
    return out


def norm_sum_reduce(
    grad: Tensor,
    zs: Sequence[Tensor],
    mean: Tensor,
    rstd: Tensor,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`ssfnas.ops.torch_sums.norm_sum_reduce`."""
    if factors is not None and not _takes_factors(zs[0]):
        return torch_sums.norm_sum_reduce(grad, zs, mean, rstd, factors)
    grad, *zs = _in_layout_of(zs[0], [grad, *zs])
    first, extent = zs[0], Extent.of(zs[0])
    factors = _of_images(factors, first, len(zs))
    mean = coefficients(mean, first, (len(zs), extent.channels))
    rstd = coefficients(rstd, first, (len(zs), extent.channels))
    s1 = torch.zeros_like(mean)
    s0 = mean.new_zeros(extent.channels) if factors is None else torch.zeros_like(mean)
    if first.numel() != 0:
        partials = _norm_partials(first, addresses([grad, *zs, mean]), extent, len(zs) + 1)
        _C.norm_sum_reduce(
            *_place(first),
            grad.data_ptr(),
            addresses(zs),
            extent,
            mean.data_ptr(),
            rstd.data_ptr(),
            s0.data_ptr(),
            s1.data_ptr(),
            address(partials),
            address(factors),
            first.shape[0],
        )
    return s0, s1


def norm_sum_apply(
    grad: Tensor,
    zs: Sequence[Tensor],
    p: Tensor,
    q: Tensor,
    r: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """See :func:`ssfnas.ops.torch_sums.norm_sum_apply`."""
    grad, *zs = _in_layout_of(zs[0], [grad, *zs])
    first, extent = zs[0], Extent.of(zs[0])
    p, q, r = (coefficients(values, first, (len(zs), extent.channels)) for values in (p, q, r))
    dzs = [torch.empty_like(z) if needed else None for z, needed in zip(zs, needs, strict=True)]
    if first.numel() != 0 and any(needs):
        _C.norm_sum_apply(
            *_place(first),
            grad.data_ptr(),
            addresses(zs),
            extent,
            p.data_ptr(),
            q.data_ptr(),
            r.data_ptr(),
            addresses(dzs),
        )
    return dzs


def _takes_factors(x: Tensor) -> bool:
    """Whether the loops can tell images apart: on CPUs, where channels lie next to each other."""
    extent = Extent.of(x)
    return not x.is_cuda and extent.channels_inner and extent.channels > 1


def _of_images(factors: Tensor | None, like: Tensor, count: int) -> Tensor | None:
    """Factors of so many tensors' images, as raw memory wants them."""
    return None if factors is None else coefficients(factors, like, (count, like.shape[0]))


def _place(x: Tensor) -> tuple[int, int, int]:
    """Device, threads or stream, and dtype, as the native code wants them."""
    dtype = DTYPES[x.dtype]
    if x.is_cuda:
        return x.device.index, torch.cuda.current_stream(x.device).cuda_stream, dtype
    return -1, torch.get_num_threads(), dtype


def address(x: Tensor | None) -> int:
    """Where a tensor begins; 0 for none."""
    return 0 if x is None else x.data_ptr()


def addresses(xs: Sequence[Tensor | None]) -> list[int]:
    """Where each begins."""
    return [0 if x is None else x.data_ptr() for x in xs]


def _in_layout_of(first: Tensor, xs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, dense in the order of the first; raw memory is read, so this is no courtesy."""
    order, shape, dtype, device = memory_format(first), first.shape, first.dtype, first.device
    for x in xs:
        if x.shape != shape or x.dtype != dtype or x.device != device:
            raise RequestError(
                f"native code got {list(x.shape)} {x.dtype} on {x.device} beside {list(shape)} "
                f"{dtype} on {device}: all tensors have to be alike"
            )
    return [x.contiguous(memory_format=order) for x in xs]


def coefficients(values: Tensor, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Weights or coefficients, dense, in the dtype of sums, on the device of ``like``."""
    return _fitted(values, shape, accumulator(like.dtype), like.device)


def all_coefficients(
    several: Sequence[Tensor], like: Tensor, shapes: Iterable[tuple[int, ...]]
) -> list[Tensor]:
    """The same for several, of a shape each."""
    dtype, device = accumulator(like.dtype), like.device
    return [_fitted(v, shape, dtype, device) for v, shape in zip(several, shapes, strict=True)]


def _fitted(
    values: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    if values.shape != shape or values.device != device:
        raise RequestError(
            f"native code got coefficients {list(values.shape)} on {values.device}: "
            f"{list(shape)} on {device} fit"
        )
    if values.dtype != dtype or not values.is_contiguous():
        values = values.to(dtype).contiguous()
    # GPUs load 16 bytes at once, and decide by the tensors alone whether they can.
    return values.clone() if values.is_cuda and values.data_ptr() % 16 else values


def _norm_partials(like: Tensor, read: Sequence[int], extent: Extent, rows: int) -> Tensor | None:
    """Room for a GPU's sums over blocks: so many rows of channels for each block.

    ``read`` are the addresses that the call is going to be given: where they begin decides how many
    blocks there are.
    """
    if not like.is_cuda:
        return None
    size = _C.norm_partials(DTYPES[like.dtype], read, extent, rows)
    return torch.empty(size, dtype=accumulator(like.dtype), device=like.device)
