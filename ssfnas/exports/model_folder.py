"""A network as a folder of ``config.json`` and ``model.safetensors``, timm's and the Hub's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from ssfnas.atomic_files import write_atomically, write_problem
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import classifier_of
from ssfnas.exports.architecture import ARCHITECTURE, build
from ssfnas.exports.network_card import NetworkCard
from ssfnas.runs.run_files import json_object

CONFIG_NAME, WEIGHTS_NAME = FILES = ("config.json", "model.safetensors")
OWN_KEY = "ssfnas"
"""Where config.json keeps what timm has no name for."""

# Of a model's pretrained_cfg in timm: names of layers, which stay true whatever it was trained on.
_KEPT = ("pool_size", "first_conv", "classifier")


def is_model_folder(folder: Path) -> bool:
    """Whether both files are there."""
    return all((folder / name).is_file() for name in FILES)


@dataclass(frozen=True)
class ModelFolder:
    """What such a folder holds.

    Attributes:
        architecture: timm's name.
        model_args: that rebuild it, besides the number of classes.
        num_features: of what comes before the classifier.
        layers: timm's names of the first convolution and of the classifier.
        card: of the network.
        weights: by name.
    """

    architecture: str
    model_args: dict[str, Any]
    num_features: int
    layers: dict[str, Any]
    card: NetworkCard
    weights: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, net: nn.Module, architecture: str, model_args: dict[str, Any], card: NetworkCard
    ) -> ModelFolder:
        """The folder of a network in memory.

        Raises:
            RequestError: it has another number of outputs than the card has classes.
        """
        classes, outputs = len(card.data.class_names), getattr(net, "num_classes", None)
        if outputs not in (None, classes):
            raise RequestError(
                f"the network has {outputs} outputs and its card the names of {classes} classes: "
                "save a network with other classes by torch or timm"
            )
        layers = {name: getattr(net, "pretrained_cfg", {}).get(name) for name in _KEPT}
        classifier = classifier_of(net)
        names = {module: name for name, module in net.named_modules()}
        layers["classifier"] = names.get(classifier) or layers["classifier"]
        if architecture == ARCHITECTURE and layers["first_conv"] is None:
            layers["first_conv"] = next(
                name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)
            )
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()
        }
        features = int(getattr(net, "num_features"))  # noqa: B009  (timm's, unknown to nn.Module)
        return cls(architecture, model_args, features, layers, card, weights)

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        data = self.card.data
        return {
            "architecture": self.architecture,
            "num_classes": len(data.class_names),
            "num_features": self.num_features,
            "pretrained_cfg": {
                "input_size": list(self.card.input_size),
                "fixed_input_size": False,
                "interpolation": "bilinear",
                "crop_pct": 1.0,
                "crop_mode": "center",
                "mean": list(data.mean),
                "std": list(data.std),
                "num_classes": len(data.class_names),
                "label_names": list(data.class_names),
                **self.layers,
            },
            "model_args": self.model_args,
            OWN_KEY: self.card.to_dict(),
        }

    def write(self, folder: Path) -> None:
        """Write both files, each whole or not at all.

        Raises:
            RequestError: the disk refuses.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_problem(error, folder) from error
        write_atomically(folder / WEIGHTS_NAME, save(dict(self.weights), {"format": "pt"}))
        text = json.dumps(self.config(), indent=2, ensure_ascii=False)
        write_atomically(folder / CONFIG_NAME, f"{text}\n".encode())

    @classmethod
    def read(cls, folder: Path) -> ModelFolder:
        """What :meth:`write` wrote.

        Raises:
            RequestError: a file is missing or damaged, or was not written by ssfnas.
        """
        file = folder / CONFIG_NAME
        try:
            values = json_object(file.read_bytes())
            if OWN_KEY not in values:
                raise RequestError("it is not of a network of ssfnas")
            own = NetworkCard.from_dict(values[OWN_KEY])
            pretrained = values["pretrained_cfg"]
            layers = {name: pretrained.get(name) for name in _KEPT}
            parts = values["architecture"], values["model_args"], values["num_features"]
        except OSError as error:
            raise RequestError(f"cannot read {file}: {error.strerror or error}") from None
        except (RequestError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{file} cannot be used: {error}") from None
        file = folder / WEIGHTS_NAME
        try:
            weights = load(file.read_bytes())
        except OSError as error:
            raise RequestError(f"cannot read {file}: {error.strerror or error}") from None
        except Exception as error:  # safetensors has an error of its own, hidden from Python
            raise RequestError(f"{file} is damaged: {error}") from None
        return cls(*parts, layers, own, weights)

    def network(self) -> nn.Module:
        """The network in evaluation mode, on the CPU.

        Raises:
            RequestError: it cannot be built, as where an operation of a plugin's is not registered,
                or its weights are another's.
        """
        classes = len(self.card.data.class_names)
        try:
            if self.architecture == ARCHITECTURE:
                net = build(classes, **self.model_args)
            else:
                import timm

                net = timm.create_model(self.architecture, num_classes=classes, **self.model_args)
            net.load_state_dict(dict(self.weights))
        except RequestError as error:
            raise RequestError(
                f"{error}; where a plugin registers it, import that file first"
            ) from None
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise RequestError(f"the weights are another network's: {first}") from None
        return net.eval()
