"""The network that a retraining trains: derived from a genotype, or one of timm's."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ssfnas.config import RetrainConfig
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import classifier_of, features_of
from ssfnas.layers.initialization import initial_draws
from ssfnas.objectives import LOSSES, CosineClassifier
from ssfnas.seeding import derive_seed, generator
from ssfnas.spaces import NETWORKS, Genotype, ReferenceDerivedNetwork


def build_network(
    config: RetrainConfig,
    genotype: Genotype | None,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
) -> nn.Module:
    """A network with timm's ``forward_features``, ``forward_head`` and ``get_classifier``.

    Args:
        config: ``model``, ``network``, ``channels``, ``layers``, ``auxiliary``, ``loss``,
            ``scale`` and ``seed`` count.
        genotype: what ``derived`` is derived from, and for it never None.
        num_classes, in_channels, image_size: of the data; pixels (height, width).

    Raises:
        RequestError: an unknown timm model, or one that cannot take images of this size.
    """
    if config.model == "derived":
        assert genotype is not None
        net: nn.Module = NETWORKS[config.network](
            genotype,
            num_classes,
            in_channels=in_channels,
            channels=config.channels,
            layers=config.layers,
            auxiliary=config.auxiliary > 0,
            drop_path=config.drop_path,
            image_size=max(image_size),
            generator=generator(config.seed, "network"),
        )
    else:
        net = timm_model(config, num_classes, in_channels, image_size)[0]
    if LOSSES.get(config.loss).wants_cosines:

        def cosines(features: int, name: str) -> CosineClassifier:
            return CosineClassifier(
                features, num_classes, derive_seed(config.seed, name), config.scale
            )

        replace_classifier(net, cosines(features_of(net), "classifier"))
        if isinstance(net, ReferenceDerivedNetwork) and (head := net.auxiliary_head) is not None:
            head.classifier = cosines(head.num_features, "auxiliary classifier")
    return net


def timm_model(
    config: RetrainConfig, num_classes: int, in_channels: int, image_size: tuple[int, int]
) -> tuple[nn.Module, str, dict[str, Any]]:
    """The model of timm's that ``config.model`` names, timm's name of it, and what it was given.

    The last are the arguments besides classes and channels.

    Raises:
        RequestError: as :func:`build_network` does.
    """
    import timm

    kind, _, name = config.model.partition(":")
    if kind != "timm" or not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3] if name else []
        hint = f" (close: {', '.join(close)})" if close else ""
        raise RequestError(
            f"--model '{config.model}' is not known{hint}: it is derived, or timm:NAME with a "
            "model of timm such as timm:resnet18"
        )
    problem: Exception | None = None
    # Some models take the size as an argument, some would refuse it.
    sizes: tuple[dict[str, Any], ...] = ({}, {"img_size": image_size})
    for more in sizes:
        try:
            with initial_draws(generator(config.seed, "network")):
                net = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **more)
                _try_forward(net, in_channels, image_size)
        except Exception as error:
            problem = problem or error
        else:
            return net, name, more
    raise RequestError(
        f"--model {config.model} cannot take images of {image_size[0]}x{image_size[1]} pixels with "
        f"{in_channels} channel(s): {problem}; --image-size resizes"
    ) from problem


def _try_forward(net: nn.Module, in_channels: int, image_size: tuple[int, int]) -> None:
    state = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.eval()
        net(torch.zeros(1, in_channels, *image_size))
    for name, buffer in net.named_buffers():
        buffer.copy_(state[name])
    net.train()


def replace_classifier(net: nn.Module, classifier: nn.Module) -> None:
    """Put ``classifier`` in the last layer's place."""
    old = classifier_of(net)
    for module in net.modules():
        for child_name, child in module.named_children():
            if child is old:
                setattr(module, child_name, classifier)
                return
    raise RequestError(f"{type(net).__name__} has no classifier that can be replaced")


def logits_of(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """The main head's logits, whether or not there is an auxiliary head's beside them."""
    return output[0] if isinstance(output, tuple) else output
