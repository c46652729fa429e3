"""A network from an exported folder, or from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from ssfnas.evaluation.predictor import Predictions, predictions
from ssfnas.exports.model_folder import FILES, ModelFolder
from ssfnas.exports.network_card import NetworkCard
from ssfnas.runs.data_card import DataCard


class PretrainedNetwork(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="ssfnas",
    tags=["image-classification", "long-tailed", "timm"],
):
    """A trained network with what it has to know of its data.

    ``PretrainedNetwork.from_pretrained(folder or Hub id)`` reads one, ``save_pretrained(folder)``
    and ``push_to_hub(id)`` write it: with the weights that it has then, and a README.

    Args:
        folder: what to make it of.

    Attributes:
        net: the network: normalized images [N, C, H, W] -> logits [N, classes].
        card: what is known of it.
    """

    def __init__(self, folder: ModelFolder) -> None:
        super().__init__()
        self._folder = folder
        self.net = folder.network()
        self.card: NetworkCard = folder.card
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], normalized -> logits [N, classes]."""
        logits: Tensor = self.net(images)
        return logits

    def network(self) -> nn.Module:
        """The network itself in evaluation mode, as a :class:`~ssfnas.Run` gives it."""
        return self.net.eval()

    def predict(
        self, images: Any, *, device: str = "auto", batch_size: int = 256, workers: int = 4
    ) -> Predictions:
        """What the network says of new images, of any size, gray or colored.

        It is left in evaluation mode, on the device.

        Args:
            images: paths, images of Pillow, arrays; see :meth:`ssfnas.Run.predict`.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            batch_size: images a pass at most.
            workers: processes that decode image files, at most one a core.

        Raises:
            RequestError: images that are not there or cannot be read.
        """
        chosen = self.card.thresholds
        logits = None if chosen is None else torch.tensor(chosen, dtype=torch.float64).logit()
        return predictions(
            self.network(),
            self.data_card,
            images,
            background=self.card.background,
            thresholds=None if logits is None else logits.tolist(),
            device=device,
            batch_size=batch_size,
            workers=workers,
        )

    @property
    def data_card(self) -> DataCard:
        """What the network has to know of the data it was trained on."""
        return self.card.data

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order."""
        return self.card.data.class_names

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """The network of a folder that ``python -m ssfnas.export --format timm`` wrote.

        Raises:
            RequestError: a file is missing or damaged, or an operation is not registered.
        """
        return cls(ModelFolder.read(Path(path)))

    def _save_pretrained(self, save_directory: Path) -> None:
        old = self._folder
        ModelFolder.of(self.net, old.architecture, old.model_args, old.card).write(save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> Self:
        if Path(model_id).is_dir():
            return cls.from_folder(model_id)
        places = [
            hf_hub_download(
                model_id,
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            for name in FILES
        ]
        return cls.from_folder(Path(places[0]).parent)
