"""What supernets and derived networks have in common: stem, head, and the check of sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ssfnas.errors import RequestError
from ssfnas.layers.normalization import BatchNorm2d

LARGEST_WITHOUT_STRIDE = 64


class CellNetwork(nn.Module, ABC):
    """A stem, cells, and a linear classifier of their pooled output; methods are named as timm's.

    Attributes:
        num_features: channels of :meth:`forward_features`.
    """

    classifier: nn.Module
    num_features: int

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> the last cell's output [N, num_features, h, w]."""

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features [N, num_features, h, w] -> logits [N, num_classes].

        Args:
            features: what :meth:`forward_features` gives.
            pre_logits: stop at the pooled features [N, num_features].
        """
        pooled = features.mean(dim=(2, 3))
        if pre_logits:
            return pooled
        logits: Tensor = self.classifier(pooled)
        return logits

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    @property
    def num_classes(self) -> int:
        """Logits; 0 after ``reset_classifier(0)``."""
        weight = getattr(self.classifier, "weight", None)
        return 0 if weight is None else len(weight)

    @property
    def head_hidden_size(self) -> int:
        """What the classifier sees of an image."""
        return self.num_features

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new linear classifier in the place of the last layer; 0: none."""
        weight = next(self.parameters())
        self.classifier = (
            nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
            if num_classes
            else nn.Identity()
        )


def longer_side(image_size: int | tuple[int, int]) -> int:
    """Pixels of the longer side, which decides the strides of the stem."""
    return image_size if isinstance(image_size, int) else max(image_size)


def stem_strides(image_size: int) -> list[int]:
    """Strides of the stem's convolutions: larger images are halved until at most 64 are left."""
    halvings = 0
    while image_size > LARGEST_WITHOUT_STRIDE:
        image_size = -(-image_size // 2)
        halvings += 1
    return [2] * halvings or [1]


def make_stem(
    in_channels: int, channels: int, image_size: int = LARGEST_WITHOUT_STRIDE
) -> nn.Sequential:
    """3x3 convolution and BatchNorm, several of them with ReLU between for images above 128.

    Args:
        in_channels: of the images.
        channels: of the result.
        image_size: pixels of the longer side; see :func:`stem_strides`.
    """
    layers: list[nn.Module] = []
    inputs = in_channels
    for stride in stem_strides(image_size):
        layers += [nn.ReLU()] if layers else []
        layers += [
            nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False),
            BatchNorm2d(channels),
        ]
        inputs = channels
    return nn.Sequential(*layers)


def check_sizes(kind: str, **sizes: int) -> None:
    """Raise :class:`RequestError` where a number of a network is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise RequestError(f"{name} is {size}: a {kind} needs at least 1")
