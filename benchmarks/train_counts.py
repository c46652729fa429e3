"""What a training step has to multiply and add, and how fast that can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from benchmarks.timing import Ceilings

DEPTHWISE = 30e9
"""Operations a second of depthwise filters on one core of a CPU: stated, not measured.

Two fifths of the 77e9 that a loop over one 3x3 filter reached on a core of a Xeon with AVX2 (108e9
with AVX-512) while images and results stayed in its first cache, which in a network they do not."""


class Products(NamedTuple):
    """Multiply-adds of one image in a forward pass.

    Attributes:
        pointwise: of 1x1 convolutions.
        depthwise: of convolutions with a filter for each channel.
        other: of the stem and the classifiers.
    """

    pointwise: int
    depthwise: int
    other: int

    def seconds(self, times: int, reached: Ceilings, cores: int | None) -> float:
        """That ``times`` as many take at these speeds.

        Args:
            times: images, and passes over each.
            reached: whose matrix product is the speed of all but depthwise filters.
            cores: that share depthwise filters; None: a GPU, where they are as fast as all else.
        """
        depthwise = reached.matmul if cores is None else cores * DEPTHWISE
        as_matrices = (self.pointwise + self.other) / reached.matmul
        return 2 * times * (as_matrices + self.depthwise / depthwise)


def products(net: nn.Module, run: Callable[[], object], images: int) -> Products:
    """Count them in the modules that ``run`` calls forward.

    Args:
        net: a network in its textbook form.
        run: at least a forward pass of it.
        images: that ``run`` passes through it.
    """
    counted: Counter[str] = Counter()

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        kind = "other"
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels > 1
            pointwise = module.groups == 1 and module.kernel_size == (1, 1)
            kind = "depthwise" if depthwise else "pointwise" if pointwise else "other"
        counted[kind] += output.numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(count)
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return Products(**{kind: counted[kind] // images for kind in Products._fields})
