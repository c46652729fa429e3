"""Coefficients of normalized sums in C++ (csrc/cpu/norm_coefficients.cpp), on CPUs alone.

Definitions, and what the functions take: :mod:`ssfnas.ops.norm_coefficients`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.ops import native
from ssfnas.ops.native import address, coefficients


def enter_statistics(
    table: Tensor,
    start: int,
    mean: Tensor,
    var: Tensor,
    eps: float,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> None:
    """See :func:`ssfnas.ops.norm_coefficients.enter_statistics`."""
    kinds, rows, channels = table.shape
    count = mean.shape[0]
    if kinds != 5 or not 0 <= start <= rows - count:
        raise RequestError(f"native code got rows {start}.. of a table {list(table.shape)}")
    mean, var = (_rows(values, table, count) for values in (mean, var))
    gamma, beta = (None if v is None else _rows(v, table, count) for v in (gamma, beta))
    native._C.enter_statistics(
        native.DTYPES[table.dtype],
        (count, rows, channels),
        _table(table),
        start,
        mean.data_ptr(),
        var.data_ptr(),
        address(gamma),
        address(beta),
        eps,
    )


def node_coefficients(
    table: Tensor, rows: Tensor, weights: Tensor, places: Tensor, separate: bool = False
) -> tuple[Tensor, Tensor]:
    """See :func:`ssfnas.ops.norm_coefficients.node_coefficients`."""
    count, channels = rows.shape[0], table.shape[2]
    out = table.new_empty(3, count, channels)
    b = table.new_empty(count, channels) if separate else table.new_empty(channels)
    weights = coefficients(weights, table, tuple(weights.shape))
    native._C.node_coefficients(
        native.DTYPES[table.dtype],
        (count, table.shape[1], channels),
        _table(table),
        _places(rows),
        weights.data_ptr(),
        _places(places),
        separate,
        out.data_ptr(),
        b.data_ptr(),
    )
    return out, b


def gradient_coefficients(
    table: Tensor,
    rows: Tensor,
    a: Tensor,
    mean: Tensor,
    rstd: Tensor,
    s0: Tensor,
    s1: Tensor,
    count: int | Tensor,
) -> None:
    """See :func:`ssfnas.ops.norm_coefficients.gradient_coefficients`."""
    number = a.shape[0]
    a, mean, rstd, s1 = (_rows(values, table, number) for values in (a, mean, rstd, s1))
    s0 = coefficients(s0, table, tuple(s0.shape))
    native._C.gradient_coefficients(
        native.DTYPES[table.dtype],
        (number, *table.shape),
        _table(table),
        _places(rows),
        a.data_ptr(),
        mean.data_ptr(),
        rstd.data_ptr(),
        s0.data_ptr(),
        s0.dim() == 2,
        s1.data_ptr(),
        float(count),
    )


def _rows(values: Tensor, table: Tensor, count: int) -> Tensor:
    return coefficients(values, table, (count, table.shape[-1]))


def _table(table: Tensor) -> int:
    """Its address; it is written in place, so it has to be dense."""
    if not table.is_contiguous():
        raise RequestError("native code got a table of coefficients that is not contiguous")
    return table.data_ptr()


def _places(places: Tensor) -> int:
    if places.dtype != torch.int64 or not places.is_contiguous():
        raise RequestError(f"native code got places {places.dtype}: they are int64, contiguous")
    return places.data_ptr()
