"""Coefficients of normalized sums, as rows of tables: from statistics, and from a node's gradient.

With the biased statistics mean_k, var_k of input k over the M values of a channel, rstd_k =
1 / sqrt(var_k + eps) and xhat_k = (z_k - mean_k) rstd_k (mean 0 and rstd 1 for inputs left as they
are), a weighted sum of normalized inputs is, channel by channel,

    out = sum_k w_k xhat_k = sum_k a_k z_k + b,   a_k = w_k rstd_k,   b = -sum_k a_k mean_k

and its gradients are, with g that of ``out``, S0 = sum g and S1_k = sum g xhat_k over M values,

    dw_k = sum over channels of S1_k
    dz_k = a_k (g - S0 / M - xhat_k S1_k / M) = p_k g + q_k z_k + r_k
    p_k = a_k,   q_k = -a_k rstd_k S1_k / M,   r_k = -a_k S0 / M - q_k mean_k

where q and r are there for inputs whose statistics are their own. A cell has hundreds of rows of
such factors. They stand in two tables, so that whoever needs the rows of several candidates finds
them side by side:

    statistics [4, R, C]: mean, var, rstd, shift = -mean rstd
    gradients [T, C]: rows p, q, r, wherever the caller wants each

These are the definitions, in plain PyTorch, and what runs on CPUs; a GPU makes each in one
launch (:mod:`ssfnas.kernels.norm_coefficients`).
"""

from __future__ import annotations

import torch
from torch import Tensor

MEAN, VAR, RSTD, SHIFT = range(4)


def enter_statistics(table: Tensor, start: int, mean: Tensor, var: Tensor, eps: float) -> None:
    """Write K rows of a table of statistics, from row ``start`` on.

    Args:
        table: [4, R, C], float32 or float64; written in place.
        start: the first row.
        mean, var: [K, C].
        eps: added to the variance.
    """
    rows = slice(start, start + len(mean))
    table[MEAN, rows] = mean
    table[VAR, rows] = var
    rstd = torch.rsqrt(var + eps)
    table[RSTD, rows] = rstd
    table[SHIFT, rows] = -mean * rstd


def node_coefficients(
    table: Tensor, rows: Tensor, weights: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """What a node's sum out = sum_k a_k z_k + b and its gradient need.

    Args:
        table: statistics [4, R, C].
        rows: int64 [K], of the node's candidates.
        weights: [W], of the table's dtype.
        places: int64 [K], where each candidate's weight is.

    Returns:
        mean, rstd and a = w rstd, [3, K, C], and b = sum_k w_k shift_k, [C].
    """
    chosen = weights.index_select(0, places)[:, None]
    mean, rstd, shift = (table[kind].index_select(0, rows) for kind in (MEAN, RSTD, SHIFT))
    return torch.stack([mean, rstd, chosen * rstd]), (chosen * shift).sum(0)


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
