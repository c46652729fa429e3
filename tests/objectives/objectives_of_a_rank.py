"""One process of a gloo group: objectives on its rows of a batch.

``python objectives_of_a_rank.py RANK SIZE MEETING_FILE RESULT``
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn

from ssfnas.data import Batch
from ssfnas.objectives import draw_mixture, make_search_objective, mixed_barlow_twins
from ssfnas.spaces import BatchNorm2d, synchronize_batchnorm

IMAGES, CLASSES = 8, 3


def draw(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class TinyNet(nn.Module):
    """A network with the names that objectives ask for."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = BatchNorm2d(4)
        self.classifier = nn.Linear(4, CLASSES)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(draw(*parameter.shape, seed=50 + number))

    def forward_features(self, images):
        return self.norm(self.convolution(images)).tanh()

    def forward_head(self, features, pre_logits=False):
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.classifier(pooled)

    def get_classifier(self):
        return self.classifier

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


def batch(share: slice, *, views: int = 2, multi_label: bool = False) -> Batch:
    images = tuple(draw(IMAGES, 2, 5, 5, seed=k)[share] for k in range(views))
    labels = torch.arange(IMAGES) % CLASSES
    if multi_label:
        labels = (draw(IMAGES, CLASSES, seed=9) > 0).float()
    return Batch(images, labels[share], torch.arange(IMAGES)[share])


def objective(name: str, group: dist.ProcessGroup | None = None, **changes):
    options = {
        "num_features": 4,
        "num_classes": CLASSES,
        "multi_label": False,
        "projector": (6, 5),
        "lambd": 0.1,
        "mu": 0.7,
        "group": group,
        "generator": torch.Generator().manual_seed(3),
        **changes,
    }
    return make_search_objective(name, **options).double()


def run(name: str, share: slice, group: dist.ProcessGroup | None) -> dict[str, torch.Tensor]:
    """The loss and all gradients of a search objective, or of the mixed term."""
    torch.set_default_dtype(torch.float64)
    net = TinyNet().double()
    synchronize_batchnorm(net, group)
    module = objective("ssl" if name == "mixed" else name, group)
    if name == "mixed":
        views = batch(share).views

        def embed(images):
            return module.projector(net.forward_head(net.forward_features(images), pre_logits=True))

        embeddings = [embed(view) for view in views]
        size = 1 if group is None else group.size()
        mixture = draw_mixture(4, size * len(views[0]))
        loss = mixed_barlow_twins(embed, views, embeddings, mixture, lambd=0.1, group=group)
    else:
        loss = module.terms(net, batch(share))["loss"]
    parameters = [*net.parameters(), *module.parameters()]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = [
        torch.zeros(parameter.numel()) if gradient is None else gradient.flatten()
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    return {"loss": loss.detach(), "gradient": torch.cat(flat)}


def main(rank: int, size: int, meeting: str, result: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    rows = IMAGES // size
    share = slice(rank * rows, (rank + 1) * rows)
    names = ("supervised", "ssl", "joint", "mixed")
    torch.save({name: run(name, share, dist.group.WORLD) for name in names}, result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
