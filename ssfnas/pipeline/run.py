"""A finished or interrupted run, read from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ssfnas.errors import RequestError
from ssfnas.evaluation.networks import build_network
from ssfnas.evaluation.predictor import Predictions, predictions
from ssfnas.evaluation.thresholds import chosen_thresholds
from ssfnas.exports.model_folder import is_model_folder
from ssfnas.exports.pretrained import PretrainedNetwork
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.finished_runs import require_finished
from ssfnas.runs.next_commands import SMALL, retrain_command
from ssfnas.runs.run_directory import RunDirectory
from ssfnas.runs.run_files import CONFIG_FILE, EVALUATION_FILE, METRICS_FILE, RunFiles
from ssfnas.spaces import Genotype

_LINEAR_BIAS = "auxiliary_head.classifier.bias"


class Run(RunFiles):
    """What a search or a retraining wrote; nothing in it is unpickled or executed.

    The properties below read their file each time, and refuse one that is absent.

    Args:
        path: the run directory.

    Raises:
        RequestError: it holds no run, or its config is damaged.

    Attributes:
        path: the run directory.
        command: ``"search"`` or ``"retrain"``.
        config: the resolved config.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.config: Any = self.read_config()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.command})"

    @property
    def directory(self) -> RunDirectory:
        """The run's folder, to add files to."""
        return RunDirectory(self.path, self.command)

    @property
    def genotype(self) -> Genotype:
        """The genotype that was found, or trained."""
        return Genotype.load(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict an epoch, as logged; empty before the first."""
        entries, whole = self.read_metrics()
        if not whole:
            raise RequestError(
                f"{self.path / METRICS_FILE} is damaged: its last line is incomplete, as a killed "
                "run leaves it; --resume goes on from the last checkpoint and mends it"
            )
        return entries

    @property
    def alphas(self) -> dict[str, np.ndarray]:
        """``alphas.npz``: ``normal`` and ``reduce`` [epochs + 1, E, O], and their weights."""
        return self.read_alphas()

    @property
    def evaluation(self) -> dict[str, Any]:
        """The content of ``evaluation.json``."""
        return self.read_json(EVALUATION_FILE)

    @property
    def data_card(self) -> DataCard:
        """What the network has to know of the data it was trained on."""
        return DataCard.from_dict(self.read_json("data.json"))

    def weights_file(self, which: str) -> Path:
        """Where the run keeps its ``"last"``, ``"best"`` or ``"ema"`` weights."""
        return self.path / (
            "model.safetensors" if which == "last" else f"model_{which}.safetensors"
        )

    def network(self, which: str = "last") -> nn.Module:
        """The trained network in evaluation mode, on the CPU.

        Args:
            which: ``"last"`` weights, the ``"best"`` by the validation part, or the ``"ema"``.

        Raises:
            RequestError: the run is a search, is not finished, or kept no such weights.
        """
        file = self.require_network(which)
        card = self.data_card
        net = build_network(
            self.config,
            self.genotype if self.config.model == "derived" else None,
            num_classes=len(card.class_names),
            in_channels=card.in_channels,
            image_size=card.image_size,
        )
        try:
            with safe_open(file, framework="pt"):
                pass
            weights = load_file(file)
            if _LINEAR_BIAS in weights and _LINEAR_BIAS not in net.state_dict():
                # Of a run whose auxiliary head was not yet one of cosines; it only helped training.
                net.register_module("auxiliary_head", None)
                weights = {k: w for k, w in weights.items() if not k.startswith("auxiliary_head.")}
            net.load_state_dict(weights)
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise RequestError(f"{file} is damaged, or another network's: {first}") from None
        return net.eval()

    def require_network(self, which: str = "last") -> Path:
        """The file of the weights that :meth:`network` reads.

        Raises:
            RequestError: the run is a search, is not finished, or kept no such weights; says what
                to do.
        """
        if self.command != "retrain":
            raise RequestError(
                f"{self.path} is a search: only a retraining has a trained network: train what it "
                f"found with {self._retrain_command()}"
            )
        file = self.weights_file(which)
        if file.is_file():
            return file
        require_finished(self.path, f"--run {self.path}")
        reasons = {
            "last": "though the run has finished: it was removed",
            "best": "the run keeps no best weights, as one without a validation part",
            "ema": "the run keeps no average of its weights, as one without --ema",
        }
        raise RequestError(f"{file} is missing: {reasons.get(which, 'no such weights')}")

    def _retrain_command(self) -> str:
        # A search that has only begun may not have described its images.
        card = self.data_card if (self.path / "data.json").is_file() else None
        asked = card is None or card.original_size is None
        return retrain_command(self.config, self.path, preset=SMALL, size_was_asked_for=asked)

    def predict(
        self,
        images: Any,
        *,
        which: str = "last",
        device: str = "auto",
        batch_size: int = 256,
        workers: int = 4,
    ) -> Predictions:
        """What the trained network says of new images, of any size, gray or colored.

        Args:
            images: a path (an image file, a folder of images, an ``.npz`` file), an image of
                Pillow, an array or tensor [N, H, W] or [N, H, W, C] with 1 or 3 channels, uint8 or
                deeper; or a list of paths, images and arrays [H, W] or [H, W, C].
            which: ``"last"`` weights, the ``"best"`` by the validation part, or the ``"ema"``.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            batch_size: images a pass at most.
            workers: processes that decode image files, at most one a core.

        Returns:
            probabilities [N, C] with the names of images and classes, all in memory; the command
            ``python -m ssfnas.predict`` is for more.

        Raises:
            RequestError: see :meth:`network`; images that are not there or cannot be read.
        """
        card = self.data_card
        return predictions(
            self.network(which),
            card,
            images,
            background=self.config.background,
            thresholds=chosen_thresholds(self, which) if card.multi_label else None,
            device=device,
            batch_size=batch_size,
            workers=workers,
        )


def load(path: str | Path) -> Run | PretrainedNetwork:
    """What a folder holds: a run, or a network that was exported for timm and the Hub.

    Both have ``network()``, ``predict(images)``, ``class_names`` and ``data_card``.
    """
    folder = Path(path)
    if is_model_folder(folder) and not (folder / CONFIG_FILE).is_file():
        return PretrainedNetwork.from_folder(folder)
    return Run(path)
