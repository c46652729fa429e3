"""Coefficients of normalized sums, as rows of tables: from statistics, and from a node's gradient.

With the biased statistics mean_k, var_k of input k over the M values of a channel, rstd_k =
1 / sqrt(var_k + eps), xhat_k = (z_k - mean_k) rstd_k (mean 0 and rstd 1 for inputs left as they
are), and a BatchNorm's weight gamma_k and bias beta_k (1 and 0 where it has none), a weighted sum
of normalized inputs is, channel by channel,

    out = sum_k w_k f_kn (gamma_k xhat_k + beta_k) = sum_k f_kn (a_k z_k + b_k)
    scale_k = gamma_k rstd_k,   shift_k = beta_k - mean_k scale_k
    a_k = w_k scale_k,   b_k = w_k shift_k

where f_kn is 1, or the factor of path k for image n (drop-path). Its gradients are, with g that of
``out`` and, over M values, S0_k = sum f_kn g and S1_k = sum f_kn g xhat_k,

    dgamma_k = w_k S1_k,   dbeta_k = w_k S0_k
    dw_k = sum over channels of gamma_k S1_k + beta_k S0_k
    dz_k = a_k (f_kn g - S0_k / M - xhat_k S1_k / M) = p_k f_kn g + q_k z_k + r_k
    p_k = a_k,   q_k = -a_k rstd_k S1_k / M,   r_k = -a_k S0_k / M - q_k mean_k

where q and r are there for inputs whose statistics are their own. A cell has hundreds of rows of
such factors. They stand in two tables, so that whoever needs the rows of several candidates finds
them side by side:

    statistics [5, R, C]: mean, var, rstd, scale, shift
    gradients [T, C]: rows p, q, r, wherever the caller wants each

These are the definitions, in plain PyTorch, and what runs on CPUs; a GPU makes each in one
launch (:mod:`ssfnas.kernels.norm_coefficients`).
"""

from __future__ import annotations

import torch
from torch import Tensor

MEAN, VAR, RSTD, SCALE, SHIFT = range(5)


def enter_statistics(
    table: Tensor,
    start: int,
    mean: Tensor,
    var: Tensor,
    eps: float,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> None:
    """Write K rows of a table of statistics, from row ``start`` on.

    Args:
        table: [5, R, C], float32 or float64; written in place.
        start: the first row.
        mean, var: [K, C].
        eps: added to the variance.
        gamma, beta: weights and biases of the BatchNorms, [K, C], or both None.
    """
    rows = slice(start, start + len(mean))
    table[MEAN, rows] = mean
    table[VAR, rows] = var
    rstd = torch.rsqrt(var + eps)
    table[RSTD, rows] = rstd
    scale = rstd if gamma is None else gamma * rstd
    table[SCALE, rows] = scale
    table[SHIFT, rows] = -mean * scale if beta is None else beta - mean * scale


def node_coefficients(
    table: Tensor, rows: Tensor, weights: Tensor, places: Tensor, separate: bool = False
) -> tuple[Tensor, Tensor]:
    """What a node's sum out = sum_k a_k z_k + b and its gradient need.

    Args:
        table: statistics [5, R, C].
        rows: int64 [K], of the node's candidates.
        weights: [W], of the table's dtype.
        places: int64 [K], where each candidate's weight is.
        separate: whether each candidate's part of b is wanted.

    Returns:
        mean, rstd and a = w scale, [3, K, C], and b = sum_k w_k shift_k, [C], or its K parts,
        [K, C].
    """
    chosen = weights.index_select(0, places)[:, None]
    mean, rstd, scale, shift = (
        table[kind].index_select(0, rows) for kind in (MEAN, RSTD, SCALE, SHIFT)
    )
    b = chosen * shift
    return torch.stack([mean, rstd, chosen * scale]), b if separate else b.sum(0)


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
    """Enter p, q and r of dz = p g + q z + r for out = a (z - mean) + ..., z with its statistics.

    Args:
        table: gradients [T, C]; p overwrites its row, q and r are added to theirs.
        rows: int64 [3, K], of p, q and r; no row twice.
        a, mean, rstd: [K, C].
        s0: sum g, [C] or [K, C].
        s1: sum g (z - mean) rstd, [K, C].
        count: values a channel, that the sums go over.
    """
    slope = a * rstd * (s1 / count)
    table.index_copy_(0, rows[0], a)
    table.index_add_(0, rows[1], -slope)
    table.index_add_(0, rows[2], slope * mean - a * (s0 / count))
