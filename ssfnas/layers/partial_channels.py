"""What a cell's edges do with the channels that no operation sees (arXiv 1907.05737)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ssfnas.errors import RequestError


def check_partial_channels(share: int, channels: int) -> None:
    """Accept a share K of a network's channels, or say which would be right.

    Raises:
        RequestError: the channels cannot be divided by it.
    """
    if channels % share:
        *others, last = (str(k) for k in range(1, channels + 1) if channels % k == 0)
        known = " or ".join([", ".join(others), last] if others else [last])
        raise RequestError(
            f"partial_channels is {share}: channels {channels} cannot be divided by it: use {known}"
        )


def bypass(x: Tensor, stride: int) -> Tensor:
    """[N, R, H, W] -> [N, R, ceil(H / stride), ceil(W / stride)], without weights.

    The tensor itself at stride 1; at stride 2 the maximum of 2x2 pixels, of fewer where an odd side
    ends.
    """
    return x if stride == 1 else F.max_pool2d(x, 2, stride=stride, ceil_mode=True)


def shuffle_channels(x: Tensor, share: int) -> Tensor:
    """[N, C, H, W] -> [N, C, H, W] with channel (j mod share) C / share + j div share at place j.

    So each of the ``share`` groups of C / share channels is spread over all.
    """
    return x.unflatten(1, (share, -1)).transpose(1, 2).flatten(1, 2)
