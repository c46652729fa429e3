"""What a search minimizes: labels, Barlow Twins, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssfnas.data import Batch
from ssfnas.declarations.objectives import OBJECTIVES
from ssfnas.objectives.barlow_twins import BarlowTwins
from ssfnas.objectives.classification import CrossEntropy
from ssfnas.objectives.multi_label import MultiLabelLoss
from ssfnas.objectives.projector import Projector


class Network(Protocol):
    """What objectives ask of a network; timm's names."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [N, C] of images [N, channels, H, W]."""

    def forward_features(self, images: Tensor) -> Tensor:
        """Features [N, F, h, w]."""

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [N, C]; with ``pre_logits`` the pooled features [N, F] that they are made of."""

    def get_classifier(self) -> nn.Module:
        """The layer from pooled features to logits."""


def pooled_features(net: Network, batch: Batch) -> list[Tensor]:
    """Pooled features [N, F] of each view, which is a forward pass of its own."""
    return [net.forward_head(net.forward_features(view), pre_logits=True) for view in batch.views]


class SearchObjective(nn.Module):
    """An objective, with the parameters that only it needs.

    Attributes:
        views: name of the views that its batches are made of.
    """

    views: str

    def terms(self, net: Network, batch: Batch) -> dict[str, Tensor]:
        """Scalars of a batch: ``"loss"``, which is minimized, and detached parts of it."""
        raise NotImplementedError

    def set_group(self, group: dist.ProcessGroup | None) -> None:
        """Take the batches of these processes for one batch; None: that of this one alone."""


class Supervised(SearchObjective):
    """Cross-entropy on the natural distribution; of each label where an image has several.

    Args:
        multi_label: whether images have several labels.
        facts: what other objectives are built of.
    """

    views = "crop_flip"

    def __init__(self, *, multi_label: bool, **facts: Any) -> None:
        super().__init__()
        self.criterion: nn.Module = MultiLabelLoss() if multi_label else CrossEntropy()

    def terms(self, net: Network, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``cross_entropy``, the same."""
        loss = self.criterion(net(batch.views[0]), batch.labels)
        return {"loss": loss, "cross_entropy": loss.detach()}


class SelfSupervised(SearchObjective):
    """Barlow Twins divided by its width D, without any label (SSF-NAS).

    Divided by D it starts near 1, so that the zero-one loss keeps its weight beside it. Each view
    is a forward pass of its own, with its own batch statistics.

    Args:
        num_features: of the pooled features.
        projector: widths of the projector's layers.
        lambd: weight of the off-diagonal terms.
        group: processes whose batches are one batch.
        generator: of the projector's initial draws.
        facts: what other objectives are built of.
    """

    views = "barlow_twins"

    def __init__(
        self,
        *,
        num_features: int,
        projector: Sequence[int],
        lambd: float,
        group: dist.ProcessGroup | None,
        generator: torch.Generator | None,
        **facts: Any,
    ) -> None:
        super().__init__()
        self.projector = Projector(num_features, projector, group=group, generator=generator)
        self.criterion = BarlowTwins(lambd, scale=1.0 / projector[-1], group=group)

    def set_group(self, group: dist.ProcessGroup | None) -> None:
        """Take the batches of these processes for one batch; None: that of this one alone."""
        self.projector.set_group(group)
        self.criterion.group = group

    def terms(self, net: Network, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``barlow_twins``, the same."""
        loss = self.criterion(*map(self.projector, pooled_features(net, batch)))
        return {"loss": loss, "barlow_twins": loss.detach()}


class Joint(SelfSupervised):
    """Mean cross-entropy of both views + mu * Barlow Twins / D.

    Args:
        mu: weight of Barlow Twins.
        multi_label: whether images have several labels.
        facts: see :class:`SelfSupervised`.
    """

    def __init__(self, *, mu: float, multi_label: bool, **facts: Any) -> None:
        super().__init__(**facts)
        self.mu = mu
        self.classification: nn.Module = MultiLabelLoss() if multi_label else CrossEntropy()

    def terms(self, net: Network, batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``cross_entropy`` and ``barlow_twins`` (without mu)."""
        views = pooled_features(net, batch)
        logits = map(net.get_classifier(), views)
        entropy = torch.stack([self.classification(z, batch.labels) for z in logits]).mean()
        twins = self.criterion(*map(self.projector, views))
        return {
            "loss": entropy + self.mu * twins,
            "cross_entropy": entropy.detach(),
            "barlow_twins": twins.detach(),
        }


def make_search_objective(
    name: str,
    *,
    num_features: int,
    num_classes: int,
    multi_label: bool,
    group: dist.ProcessGroup | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> SearchObjective:
    """The objective of that name.

    What builds it is called by keyword, with all that stands here by name and those of its own
    options: the values given, else the defaults.

    Args:
        name: of the registry :data:`~ssfnas.declarations.objectives.OBJECTIVES`.
        num_features: of the network's pooled features.
        num_classes, multi_label: of the data.
        group: processes whose batches are one batch.
        generator: of initial draws.
        options: of objectives.

    Raises:
        RequestError: there is no such objective.
    """
    return OBJECTIVES.build(
        name,
        options,
        num_features=num_features,
        num_classes=num_classes,
        multi_label=multi_label,
        group=group,
        generator=generator,
    )
